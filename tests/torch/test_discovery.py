"""What function modes do not see, and what no example showed, follows the rule or is refused.

The oracle of a product is a hand-written backward pass with feedback E; the oracle of a checkpoint,
a method or a mapped function is the same code without it.
"""

import copy
import functools
import pickle
import re
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import lra
from lra.torch.layers.sampler import FeedbackSampler

N, WIDTH = 5, 6
FA = lra.FeedbackAlignment()
TARGETS = lra.LRAE(beta=0.3)


class Between(nn.Module):
    """Two layers, with a function of the hidden units and of a weight between them."""

    def __init__(self, use, dtype=torch.double) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH).double(), nn.Linear(WIDTH, 3).double()
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH, dtype=dtype) / 2)
        self.use = use

    def forward(self, x):
        return self.b(self.use(self.a(x), self.w))


def inputs():
    return torch.randn(N, WIDTH, dtype=torch.double)


def updates(model, x, run=None):
    """Return the updates of one step by the names of the parameters."""
    model.zero_grad()
    y = model(x) if run is None else run(model)
    y.square().mean().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


class Fed(torch.autograd.Function):
    """h = z W^T, with d = e E and dW = e^T z: the reference."""

    @staticmethod
    def forward(ctx, z, W, E):
        ctx.save_for_backward(z, E)
        return z @ W.T

    @staticmethod
    def backward(ctx, e):
        z, E = ctx.saved_tensors
        return e @ E, e.T @ z, None


class Sign(torch.autograd.Function):
    """sign(w), straight through."""

    @staticmethod
    def forward(ctx, w):
        return w.sign()

    @staticmethod
    def backward(ctx, e):
        return e


class Product(torch.autograd.Function):
    """x w, in one Function."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, e):
        x, w = ctx.saved_tensors
        return e @ w.T, x.T @ e


class Scaled(torch.autograd.Function):
    """A product of two weights and of a constant that is a tensor."""

    @staticmethod
    def forward(ctx, a, b, scale):
        ctx.save_for_backward(a, b, scale)
        return a @ b * scale

    @staticmethod
    def backward(ctx, e):
        a, b, scale = ctx.saved_tensors
        return scale * e @ b.T, scale * a.T @ e, None


class Spike(torch.autograd.Function):
    """A step, with a surrogate's slope."""

    @staticmethod
    def forward(ctx, h):
        return (h > 0).to(h)

    @staticmethod
    def backward(ctx, e):
        return e


class Soft(torch.autograd.Function):
    """Softmax with its own backward pass: no activation."""

    @staticmethod
    def forward(ctx, h):
        return torch.softmax(h, -1)

    @staticmethod
    def backward(ctx, e):
        return e


class Again(torch.autograd.Function):
    """Run code without a graph, and again with one in the backward pass."""

    @staticmethod
    def forward(ctx, h, run):
        ctx.run = run
        ctx.save_for_backward(h)
        return run(h)

    @staticmethod
    def backward(ctx, e):
        h = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.run(h), e)
        return h.grad, None


