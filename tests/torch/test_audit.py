"""The audit reports each operation that escapes the rule once, at its module and line."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from nets import ALL_RULES, MODELS, convert, images
from torch import nn
from torch.utils.checkpoint import checkpoint

import lra
from lra.torch.audit import Kind

N, WIDTH = 3, 6


class Inner(nn.Module):
    """Two converted layers with the code under test between them."""

    def __init__(self, body) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.act, self.norm = nn.Tanh(), nn.BatchNorm1d(WIDTH)
        self.embed = nn.Embedding(WIDTH, WIDTH)
        self.W = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.V = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.K = nn.Parameter(torch.randn(1, 1, 3))
        self.q = nn.Parameter(torch.randn(N, WIDTH))
        self.frozen = nn.Parameter(torch.randn(WIDTH, WIDTH), requires_grad=False)
        self.gamma = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("P", torch.randn(WIDTH, WIDTH))
        self.body = body

    def forward(self, x):
        return self.above(self.body(self, self.act(self.below(x))))


class Outer(nn.Module):
    """A module that holds the one under test."""

    def __init__(self, body) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.inner = Inner(body)

    def forward(self, x):
        return self.inner(self.stem(x))


def audited(body, rule=None, x=None, **options) -> lra.torch.audit.Audit:
    model = lra.convert(Outer(body), rule or lra.LRAE(), **options)
    return lra.audit(model, torch.randn(N, WIDTH) if x is None else x)


def here(body) -> str:
    """Return the file and line of a body of one line."""
    return f"{__file__}:{body.__code__.co_firstlineno}"


ACTIVATIONS = {
    "F.relu": lambda m, h: F.relu(h),
    "in place": lambda m, h: F.relu(h + 1, inplace=True),
    "method": lambda m, h: h.sigmoid(),
    "torch.tanh": lambda m, h: torch.tanh(h),
    "swish": lambda m, h: h * torch.sigmoid(h),
    "gelu": lambda m, h: F.gelu(h),
    "leaky": lambda m, h: F.leaky_relu(h),
    "prelu": lambda m, h: F.prelu(h, m.gamma),
    "softsign": lambda m, h: F.softsign(h),
    "tanhshrink": lambda m, h: F.tanhshrink(h),
    "rrelu": lambda m, h: F.rrelu(h, training=True),
    "glu": lambda m, h: F.glu(torch.cat([h, h], 1)),
    "sine": lambda m, h: torch.sin(3 * h),
    "clamp": lambda m, h: h.clamp(min=0),
    "maximum": lambda m, h: torch.maximum(h, torch.zeros(())),
    "absolute": lambda m, h: h.abs(),
    "square": lambda m, h: h**2,
    "exponential": lambda m, h: torch.exp(-h),
    "sign": lambda m, h: torch.sign(h),
    "of learned input": lambda m, h: h + F.relu(m.q @ m.W),
    "of a buffer": lambda m, h: h + F.relu(F.linear(m.P[:N], m.W)),
}

WEIGHT_LAYERS = {
    "F.linear": (lambda m, h: F.linear(h, m.W), "inner.W"),
    "with bias": (lambda m, h: F.linear(h, m.W, m.gamma), "inner.W"),
    "at": (lambda m, h: h @ m.W, "inner.W"),
    "from the left": (lambda m, h: (m.W @ h.t()).t(), "inner.W"),
    "transposed": (lambda m, h: torch.mm(h, m.W.t()), "inner.W"),
    "part": (lambda m, h: h @ m.W[:, :4], "inner.W"),
    "vector": (lambda m, h: torch.outer(h @ m.gamma, m.gamma.detach()), "inner.gamma"),
    "tokens": (lambda m, h: torch.matmul(h[None], m.W)[0], "inner.W"),
    "einsum": (lambda m, h: torch.einsum("bi,oi->bo", h, m.W), "inner.W"),
    "tensordot": (lambda m, h: torch.tensordot(h, m.W, dims=([1], [0])), "inner.W"),
    "addmm": (lambda m, h: torch.addmm(m.gamma, h, m.W), "inner.W"),
    "baddbmm": (lambda m, h: torch.baddbmm(h[None], h[None], m.W[None])[0], "inner.W"),
    "conv": (lambda m, h: F.conv1d(h[:, None], m.K, padding=1)[:, 0], "inner.K"),
    "transposed conv": (lambda m, h: F.conv_transpose1d(h[:, None], m.K)[:, 0], "inner.K"),
    "tied embedding": (lambda m, h: F.linear(h, m.embed.weight), "inner.embed.weight"),
    "converted layer's": (lambda m, h: F.linear(h, m.above.weight), "inner.above.weight"),
    "frozen": (lambda m, h: F.linear(h, m.frozen), "inner.frozen"),
    "frozen, with biases": (lambda m, h: F.linear(h, m.frozen, m.gamma.detach()), "inner.frozen"),
    "frozen conv": (
        lambda m, h: F.conv1d(h[:, None], m.frozen[:1, None, :3], m.gamma[:1])[:, 0],
        "inner.frozen",
    ),
    "frozen, transposed": (lambda m, h: h @ m.frozen.t() + 0 * m.gamma, "inner.frozen"),
    "two factors": (lambda m, h: h @ (m.W @ m.V), "inner.V, inner.W"),
    "low-rank adapter": (lambda m, h: h @ (m.frozen + m.W @ m.V), "inner.V, inner.W"),
    "standardised": (lambda m, h: h @ ((m.W - m.W.mean()) / m.W.std()), "inner.W"),
    "masked": (lambda m, h: F.linear(h, m.W * (m.P > 0)), "inner.W"),
    "bfloat16": (lambda m, h: (h.bfloat16() @ m.W.bfloat16()).float(), "inner.W"),
    "bilinear": (lambda m, h: F.bilinear(h, h, m.W[None]), "inner.W"),
    "second of two": (lambda m, h: h + (m.q @ m.V) @ m.W, "inner.W"),
    "no Parameter": (lambda m, h: h @ (2 * UNREGISTERED), "(a tensor that is no Parameter)"),
}


def pools(h):
    return (F.max_pool1d(h, 2) + F.avg_pool1d(h, 2) + F.lp_pool1d(h, 2, 2)).repeat(1, 2)


UNREGISTERED = torch.randn(WIDTH, WIDTH, requires_grad=True)

PASSES = {
    "nothing": lambda m, h: h,
    "layer norm": lambda m, h: F.layer_norm(h, (WIDTH,)) + F.rms_norm(h, (WIDTH,)),
    "batch norm": lambda m, h: m.norm(h),
    "normalize": lambda m, h: F.normalize(h) * F.cosine_similarity(h, 2 * h)[:, None],
    "root mean square": lambda m, h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6),
    "standard score": lambda m, h: (h - h.mean(0)) / (h.var(0) + 1e-5).sqrt(),
    "length": lambda m, h: h / h.norm(dim=-1, keepdim=True).clamp(min=1e-6),
    "pools": lambda m, h: pools(h),
    "dropout": lambda m, h: F.dropout(h, 0.5) + F.alpha_dropout(h, 0.1, True),
    "softmax": lambda m, h: torch.softmax(h, -1) + F.log_softmax(h, 1) + torch.logsumexp(h, 0),
    "softmax by hand": lambda m, h: (lambda e: e / e.sum(-1, keepdim=True))(torch.exp(h)),
    "embedding": lambda m, h: h + m.embed(torch.arange(N)) + F.embedding(torch.arange(N), m.W),
    "reshapes": lambda m, h: torch.stack(h.view(N, 2, 3).transpose(1, 2).unbind(2), 1).flatten(1),
    "sums": lambda m, h: h + 2 * h - h / 3 + m.q + 1,
    "layer scale": lambda m, h: h * m.gamma,
    "gate that is learned": lambda m, h: h * torch.sigmoid(m.gamma) * m.gamma.exp(),
    "learned temperature": lambda m, h: h * m.gamma.abs().clamp(max=10).exp(),
    "two activations": lambda m, h: torch.maximum(h, h.flip(1)) * h,
    "attention": lambda m, h: torch.softmax(h @ h.t() / 2, -1) @ h,
    "attention kernel": lambda m, h: F.scaled_dot_product_attention(h[None], h[None], h[None])[0],
    "upsampling": lambda m, h: F.interpolate(h[:, None], 2 * WIDTH, mode="linear")[:, 0, ::2],
    "fixed projection": lambda m, h: h @ m.P,
    "frozen, but added": lambda m, h: torch.addmm(m.frozen[:N, :N], h, h.t()) @ h,
    "fixed from the left": lambda m, h: torch.addmm(m.q, m.P[:N, :N], h),
    "product of weights": lambda m, h: h + (m.q @ m.W) + (m.W @ m.V).sum(0),
    "rotation": lambda m, h: h * torch.sin(torch.arange(WIDTH)),
    "no gradient": lambda m, h: h + F.relu(h).detach(),
    "a mask": lambda m, h: h.masked_fill(m.P[:N] > 0, 0.0),
}

KEEP_WEIGHTS = lra.Rule(lra.feedback.Transpose(), lra.crossing.TargetDifference())
KEEP_ACTIVATIONS = lra.FeedbackAlignment()


def fit(h):
    """Pad or cut to the width of the layer above."""
    return F.pad(h, (0, WIDTH - h.shape[-1]))


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Convert by class alone, without checking the modules' own code."""
    monkeypatch.setattr("lra.torch.convert.plan._needs_example", lambda *args: "")


