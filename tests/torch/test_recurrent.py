"""Recurrent layers get the updates of a cell written by hand, for one sequence at a time."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lra

BETA, WIDTH, HIDDEN, TIME = 0.3, 4, 5, 6
LENGTHS = torch.tensor([4, 6, 1])


class Cross(Function):
    """z = phi(h), and e = (z - phi(h - beta N d)) / N or its relative form, for one sample."""

    @staticmethod
    def forward(ctx, h, phi, N):
        ctx.save_for_backward(h)
        ctx.phi, ctx.N = phi, N
        return phi(h)

    @staticmethod
    def backward(ctx, d):
        (h,) = ctx.saved_tensors
        s = d.abs().max().clip(1e-33) if ctx.N is None else 1 / ctx.N
        return s * (ctx.phi(h) - ctx.phi(h - BETA * d / s)), None, None


class Multiply(Function):
    """h = z W^T + b, and d = e E."""

    @staticmethod
    def forward(ctx, z, W, E, b):
        ctx.save_for_backward(z, E)
        return z @ W.T + b

    @staticmethod
    def backward(ctx, e):
        z, E = ctx.saved_tensors
        dW = e.T @ z
        return e @ E, dW, dW, e.sum(0)


def step(kind, x, state, weights, N):
    """Run a cell for one sample, (1, features)."""
    (W, E, b), (R, D, c), *projection = weights
    sigmoid, tanh, relu = (
        lambda h, phi=phi: Cross.apply(h, phi, N) for phi in (torch.sigmoid, torch.tanh, torch.relu)
    )
    gates, inner = Multiply.apply(x, W, E, b), Multiply.apply(state[0], R, D, c)
    if kind in ("RNN", "RNN, relu"):
        return ((tanh if kind == "RNN" else relu)(gates + inner),)
    if kind == "GRU":
        (r, z, n), (s, y, m) = gates.chunk(3, 1), inner.chunk(3, 1)
        z = sigmoid(z + y)
        return ((1 - z) * tanh(n + sigmoid(r + s) * m) + z * state[0],)
    i, f, g, o = (gates + inner).chunk(4, 1)
    cell = sigmoid(f) * state[1] + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(cell)
    return Multiply.apply(h, *projection[0]) if projection else h, cell


def run(kind, model, x, N):
    """Run all layers and directions over one sequence, (time, features)."""
    names = dict(model.named_parameters())

    def weight(name, suffix):
        W = names[f"weight_{name}_{suffix}"]
        b = names.get(f"bias_{name}_{suffix}", torch.zeros(()))
        return W, names.get(f"feedback_{name}_{suffix}", W.detach()), b

    last, inputs = [], x.split(1)
    for layer in range(model.num_layers):
        found = []
        for suffix in (f"l{layer}", f"l{layer}_reverse")[: 1 + model.bidirectional]:
            state = [torch.zeros(1, model.proj_size or HIDDEN), torch.zeros(1, HIDDEN)]
            kinds = ("ih", "hh", "hr")[: 2 + bool(model.proj_size)]
            weights, outputs = [weight(name, suffix) for name in kinds], []
            back = suffix.endswith("reverse")
            for z in inputs[::-1] if back else inputs:
                state = step(kind, z, state, weights, N)
                outputs.append(state[0])
            found.append(outputs[::-1] if back else outputs)
            last.append(torch.cat(state, 1))
        inputs = [torch.cat(both, 1) for both in zip(*found, strict=True)]
    return torch.cat(inputs), torch.cat(last)


KINDS = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "RNN, relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
    "LSTM, projected": lambda *a, **k: nn.LSTM(*a, proj_size=3, **k),
}
FORMS = ("time first", "batch first", "packed", "unbatched")


def outputs(model, form, x):
    """Run the layer under test on (batch, time, in): the output and last states per sequence."""
    if form == "packed":
        out, last = model(pack_padded_sequence(x, LENGTHS, True, enforce_sorted=False))
        out = pad_packed_sequence(out, batch_first=True)[0]
    elif form == "unbatched":
        out, last = model(x[0])
        last = [s[:, None] for s in (last if isinstance(last, tuple) else (last,))]
        out, last = out[None], tuple(last)
    else:
        out, last = model(x if form == "batch first" else x.transpose(0, 1))
        out = out if form == "batch first" else out.transpose(0, 1)
    last = torch.cat(last, 2) if isinstance(last, tuple) else last
    lengths = LENGTHS if form == "packed" else [TIME] * len(out)
    return [(o[:n], last[:, i]) for i, (o, n) in enumerate(zip(out, lengths, strict=True))]


def updates(model, results, N):
    """Return the updates for a loss that is a mean over N terms."""
    torch.manual_seed(2)
    model.zero_grad()
    terms = [(out * torch.randn(out.shape)).sum() + last.square().sum() for out, last in results]
    (3 * sum(terms) / N).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("terms", ["batch", "tokens", "sample"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_updates_are_those_of_a_cell_over_time(kind, form, terms):
    build = KINDS[kind]
    model = build(WIDTH, HIDDEN, 2, bidirectional=True, batch_first=form == "batch first")
    x = torch.randn(3, TIME, WIDTH)
    crossing = lra.crossing.TargetDifference(BETA, relative="sample" if terms == "sample" else None)
    rule = lra.Rule(lra.feedback.Learned(), crossing)
    lra.convert(model, rule, loss_terms="tokens" if terms == "tokens" else "batch")
    by_hand = copy.deepcopy(model)
    lengths = {"packed": LENGTHS.tolist(), "unbatched": [TIME]}.get(form, [TIME] * 3)
    N = sum(lengths) if terms == "tokens" else len(lengths)
    found = updates(model, outputs(model, form, x), N)
    divisor = None if terms == "sample" else N
    hand = [run(kind, by_hand, x[i, :n], divisor) for i, n in enumerate(lengths)]
    expected = updates(by_hand, hand, N)
    assert {name for name in found if "feedback" in name} <= expected.keys()
    for name, update in found.items():
        torch.testing.assert_close(update, expected[name], rtol=1e-9, atol=1e-12, msg=name)


class Loop(nn.Module):
    """A cell applied step by step to (time, batch, in)."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, found = None, []
        for z in x:
            state = self.cell(z, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found)