def _unscripted(x):
    return x * torch.tanh(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scripted = torch.jit.script(_unscripted)


@torch.library.custom_op("lra_tests::squash", mutates_args=())
def squash(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


@torch.library.custom_op("lra_tests::mix", mutates_args=())
def mix(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


for operator in (squash, mix):
    operator.register_autograd(lambda ctx, e: e, setup_context=lambda ctx, inputs, output: None)


def circulant(w):
    """Return C with h * w = h C^T, the circular convolution."""
    i = torch.arange(WIDTH)
    return w[(i[:, None] - i) % WIDTH]


def convolve(h, w):
    return torch.fft.irfft(torch.fft.rfft(h) * torch.fft.rfft(w[0]), WIDTH)


def _skew(w):
    rows, columns = torch.triu_indices(WIDTH, WIDTH, 1)
    made = torch.zeros(WIDTH, WIDTH, dtype=w.dtype)
    made[rows, columns] = w[rows, columns]
    return made - made.T


WEIGHTS = {
    "autograd Function": (lambda h, w: F.linear(h, Sign.apply(w)), Sign.apply, lambda E: E),
    "Function and scale": (
        lambda h, w: F.linear(h, Sign.apply(w) * w.abs().mean()),
        lambda w: Sign.apply(w) * w.abs().mean(),
        lambda E: E,
    ),
    "TorchScript": (lambda h, w: h @ scripted(w).t(), lambda w: w * torch.tanh(w), lambda E: E.T),
    "product and sum": (lambda h, w: (h[:, None] * w).sum(-1), lambda w: w, lambda E: E),
    "product and sum, weight first": (
        lambda h, w: (w * h.unsqueeze(1)).sum(2),
        lambda w: w,
        lambda E: E,
    ),
    "convolution by Fourier transforms": (
        convolve,
        lambda w: circulant(w[0]),
        lambda E: circulant(E[0]),
    ),
    "polynomial of a weight": (
        lambda h, w: h @ (torch.eye(WIDTH, dtype=w.dtype) + w + w @ w).t(),
        lambda w: torch.eye(WIDTH, dtype=w.dtype) + w + w @ w,
        lambda E: E,
    ),
    "Function with a constant": (
        lambda h, w: F.linear(h, Scaled.apply(w, w, torch.tensor(0.5))),
        lambda w: w @ w * 0.5,
        lambda E: E,
    ),
    "added to a constant": (
        lambda h, w: F.linear(h, torch.eye(WIDTH, dtype=h.dtype).add_(w).add_(w @ w, alpha=2.0)),
        lambda w: torch.eye(WIDTH, dtype=w.dtype) + w + 2 * w @ w,
        lambda E: E,
    ),
    "written into a constant": (
        lambda h, w: F.linear(h, _skew(w)),
        lambda w: w.triu(1) - w.triu(1).T,
        lambda E: E,
    ),
    "a product of three weights": (
        lambda h, w: F.linear(h, w @ w @ w),
        lambda w: w @ w @ w,
        lambda E: E,
    ),
    "copied": (
        lambda h, w: F.linear(h, torch.empty(WIDTH, WIDTH, dtype=h.dtype).copy_(w)),
        lambda w: w,
        lambda E: E,
    ),
    "with noise": (
        lambda h, w: F.linear(h, w + w * (0 * torch.randn(WIDTH, WIDTH, dtype=h.dtype))),
        lambda w: w,
        lambda E: E,
    ),
    "of a row of scales": (
        lambda h, w: F.linear(h, w @ torch.diag(w[0]) @ w),
        lambda w: w @ torch.diag(w[0]) @ w,
        lambda E: E,
    ),
    "masked": (
        lambda h, w: F.linear(h, w.masked_fill(torch.ones(WIDTH, WIDTH).triu(1).bool(), 0.0)),
        torch.tril,
        lambda E: E,
    ),
    "data written into a constant": (
        lambda h, w: F.linear(torch.zeros(N, WIDTH, dtype=h.dtype).copy_(h), w),
        lambda w: w,
        lambda E: E,
    ),
    "torch.vmap": (
        lambda h, w: torch.vmap(lambda row: torch.mv(w, row))(h),
        lambda w: w,
        lambda E: E,
    ),
    "torch.vmap of matmul": (
        lambda h, w: torch.vmap(lambda row: row @ w.t())(h),
        lambda w: w,
        lambda E: E,
    ),
}


@pytest.mark.parametrize(("use", "derive", "view"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_in_any_form_get_feedback(use, derive, view):
    model, x = Between(use), inputs()
    reference = copy.deepcopy(model)
    lra.convert(model, FA, example=x)
    E = next(b for n, b in model.named_buffers() if n.startswith("w_feedback"))
    V = model.b.feedback

    found = updates(model, x)
    h = Fed.apply(reference.a(x), derive(reference.w), view(E))
    y = Fed.apply(h, reference.b.weight, V) + reference.b.bias
    y.square().mean().backward()
    expected = {n: p.grad for n, p in reference.named_parameters()}
    assert_close(found, expected)


def test_products_with_the_raw_input_need_no_feedback():
    """An embedding of numbers reads the input alone, and so does a Function at the bottom."""

    class Bottom(nn.Module):
        def __init__(self, use) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(WIDTH, 3)), nn.Linear(3 * WIDTH, 2)
            self.use = use

        def forward(self, x):
            return self.b(torch.tanh(self.use(x, self.w)))

    x = torch.randn(N, WIDTH)
    for use in (
        lambda x, w: (x[..., None] * w).flatten(1),
        lambda x, w: torch.addcmul(w, x[..., None], w).flatten(1),
        lambda x, w: Product.apply(x, w).repeat(1, WIDTH),
    ):
        model = lra.convert(Bottom(use), lra.KolenPollack(), example=x)
        assert not any(n.startswith("w_") for n, _ in model.named_parameters())


@pytest.mark.parametrize("rule", [FA, lra.MirroredLRA(), lra.SignSymmetry(), TARGETS], ids=str)
def test_complex_weights_work(rule):
    def use(h, w):
        return (torch.fft.fft(h) @ w).real

    model, x = Between(use, torch.cdouble), inputs()
    plain = updates(copy.deepcopy(model), x)
    lra.convert(model, rule, example=x)
    found = updates(model, x)
    assert_close(found["b.weight"], plain["b.weight"])
    E = getattr(model, "w_feedback", None)
    if E is not None:  # its parts are as large as those of W
        parts = torch.view_as_real(E.detach()).square().mean((0, 1)).sqrt()
        of_W = torch.view_as_real(model.w.detach()).square().mean().sqrt()
        assert_close(parts / of_W, torch.ones_like(parts), rtol=0.4, atol=0)
    assert not torch.allclose(found["a.weight"], plain["a.weight"], rtol=1e-3)


def test_the_size_of_complex_weights_has_both_parts():
    assert FeedbackSampler(torch.tensor([[3 + 4j, 5]])).rms == pytest.approx(5)


def test_complex_feedback_equals_that_of_its_real_and_imaginary_parts():
    def real(h, w):
        c = torch.fft.fft(h)
        return c.real @ w[..., 0] - c.imag @ w[..., 1]

    def use(h, w):
        return (torch.fft.fft(h) @ w).real

    x = inputs()
    one, other = Between(use, torch.cdouble), Between(real)
    other.w = nn.Parameter(torch.view_as_real(one.w.detach()).clone())
    other.load_state_dict(
        {n: torch.view_as_real(v) if v.is_complex() else v for n, v in one.state_dict().items()}
    )
    for model in (one, other):
        lra.convert(model, FA, example=x)
    one.w_feedback.copy_(torch.view_as_complex(other.w_feedback))
    one.b.feedback.copy_(other.b.feedback)
    assert_close(updates(one, x)["a.weight"], updates(other, x)["a.weight"])


ACTIVATIONS = {
    "logaddexp": (lambda h: torch.logaddexp(h, torch.zeros(())), None),
    "atan2": (lambda h: torch.atan2(h, torch.ones(())), None),
    "hypot": (lambda h: torch.hypot(h, torch.ones(())), None),
    "lgamma": (lambda h: torch.lgamma(h.abs() + 1), None),
    "erfcx": (torch.special.erfcx, None),
    "i1e": (torch.special.i1e, None),
    "log_ndtr": (torch.special.log_ndtr, None),
    "digamma": (lambda h: torch.digamma(h.abs() + 1), None),
    "custom operator": (squash, torch.tanh),
    "inside torch.vmap": (torch.vmap(lambda row: torch.special.i0e(row)), torch.special.i0e),
}


@pytest.mark.parametrize(("use", "plain"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_elementwise_functions_are_crossed_by_targets(use, plain):

    class Own(nn.Module):
        def forward(self, h):
            return (plain or use)(h)

    x = inputs()
    model = Between(lambda h, w: use(h))
    torch.manual_seed(1)
    rule = lra.Rule(lra.feedback.Transpose(), lra.crossing.TargetDifference(0.5))
    lra.convert(model, rule, loss_terms=N, example=x)
    reference = Between(lambda h, w: reference.act(h))
    reference.act = Own()
    reference.load_state_dict(model.state_dict())
    inner = "abs" in str(use.__code__.co_names) if hasattr(use, "__code__") else False
    lra.convert(reference, rule, loss_terms=N, example=x)
    if inner:  # two activations in one expression against one module: only the outer weights agree
        backprop = copy.deepcopy(lra.restore(reference))
        assert not torch.allclose(updates(model, x)["a.weight"], updates(backprop, x)["a.weight"])
    else:
        assert_close(updates(model, x), updates(reference, x))


REFUSED = {
    "a product in a Function": (Product.apply, FA, "weights: Product with 'w'"),
    "code in a Function": (
        lambda h, w: Again.apply(h, lambda v: v @ w),
        FA,
        "weights: Again with 'w'",
    ),
    "solve": (
        lambda h, w: torch.linalg.solve(w + 9 * torch.eye(WIDTH), h.T).T,
        FA,
        "torch.linalg.solve with 'w'",
    ),
    "cdist": (torch.cdist, FA, "cdist with 'w'"),
    "division": (lambda h, w: (h[:, None] / w).sum(-1), FA, "weights: torch.Tensor.div with 'w'"),
    "multi_dot": (lambda h, w: torch.linalg.multi_dot([h, w, w]), FA, "multi_dot with 'w'"),
    "three operands": (
        lambda h, w: torch.einsum("bi,ij,jk->bk", h, w, w.T),
        FA,
        "einsum with 'w'",
    ),
    "sparse": (
        lambda h, w: torch.sparse.mm(w.to_sparse(), h.T).T,
        FA,
        "sparse_mm with 'w'",
    ),
    "attention over weights": (
        lambda h, w: F.scaled_dot_product_attention(h[None], w[None], w[None])[0],
        FA,
        "scaled_dot_product_attention with 'w'",
    ),
    "a Function of data": (lambda h, w: Soft.apply(h), TARGETS, "unknown: Soft"),
    "a custom operator": (lambda h, w: mix(h), TARGETS, r"unknown: torch.ops.lra_tests.mix"),
    "TorchScript": (lambda h, w: scripted(h), TARGETS, "unknown: .*(TorchScript|outside Python)"),
    "TorchScript inside torch.vmap": (
        lambda h, w: torch.vmap(lambda row: scripted(row))(h),
        TARGETS,
        "unknown: .*(TorchScript|outside Python)",
    ),
    "a choice": (lambda h, w: torch.where(h > 0, h, 0.1 * h), TARGETS, "activation: torch.where"),
    "a maximum": (lambda h, w: torch.maximum(h, 0.1 * h), TARGETS, "activation: torch.maximum"),
    "a mask": (lambda h, w: h * (h > 0), TARGETS, "activation: torch.Tensor.mul"),
    "slopes by a mask": (
        lambda h, w: h * (0.1 + 0.9 * (h > 0).double()),
        TARGETS,
        "activation: torch.Tensor.mul",
    ),
    "a mask made of another": (
        lambda h, w: h * torch.where(h > 0, 1.0, 0.1),
        TARGETS,
        "activation: torch.Tensor.mul",
    ),
    "a mask in another form": (
        lambda h, w: h * (h > 0).double().view(N, WIDTH).clone(),
        TARGETS,
        "activation: torch.Tensor.mul",
    ),
    "a mask in place": (
        lambda h, w: h.clone().mul_((h > 0).double()),
        TARGETS,
        "activation: torch.Tensor.mul_",
    ),
    "a comparison of detached numbers": (
        lambda h, w: torch.where(h.detach() > 0, h, 0.1 * h),
        TARGETS,
        "activation: torch.where",
    ),
    "a complex result": (
        lambda h, w: torch.polar(torch.ones_like(h), h).real,
        TARGETS,
        "activation: torch.polar",
    ),
    "a choice of functions": (
        lambda h, w: torch.where(h > 0, h, torch.exp(h) - 1),
        TARGETS,
        "activation: torch.where",
    ),
    "two arguments": (
        lambda h, w: torch.logaddexp(h, h.flip(1)),
        TARGETS,
        "activation: torch.logaddexp",
    ),
}


@pytest.mark.parametrize(("use", "rule", "name"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_follow_is_refused_by_name(use, rule, name):
    model, x = Between(use), inputs()
    before = updates(model, x)
    with pytest.raises(lra.errors.ConversionError, match=name) as caught:
        lra.convert(model, rule, example=x)
    assert {(r.name, r.type) for r in caught.value.refused} == {("", "Between")}
    assert_close(updates(model, x), before, rtol=0, atol=0)


def _spline(h, g):
    inside = (h > -1) & (h < 1)
    out = torch.zeros_like(h)
    out[inside], out[~inside] = (h * g)[inside], h[~inside]
    return out


CHOICES = {
    "by another activation": lambda h, g: h * (g > 0),
    "by a statistic": lambda h, g: h * (h > h.mean()),
    "of products": lambda h, g: torch.where((h > -1) & (h < 1), h * g, h),
    "of parts": _spline,
    "by the input": lambda h, g: torch.where(torch.ones(N, WIDTH) > 0, h, 0.1 * h),
    "of two activations": lambda h, g: torch.maximum(h, g),
}


@pytest.mark.parametrize("use", CHOICES.values(), ids=CHOICES)
def test_choices_that_are_no_activations_keep_autograds_derivative(use):
    x = inputs()
    model = lra.convert(Between(lambda h, w: use(h, h.flip(1))), TARGETS, example=x)
    assert lra.audit(model, x).clean


class Positions(nn.Module):
    """Attention of learned queries, and of positions that go through a layer of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.p, self.q, self.b = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.u = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x):
        h = self.a(x)
        p = self.p(torch.ones(N, WIDTH).cumsum(0) / N)
        near = (h + self.u) @ p.T
        attended = F.scaled_dot_product_attention(self.q(h)[None], p[None], p[None])[0]
        return self.b(near @ h + attended)


@pytest.mark.parametrize("rule", [FA, TARGETS, lra.SignSymmetry()], ids=str)
def test_the_output_of_a_layer_is_data_even_of_positions(rule):
    x = torch.randn(N, WIDTH)
    model = lra.convert(Positions(), rule, example=x)
    assert lra.coverage(model).full
    assert not any(n.startswith("p_") for n, _ in model.named_buffers())
    updates(model, x)


def test_terms_are_not_counted_in_one_sample_of_a_mapped_function():
    x = inputs()
    mapped, whole = (
        Between(f) for f in (lambda h, w: torch.vmap(torch.sin)(h), lambda h, w: torch.sin(h))
    )
    whole.load_state_dict(mapped.state_dict())
    with pytest.raises(lra.errors.RuleError, match=r"calls sin on one sample inside torch\.vmap"):
        lra.convert(copy.deepcopy(mapped), TARGETS, example=x)
    for model in (mapped, whole):
        lra.convert(model, TARGETS, example=x, loss_terms=N)
    whole.load_state_dict(mapped.state_dict())
    assert_close(updates(mapped, x), updates(whole, x))


def test_torchscript_is_refused_whatever_ran_before():
    x = inputs()
    for _ in range(4):  # the graph of a script changes after its first runs
        with pytest.raises(lra.errors.ConversionError, match=r"TorchScript|outside Python"):
            lra.convert(Between(lambda h, w: scripted(h)), TARGETS, example=x)
        updates(Between(lambda h, w: scripted(h)), x)


def test_the_message_names_the_code_and_not_the_next_layer():
    def use(h, w):
        return torch.vmap(lambda row: Soft.apply(row.tanh()))(h)

    Soft.generate_vmap_rule = True
    Soft.setup_context = staticmethod(lambda ctx, inputs, output: None)
    forward = Soft.forward
    Soft.forward = staticmethod(lambda h: torch.softmax(h, -1))
    try:
        with pytest.raises(lra.errors.ConversionError) as caught:
            lra.convert(Between(use), lra.MirroredLRA(), example=inputs())
    finally:
        Soft.forward = staticmethod(forward)
        del Soft.generate_vmap_rule, Soft.setup_context
    assert all(refusal.name == "" for refusal in caught.value.refused)
    assert "Soft" in str(caught.value)


def test_functions_in_skip_keep_their_backward_pass():
    x = inputs()
    model = lra.convert(Between(lambda h, w: Soft.apply(h)), TARGETS, example=x, skip=(Soft,))
    assert lra.audit(model, x).clean
    e = torch.autograd.grad(model.b(Soft.apply(model.a(x))).square().mean(), model.b.weight)[0]
    assert_close(updates(model, x)["b.weight"], e)
    model = lra.convert(Between(lambda h, w: mix(h)), TARGETS, example=x, skip=mix)
    assert lra.audit(model, x).clean


class Step(nn.Module):
    """The step of `Spike` as a module."""

    def forward(self, h):
        return (h > 0).to(h)


@pytest.mark.parametrize("rule", [TARGETS, lra.MirroredLRA()], ids=str)
def test_registered_functions_are_activations(rule):
    class Registered(Spike):
        pass

    lra.register_activation(Registered)
    x = inputs()
    torch.manual_seed(1)
    model = lra.convert(Between(lambda h, w: Registered.apply(h)), rule, example=x)
    torch.manual_seed(1)
    reference = Between(lambda h, w: reference.act(h))
    reference.act = Step()
    lra.convert(reference, rule, example=x)
    reference.load_state_dict(model.state_dict())
    assert_close(updates(model, x), updates(reference, x))


def test_registered_operators_and_surrogates_of_functions():
    class Own(Spike):
        pass

    lra.register_activation(Own, mix, surrogate=lra.crossing.TanhSurrogate())
    x = inputs()
    for use in (lambda h, w: Own.apply(h), lambda h, w: mix(h)):
        model = lra.convert(Between(use), TARGETS, example=x)
        h = model.a(x).detach()
        y = use(h, None).requires_grad_()
        d = torch.autograd.grad(F.linear(y, model.b.weight, model.b.bias).square().mean(), y)[0]
        e = 2 * (model.b(use(h, None))).detach() / (N * 3) @ model.b.feedback
        del d
        expected = (torch.tanh(h) - torch.tanh(h - 0.3 * N * e)) / N
        assert_close(updates(model, x)["a.bias"], expected.sum(0))
    lra.torch.registry.ACTIVATION_FUNCTIONS = {
        k: v for k, v in lra.torch.registry.ACTIVATION_FUNCTIONS.items() if "mix" not in str(k)
    }
    with pytest.raises(lra.errors.OptionError, match="custom operators, got <function"):
        lra.register_activation(lambda h: h)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_feedback_gets_the_update_of_its_weight_after_detached_states(kind):
    """The first step of a sequence reads a state without a gradient, and W learns from it."""
    model, x = kind(4, 3), torch.randn(5, 2, 4)
    lra.convert(model, lra.LRAE(), example=x)
    state = None
    for _ in range(2):
        model.zero_grad()
        y, state = model(x, state)
        y.square().mean().backward()
        state = tuple(s.detach() for s in state) if kind is nn.LSTM else state.detach()
        assert_close(model.feedback_hh_l0.grad, model.weight_hh_l0.grad)


def test_embeddings_looked_up_are_data():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.b = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 3)
            self.w = nn.Parameter(torch.randn(WIDTH, WIDTH))

        def forward(self, x):
            return self.b(torch.tanh(self.embed(x) @ self.w))

    model, x = Words(), torch.randint(7, (N,))
    plain = updates(model, x)
    lra.convert(model, FA, example=x)
    assert not torch.allclose(updates(model, x)["embed.weight"], plain["embed.weight"])


# ------------------------------------------------------------- what the examples did not show


class Branches(nn.Module):
    """A branch by a flag, an expert by an argument, and a head in training only."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.kind, self.deep = kind, False
        self.a, self.act, self.b = nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3)
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.experts = nn.ParameterList([*torch.randn(2, WIDTH, WIDTH)])
        self.experts_of = nn.ParameterDict({"all": torch.randn(2, WIDTH, WIDTH)})
        self.embed = nn.Embedding(3, WIDTH)

    def forward(self, x, expert=0):
        h = self.act(self.a(x))
        if self.kind == "flag" and self.deep:
            h = torch.sin(h @ self.w)
        if self.kind == "expert":
            h = h @ self.experts[expert]
        if self.kind == "router":
            rows = self.experts_of["all"][h[:, :2].argmax(1)]
            return self.b((h[:, None] @ rows)[:, 0])
        if self.kind == "head" and self.training:
            return h @ self.w
        if self.kind == "tied" and self.deep:
            return F.linear(h, self.embed.weight)
        return self.b(h)


RUNS = {
    "flag": lambda model, x: setattr(model, "deep", True) or model(x),
    "expert": lambda model, x: model(x, 1),
    "head": lambda model, x: model.train()(x),
    "tied": lambda model, x: setattr(model, "deep", True) or model(x),
}


@pytest.mark.parametrize("kind", RUNS)
def test_weights_that_no_example_showed_raise_in_training(kind):
    x = torch.randn(N, WIDTH)
    model = lra.convert(Branches(kind).eval(), FA, example=x)
    updates(model, x)
    with pytest.raises(lra.errors.RuleError, match=r"multiplies with '(w|experts.1|embed.weight)'"):
        RUNS[kind](model, x)
    model = Branches(kind).eval()
    run = functools.partial(RUNS[kind], x=x)
    lra.convert(model, FA, examples=[x, run])
    model.deep = False
    plain = lra.restore(copy.deepcopy(model))
    found, expected = (updates(m, x, run)["a.weight"] for m in (model, plain))
    assert not torch.allclose(found, expected, rtol=1e-3)


def test_experts_chosen_by_data_get_feedback():
    x = torch.randn(N, WIDTH)
    model = Branches("router")
    plain = updates(model, x)["a.weight"]
    lra.convert(model, FA, example=x, skip="b")
    assert not torch.allclose(updates(model, x)["a.weight"], plain, rtol=1e-3)


@pytest.mark.parametrize(
    "example",
    [
        lambda m: m(inputs()).sum().backward(),
        lambda m: m(inputs()).detach(),
        lambda m: torch.no_grad()(m)(inputs()),
        lambda m: types.SimpleNamespace(out=m(inputs())),
    ],
)
def test_examples_show_outputs_that_depend_on_the_parameters(example):
    with pytest.raises(lra.errors.ConversionError, match="shows no outputs that depend on its"):
        lra.convert(Between(lambda h, w: h @ w), FA, example=example)


def test_examples_that_run_a_backward_pass_leave_no_gradients():
    def example(model):
        loss = model(inputs()).sum()
        loss.backward(retain_graph=True)
        return loss

    model = lra.convert(Between(lambda h, w: h @ w), FA, example=example)
    assert all(p.grad is None for p in model.parameters())


def test_examples_are_a_list_and_a_callable_runs_the_model():
    x = inputs()
    with pytest.raises(lra.errors.OptionError, match="list of examples, got Tensor"):
        lra.convert(Between(lambda h, w: h @ w), FA, examples=x)
    torch.manual_seed(1)
    model = lra.convert(Between(lambda h, w: h @ w), FA, example=lambda m: m.forward(x=x))
    torch.manual_seed(1)
    other = lra.convert(Between(lambda h, w: h @ w), FA, examples=[(x,), {"x": x}])
    other.load_state_dict(model.state_dict())
    assert_close(updates(model, x), updates(other, x))


# -------------------------------------------------------------------- code outside forward


class Checkpointed(nn.Module):
    def __init__(self, part, reentrant) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / 2)
        self.part, self.reentrant = part, reentrant

    def forward(self, x):
        h = self.a(x)
        if self.reentrant is None:
            return self.b(self.part(self, h))
        run = functools.partial(self.part, self)
        return self.b(checkpoint(run, h, use_reentrant=self.reentrant))


PARTS = {
    "weight as an argument": lambda net, h: checkpoint(
        torch.matmul, h, net.w, use_reentrant=net.reentrant is True
    ),
    "derived weight as an argument": lambda net, h: checkpoint(
        F.linear, h, 2 * net.w, None, use_reentrant=net.reentrant is True
    ),
    "activation": lambda net, h: torch.sigmoid(h),
    "product": lambda net, h: torch.tanh(h) @ net.w,
    "derived weight": lambda net, h: h @ (net.w / net.w.norm()),
    "nested": lambda net, h: checkpoint(lambda v: torch.tanh(v @ net.w), h, use_reentrant=False),
}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("rule", [TARGETS, FA], ids=str)
def test_checkpoints_of_functions_give_the_same_updates(rule, part, reentrant):
    x = torch.randn(N, WIDTH)
    whole, saving = (lra.convert(Checkpointed(part, r), rule, example=x) for r in (None, reentrant))
    saving.load_state_dict(whole.state_dict())
    assert_close(updates(saving, x), updates(whole, x))


def test_layers_that_a_function_runs_again_follow_the_rule():
    """A reversible network runs its layers without a graph, and again in the backward pass."""

    class Reversible(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.f = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
            self.again = True

        def forward(self, x):
            h = self.a(x)
            return self.b(Again.apply(h, self.f) if self.again else self.f(h))

    x = torch.randn(N, WIDTH)
    model = lra.convert(Reversible(), FA, example=x)
    found = updates(model, x)
    model.again = False
    assert_close(found, updates(model, x))


class Coder(nn.Module):
    """A model whose code is in other methods too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, WIDTH)
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / 2)

    def encode(self, x):
        return F.relu(self.a(x)) @ self.w

    def step(self, x):
        return self.b(torch.tanh(self.a(x)))

    def score(self, h):
        return h @ self.embed.weight.T

    def forward(self, x):
        return self.score(self.step(x) + self.encode(x))


METHODS = {
    "encode": lambda model, x: model.encode(x),
    "step": lambda model, x: model.step(x),
    "score": lambda model, x: model.score(model.a(x)),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_follow_the_rule_where_they_are_named(name):
    """Oracle: the same code as the forward of a module of its own."""

    class Whole(Coder):
        def forward(self, x):
            return METHODS[name](self, x)

    x = torch.randn(N, WIDTH)
    run = functools.partial(METHODS[name], x=x)
    model = lra.convert(Coder(), TARGETS, examples=[x, run], methods=[name])
    whole = lra.convert(Whole(), TARGETS, example=x)
    own = {k: v for k, v in model.state_dict().items() if k in whole.state_dict()}
    whole.load_state_dict(own)
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found = updates(copied, x, run)
        for key, expected in updates(whole, x).items():
            assert_close(found[key], expected, msg=key)
    assert type(lra.restore(model)) is Coder


@pytest.mark.parametrize("name", METHODS)
def test_code_outside_a_converted_forward_warns_at_the_first_backward_pass(name):
    x = torch.randn(N, WIDTH)
    model = lra.convert(Coder(), TARGETS, example=x)
    updates(model, x)
    loss = METHODS[name](model, x).square().mean()
    with pytest.warns(lra.LraWarning, match=r"errors cross .* as in backprop.*methods="):
        loss.backward()
    METHODS[name](model, x).square().mean().backward()  # once


def test_code_of_a_method_that_nobody_named_is_refused_with_its_remedy():
    x = torch.randn(N, WIDTH)
    with pytest.raises(
        lra.errors.ConversionError, match="name the method that runs it in methods="
    ):
        lra.convert(Coder(), TARGETS, example=lambda model: model.encode(x))


def test_methods_are_checked():
    for name, message in (
        ("encod", "unknown method of a Coder in methods 'encod'"),
        ("a.encode", "unknown method of a Linear"),
        ("c.encode", "unknown submodule in methods 'c'"),
    ):
        with pytest.raises(lra.errors.OptionError, match=message):
            lra.convert(Coder(), FA, example=torch.randn(N, WIDTH), methods=name)


def test_layers_added_after_convert_warn():
    x = torch.randn(N, WIDTH)
    for change in (
        lambda m: m.__setitem__(2, nn.Linear(WIDTH, 3)),
        lambda m: m.append(nn.Linear(WIDTH, 3)),
        lambda m: m.__setitem__(2, nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh())),
    ):
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        change(lra.convert(model, FA))
        with pytest.warns(lra.LraWarning, match=r"a product with '\d(\.0)?\.weight'"):
            updates(model, x)


def test_ordinary_training_does_not_warn():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gain = (
                nn.Linear(WIDTH, WIDTH),
                nn.Linear(WIDTH, WIDTH),
                nn.Parameter(torch.ones(WIDTH)),
            )
            self.embed = nn.Embedding(4, WIDTH)
            self.skipped = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())

        def forward(self, x):
            h = self.a(x) * torch.sigmoid(self.gain) + self.embed(torch.arange(N) % 4)
            weights = torch.exp(h) / torch.exp(h).sum(-1, keepdim=True)
            return self.skipped(self.b(weights / weights.pow(2).mean(-1, keepdim=True).sqrt()))

    x = torch.randn(N, WIDTH)
    model = lra.convert(Gated(), TARGETS, example=x, skip="skipped", input_layers=())
    critic = nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, 1))
    y = critic(torch.tanh(model(x)))
    (y.square().mean() + (model.b.weight.T @ model.b.weight).tanh().sum()).backward()
    model(x.clone().requires_grad_()).square().mean().backward(retain_graph=True)


# ----------------------------------------------------------------------- without an example


def cube(h):
    return h**3


class Called:
    def __call__(self, h):
        return h.sigmoid()


class Parent(nn.Module):
    def __init__(self, between=None) -> None:
        super().__init__()
        self.a, self.b, self.between, self.n = nn.Linear(4, 4), nn.Linear(4, 2), between, 2

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class Child(Parent):
    def forward(self, x):
        return super().forward(x) + 1


def body(forward):
    """Return a class with a forward, and its name for a test."""
    return type("Body", (Parent,), {"forward": forward})


ASKED = {
    "a function": lambda: Parent(F.gelu),
    "a partial": lambda: Parent(functools.partial(F.leaky_relu, negative_slope=0.2)),
    "a lambda": lambda: Parent(lambda h: h**3),
    "a function of the module": lambda: Parent(cube),
    "a callable object": lambda: Parent(Called()),
    "a list": lambda: body(lambda self, x: self.b(self.between[0](self.a(x))))([torch.sin]),
    "a dictionary": lambda: body(lambda self, x: self.b(self.between["f"](self.a(x))))(
        {"f": torch.tanh}
    ),
    "a loop": lambda: Looped([cube]),
    "super": lambda: Child(torch.tanh),
    "a method": lambda: body(lambda self, x: self.b(self.a(x).abs()))(),
    "abs": lambda: body(lambda self, x: self.b(abs(self.a(x))))(),
    "a power": lambda: body(lambda self, x: self.b(self.a(x) ** self.n))(),
    "a comparison": lambda: body(lambda self, x: self.b(self.a(x) * (x > 0)))(),
    "another function": lambda: body(lambda self, x: self.b(torch.special.erfcx(self.a(x))))(),
    "an autograd Function": lambda: body(lambda self, x: self.b(Spike.apply(self.a(x))))(),
    "TorchScript": lambda: Parent(scripted),
    "a custom operator": lambda: Parent(squash),
    "an argument": lambda: body(lambda self, x, f=torch.tanh: self.b(f(self.a(x))))(),
    "a module made in forward": lambda: body(lambda self, x: self.b(nn.ReLU()(self.a(x))))(),
    "a module in a list": lambda: body(lambda self, x: self.b(self.between[0](self.a(x))))(
        [nn.Tanh()]
    ),
    "code without source": lambda: Parent(eval("lambda h: h.tanh()")),
}


class Looped(Parent):
    def forward(self, x):
        h = self.a(x)
        for f in self.between:
            h = f(h)
        return self.b(h)


@pytest.mark.parametrize("build", ASKED.values(), ids=ASKED)
def test_code_that_only_an_example_can_convert_asks_for_one(build):
    with pytest.raises(lra.errors.ConversionError, match=r"its forward calls .*; pass example="):
        lra.convert(build(), TARGETS)


class Plain(Parent):
    """Numbers, shapes, attention and branches, which need no example."""

    def forward(self, x):
        h = self.a(x)
        batch, size = h.shape
        scale = size**-0.5 * self.n**2
        if h.dim() > 2 or batch > 100 or not x.isfinite().all():
            h = h.flatten(1)
        for layer in self.between:
            h = layer(h)
        heads = h.view(batch, -1, max(1, size // 2))
        attention = torch.softmax(torch.matmul(heads, heads.transpose(1, 2)) * scale, -1)
        return self.b(torch.matmul(attention, heads).flatten(1)) + sum(i for i in range(3))


def test_plain_code_needs_no_example():
    model = lra.convert(Plain(nn.ModuleList([nn.Tanh(), nn.Linear(4, 4)])), TARGETS)
    model(torch.randn(3, 4)).square().mean().backward()


def test_parametrized_layers_ask_for_an_example():
    P = nn.utils.parametrizations
    for parametrize in (P.weight_norm, P.spectral_norm, P.orthogonal):
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), parametrize(nn.Linear(4, 4)))
        with pytest.raises(lra.errors.ConversionError, match=r"computed in each forward.*example="):
            lra.convert(model, FA)
        lra.convert(model, FA, example=torch.randn(3, 4))
        updates(model, torch.randn(3, 4))


@pytest.mark.filterwarnings("ignore::UserWarning")  # from torch
def test_full_backward_hooks_do_not_matter():
    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))

    x, hooked = torch.randn(3, 4), build()
    seen = []
    for module in (hooked, hooked[1], hooked[2]):
        module.register_full_backward_hook(lambda *_: seen.append(1))
        module.register_full_backward_pre_hook(lambda *_: None)
    model = build()
    for each in (hooked, model):
        torch.manual_seed(1)
        lra.convert(each, TARGETS, example=x)
    assert_close(updates(hooked, x), updates(model, x))
    assert seen == [1, 1, 1]


@pytest.mark.filterwarnings("ignore::UserWarning")  # from torch
def test_layers_without_units_and_fixed_layouts():
    class Adaptive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(6, 8), nn.AdaptiveLogSoftmaxWithLoss(8, 8, [2, 4])

        def forward(self, x):
            return self.o(self.a(x), torch.arange(len(x))).loss

    lra.convert(Adaptive(), FA, example=inputs().float())  # a projection to 0 units among them
    fake = torch.ao.quantization.FakeQuantize()
    model = nn.Sequential(nn.Linear(WIDTH, 8), fake, nn.Linear(8, 3))
    with pytest.raises(lra.errors.ConversionError, match="change the class of a FakeQuantize"):
        lra.convert(model, TARGETS, example=inputs().float())


def test_a_forward_replaced_on_the_instance_is_scanned_or_refused():
    for build in (lambda: Parent(nn.Identity()), lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh())):
        model = build()
        model.forward = types.MethodType(lambda self, x: F.relu(x), model)
        with pytest.raises(lra.errors.ConversionError, match="forward"):
            lra.convert(nn.Sequential(nn.Linear(4, 4), model), TARGETS)


def test_refusals_have_remedies_that_can_be_followed():
    x = inputs()
    with pytest.raises(lra.errors.ConversionError) as caught:
        lra.convert(Between(lambda h, w: Soft.apply(h)), TARGETS, example=x)
    text = str(caught.value)
    assert re.search(r"skip=\(Soft,\)", text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lra.convert(Between(lambda h, w: Soft.apply(h)), TARGETS, example=x, skip=(Soft,))