@pytest.mark.parametrize("body", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations_called_as_functions_are_found_once(body):
    (finding,) = audited(body).findings
    assert finding.kind is Kind.ACTIVATION
    assert (finding.module, finding.where) == ("inner", here(body))
    assert (finding.parameter, finding.calls) == ("", 1)


@pytest.mark.parametrize(("body", "parameter"), WEIGHT_LAYERS.values(), ids=WEIGHT_LAYERS)
def test_products_called_as_functions_are_found_once(body, parameter):
    (finding,) = audited(lambda m, h: fit(body(m, h))).findings
    assert finding.kind is Kind.WEIGHTS
    assert (finding.module, finding.where) == ("inner", here(body))
    assert (finding.parameter, finding.calls) == (parameter, 1)


@pytest.mark.parametrize("body", PASSES.values(), ids=PASSES)
def test_operations_that_keep_autograds_derivative_are_no_findings(body):
    audit = audited(body)
    assert audit.clean, audit
    assert audit.crossings == 3  # below, act and above; stem sees the raw input


@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_converted_models_of_modules_are_clean(build, rule):
    model = convert(build().double(), rule)
    ops = sum(getattr(module, "follows_rule", False) for module in model.modules())
    audit = lra.audit(model, images()[0])
    assert audit.clean, audit
    assert audit.crossings == ops


def test_only_operations_that_the_rule_changes_are_findings():
    def both(m, h):
        return F.relu(h) @ m.W

    assert {f.kind for f in audited(both).findings} == {Kind.ACTIVATION, Kind.WEIGHTS}
    assert [f.kind for f in audited(both, KEEP_WEIGHTS).findings] == [Kind.ACTIVATION]
    assert [f.kind for f in audited(both, KEEP_ACTIVATIONS).findings] == [Kind.WEIGHTS]
    backprop = audited(both, lra.Backprop())
    assert backprop.clean
    assert backprop.passes["torch.nn.functional.relu"] == 1


def test_products_with_the_raw_input_are_no_findings():
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W, self.fc = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.fc(F.relu(2 * x) + x @ self.W)

    model, x = lra.convert(First(), lra.LRAE(), input_layers=()), torch.randn(N, WIDTH)
    assert lra.audit(model, x).clean
    relu, weights = lra.audit(model, x.requires_grad_()).findings
    assert (relu.kind, weights.parameter) == (Kind.ACTIVATION, "W")


def test_calls_that_keep_autograds_derivative_are_counted():
    passes = audited(lambda m, h: F.layer_norm(h, (WIDTH,)) + F.layer_norm(h, (WIDTH,))).passes
    assert passes == {"torch.nn.functional.layer_norm": 2, "torch.Tensor.add": 1}


def test_repeated_calls_of_a_line_are_one_finding():
    def loop(m, h):
        for _ in range(3):
            h = F.relu(h)
        return h

    (finding,) = audited(loop).findings
    assert finding.calls == 3
    assert finding.where == f"{__file__}:{loop.__code__.co_firstlineno + 2}"
    two_lines = audited(lambda m, h: loop(m, F.gelu(h)))
    assert [f.calls for f in two_lines.findings] == [1, 3]


def test_calls_of_a_shared_module_are_counted_together():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(WIDTH, WIDTH)
            self.first = Inner(lambda m, h: F.relu(h) @ m.W)
            self.second = self.first

        def forward(self, x):
            return F.silu(self.second(self.first(self.stem(x))))

    findings = lra.audit(lra.convert(Shared(), lra.LRAE()), torch.randn(N, WIDTH)).findings
    found = [(f.module, f.operation, f.parameter, f.calls) for f in findings]
    relu, silu = "torch.nn.functional.relu", "torch.nn.functional.silu"
    assert found == [
        ("first", relu, "", 2),
        ("first", "torch.Tensor.matmul", "first.W", 2),
        ("", silu, "", 1),
    ]


def test_in_place_functions_on_slices_are_found():
    def part(m, h):
        h = h.clone()
        h[:, :2].relu_()
        return h

    (finding,) = audited(part).findings
    assert finding.operation == "torch.Tensor.relu_"


def test_constants_filled_with_data_count_as_data():
    def filled(m, h):
        z = torch.zeros(N, WIDTH)
        z[0] = h[0].detach()
        return h + F.relu(z * m.gamma)

    (finding,) = audited(filled).findings
    assert finding.operation == "torch.nn.functional.relu"


def test_data_parallel_models_are_audited():
    model = nn.DataParallel(lra.convert(Outer(lambda m, h: F.relu(h)), lra.LRAE()))
    (finding,) = lra.audit(model, torch.randn(N, WIDTH)).findings
    assert finding.module == "inner"


def test_skipped_layers_are_findings():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.GLU(), nn.Linear(3, 6))
    lra.convert(model, lra.LRAE(), skip=["1", "2"])
    relu, linear = lra.audit(model, torch.randn(N, 6)).findings
    assert (relu.module, relu.kind, relu.where) == ("1", Kind.ACTIVATION, "")
    assert (linear.module, linear.parameter, linear.where) == ("2", "2.weight", "")
    remedy = "is not converted; take it out of skip= or convert the model again"
    assert relu.remedy == f"this ReLU {remedy}"
    assert linear.remedy == f"this Linear {remedy}"