CELLS = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN": nn.RNNCell}


@pytest.mark.parametrize("relative", [None, "unit", "sample", "batch"])
@pytest.mark.parametrize("kind", CELLS)
def test_updates_are_those_of_torchs_cell_step_by_step(kind, relative):
    x = torch.randn(TIME, 3, WIDTH)
    layer, loop = KINDS[kind](WIDTH, HIDDEN, bias=False), Loop(CELLS[kind](WIDTH, HIDDEN, False))
    crossing = lra.crossing.TargetDifference(BETA, relative=relative)
    for model in (layer, loop):
        lra.convert(model, lra.Rule(lra.feedback.Learned(), crossing), example=x)
    state = layer.state_dict()
    loop.cell.load_state_dict({name: state[f"{name}_l0"] for name in loop.cell.state_dict()})
    layer(x)[0].square().mean().backward()
    loop(x).square().mean().backward()
    for name, p in loop.cell.named_parameters():
        torch.testing.assert_close(layer.get_parameter(f"{name}_l0").grad, p.grad)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("kind", CELLS)
def test_dropout_between_layers_is_that_of_the_plain_model(kind, packed):
    plain = KINDS[kind](WIDTH, HIDDEN, 3, dropout=0.5)
    model = lra.convert(copy.deepcopy(plain), lra.LRAE())
    x = torch.randn(TIME, 3, WIDTH)
    x = pack_padded_sequence(x, LENGTHS, enforce_sorted=False) if packed else x
    found = {}
    for mode in (True, False):
        for each in (plain.train(mode), model.train(mode)):
            torch.manual_seed(3)
            found[each, mode] = each(x)[0].data
        torch.testing.assert_close(found[model, mode], found[plain, mode])
    assert not torch.equal(found[model, True], found[model, False])


def test_states_passed_to_the_layer_are_used():
    x, h, c = (torch.randn(*shape) for shape in ((TIME, 3, WIDTH), (2, 3, HIDDEN), (2, 3, HIDDEN)))
    for plain in (nn.LSTM(WIDTH, HIDDEN, 2), nn.GRU(WIDTH, HIDDEN, 2), nn.RNN(WIDTH, HIDDEN, 2)):
        state = (h, c) if isinstance(plain, nn.LSTM) else h
        expected = plain(x, state)
        torch.testing.assert_close(lra.convert(plain, lra.LRAE())(x, state), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler
@torch._dynamo.config.patch(allow_rnn=True)
def test_compiled_layers_count_the_batch_of_each_call():
    model = lra.convert(nn.GRU(WIDTH, HIDDEN), lra.LRAE(BETA))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for batch in (3, 5, 4):
        x, found = torch.randn(2, batch, WIDTH), []
        for run_model in (model, compiled):
            model.zero_grad()
            run_model(x)[0].square().mean().backward()
            found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(found[1], found[0])