def test_skipped_parts_of_a_transformer_layer_are_findings():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.head(self.layer(self.stem(x)))

    x = torch.randn(2, 3, 8)
    converted = lra.convert(Model(), lra.LRAE(), skip=["layer.self_attn"])
    findings = lra.audit(converted, x).findings
    assert {(f.kind, f.module, f.parameter) for f in findings} == {
        (Kind.WEIGHTS, "layer.self_attn", "layer.self_attn.in_proj_weight"),
        (Kind.WEIGHTS, "layer.self_attn", "layer.self_attn.out_proj.weight"),
    }
    line = inspect.getsourcelines(Model.forward)[1] + 1
    assert {f.where for f in findings} == {f"{__file__}:{line}"}
    whole = lra.audit(lra.convert(Model(), lra.LRAE(), skip=["layer"]).eval(), x).findings
    weights = {f.parameter for f in whole if f.kind is Kind.WEIGHTS}
    assert {"layer.linear1.weight", "layer.linear2.weight"} < weights


def test_skipped_recurrent_layers_are_findings():
    class Model(nn.ModuleDict):
        def forward(self, x):
            return self["b"](self["rnn"](self["a"](x))[0])

    model = Model({"a": nn.Linear(4, 4), "rnn": nn.LSTM(4, 3), "b": nn.Linear(3, 2)})
    lra.convert(model, lra.LRAE(), skip=["rnn"])
    findings = lra.audit(model, torch.randn(5, 2, 4)).findings
    kinds = Kind.ACTIVATION, Kind.WEIGHTS
    assert {(f.kind, f.module) for f in findings} == {(kind, "rnn") for kind in kinds}
    assert any("rnn.weight_hh_l0" in f.parameter for f in findings)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_code_is_audited(use_reentrant):
    def body(m, h):
        return checkpoint(lambda v: F.relu(m.act(v)), h, use_reentrant=use_reentrant)

    audit = audited(body)
    assert [f.operation for f in audit.findings] == ["torch.nn.functional.relu"]
    assert audit.crossings == 4


def test_autograd_functions_of_data_are_unknown():
    class Softmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return torch.softmax(h, -1)

        @staticmethod
        def backward(ctx, e):
            return e

    (finding,) = audited(lambda m, h: Softmax.apply(h)).findings
    assert (finding.kind, finding.operation) == (Kind.UNKNOWN, "Softmax")
    assert audited(lambda m, h: Softmax.apply(h), KEEP_ACTIVATIONS).clean


def test_compiled_models_are_audited():
    model = lra.convert(Outer(lambda m, h: F.relu(h)), lra.LRAE())
    model.compile(backend="eager")
    (finding,) = lra.audit(model, torch.randn(N, WIDTH)).findings
    assert finding.module == "inner"


def test_inputs_and_outputs_of_any_structure():
    class Tree(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, batch, *, scale, labels=None):
            h = self.head(F.relu(self.fc(batch["x"][0])) * scale)
            return {"a": (h, torch.tanh(h)), "loss": [F.cross_entropy(h, labels)], "n": 3}

    model = lra.convert(Tree(), lra.LRAE())
    example = {"x": [torch.randn(N, 4)]}
    audit = lra.audit(model, example, scale=2.0, labels=torch.zeros(N, dtype=torch.long))
    names = [f.operation.rpartition(".")[2] for f in audit.findings]
    assert names == ["relu", "tanh"]


def snapshot(model):
    state = {key: value.clone() for key, value in model.state_dict(keep_vars=True).items()}
    hooks = [
        (list(m._forward_hooks), list(m._forward_pre_hooks), m.training) for m in model.modules()
    ]
    random_states = torch.get_rng_state()
    identities = [id(t) for t in (*model.parameters(), *model.buffers())]
    return state, random_states, hooks, identities


def assert_unchanged(before, after):
    torch.testing.assert_close(after[:2], before[:2], rtol=0, atol=0)
    assert after[2:] == before[2:]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_the_model_and_the_example_are_unchanged(training, fails):
    def body(m, h):
        m.P += 1
        m.register_buffer("new", torch.zeros(1))
        h = m.norm(F.dropout(h))
        if fails:
            raise ValueError("from within")
        return h

    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer = Outer(body)

        def forward(self, x):
            return self.outer(x.mul_(2))

    model, x = lra.convert(Greedy(), lra.LRAE()).train(training), torch.randn(N, WIDTH)
    before, x_before = snapshot(model), x.clone()
    if fails:
        with pytest.raises(ValueError, match="from within"):
            lra.audit(model, x)
    else:
        assert lra.audit(model, x).clean
    assert_unchanged(before, snapshot(model))
    torch.testing.assert_close(x, x_before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    assert not torch.overrides._get_current_function_mode_stack()


def test_exceptions_caught_in_a_forward_do_not_disturb_the_audit():
    def inner_fails(m, h):
        try:
            m.below(torch.zeros(1, 1))
        except RuntimeError:
            return F.relu(h)

    (finding,) = audited(inner_fails).findings
    assert finding.module == "inner"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(mode):
    model = lra.convert(Outer(lambda m, h: F.relu(h)), lra.LRAE())
    with mode():
        assert len(lra.audit(model, torch.randn(N, WIDTH)).findings) == 1
        assert not torch.is_grad_enabled()


def test_reports_can_be_read():
    body = ACTIVATIONS["F.relu"]
    text = str(audited(body))
    assert text.splitlines()[:4] == [
        "audit: errors cross 1 operation as in backprop against the rule",
        "  - activation: torch.nn.functional.relu in inner",
        f'    {here(body)}  "F.relu": lambda m, h: F.relu(h),',
        "    remedy: create torch.nn.ReLU in __init__ and call that",
    ]
    assert "ops crossed by the rule: 3" in text
    text = str(audited(lambda m, h: F.linear(F.linear(h, m.W), m.W)))
    assert "torch.nn.functional.linear with 'inner.W' in inner, 2 times" in text
    assert "remedy: make it the weight of a torch.nn.Linear" in text
    assert "errors cross no operation as in backprop" in str(audited(PASSES["nothing"]))


def test_only_converted_models_are_audited():
    with pytest.raises(lra.errors.ConversionError, match=r"call lra\.convert\(model, rule\) first"):
        lra.audit(nn.Linear(2, 2), torch.randn(1, 2))
