"""Products and activations in a module's own forward get the updates of the same layers."""

import collections
import copy
import pickle

import pytest
import torch
from nets import ALL_RULES, taken
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import lra
from lra.feedback import Stored

WIDTH = 6


class Layers(nn.Module):
    """The network made of layers, which the others must equal."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.phi = nn.Tanh()

    def forward(self, x):
        return self.c(self.phi(self.b(self.phi(self.a(x)))))


class Functional(nn.Module):
    """The same network, with a product and an activation called as functions."""

    def __init__(self, product, activation=torch.tanh) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.bias = nn.Parameter(torch.empty(WIDTH))
        self.product, self.activation = product, activation

    def forward(self, x):
        return self.c(self.activation(self.product(self, self.activation(self.a(x)))))


PRODUCTS = {
    "linear": lambda m, z: F.linear(z, m.weight, m.bias),
    "linear, named": lambda m, z: F.linear(input=z, weight=m.weight, bias=m.bias),
    "@": lambda m, z: z @ m.weight.t() + m.bias,
    "matmul": lambda m, z: torch.matmul(z, m.weight.mT) + m.bias,
    "addmm": lambda m, z: torch.addmm(m.bias, z, m.weight.transpose(0, 1)),
    "addmm, a bias each": lambda m, z: torch.addmm(
        m.bias.expand(len(z), WIDTH), z, m.weight.transpose(0, 1)
    ),
    "mm": lambda m, z: torch.mm(z, m.weight.t()) + m.bias,
    "tokens": lambda m, z: (z.view(len(z), 1, WIDTH) @ m.weight.t())[:, 0] + m.bias,
    "one by one": lambda m, z: torch.stack([row @ m.weight.t() for row in z]) + m.bias,
    "weight first": lambda m, z: (m.weight @ z.t()).t() + m.bias,
    "reflected": lambda m, z: torch.Tensor.__rmatmul__(z.t(), m.weight).t() + m.bias,
    "einsum": lambda m, z: torch.einsum("oi,bi->bo", m.weight, z) + m.bias,
    "parts": lambda m, z: torch.cat([F.linear(z, w) for w in m.weight.chunk(2)], 1) + m.bias,
    "rows": lambda m, z: torch.stack([z @ m.weight[i] for i in range(WIDTH)], 1) + m.bias,
    "looked up": lambda m, z: (
        z @ F.embedding((torch.arange(WIDTH) - 1).view(-1, 1)[:, 0] + 1, m.weight).T + m.bias
    ),
    "reshaped": lambda m, z: z @ m.weight.reshape(-1).view(WIDTH, WIDTH).T + m.bias,
    "convolution": lambda m, z: F.conv1d(z[:, :, None], m.weight[:, :, None], m.bias)[:, :, 0],
    "transposed convolution": lambda m, z: F.conv_transpose1d(
        z[:, :, None], m.weight.t()[:, :, None], m.bias
    )[:, :, 0],
    "twice": lambda m, z: 2 * F.linear(z / 4, m.weight, m.bias / 2) + F.linear(z / 2, m.weight),
}


def pair(product, rule, activation=torch.tanh):
    """Build both networks in float64, with equal weights and feedback."""
    torch.manual_seed(1)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    layers, functional = Layers().double(), Functional(product, activation).double()
    functional.load_state_dict({key.replace("b.", ""): v for key, v in layers.state_dict().items()})
    lra.convert(layers, rule, example=None if rule.wiring == lra.wiring.Chain() else x)
    lra.convert(functional, rule, example=x)
    if rule.feedback.stored is not Stored.NOTHING:
        with torch.no_grad():
            functional.feedback.copy_(layers.b.feedback)
            functional.c.feedback.copy_(layers.c.feedback)
    return layers, functional, x


def updates(model, x):
    model.zero_grad()
    torch.manual_seed(2)
    F.cross_entropy(model(x), torch.arange(len(x))).backward()
    return {
        name.replace("b.", ""): p.grad for name, p in model.named_parameters() if p.grad is not None
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize(
    "rule", [lra.LRAE(0.3, 0.5), lra.FeedbackAlignment()], ids=lambda rule: rule.name
)
def test_products_called_as_functions(product, rule):
    layers, functional, x = pair(product, rule)
    torch.testing.assert_close(functional(x), layers(x), rtol=1e-12, atol=1e-12)
    assert_same(updates(functional, x), updates(layers, x))


@pytest.mark.parametrize("rule", [r for n, r in ALL_RULES.items() if "batch" not in n], ids=str)
def test_every_rule_with_functions(rule):
    layers, functional, x = pair(PRODUCTS["@"], rule)
    assert_same(updates(functional, x), updates(layers, x))


FUNCTIONS = {
    "torch": torch.tanh,
    "functional": F.tanh,
    "method": torch.Tensor.tanh,
    "in place": lambda h: (h * 1).tanh_(),
    "written out": lambda h: 1 - 2 / (torch.exp(2 * h) + 1),
}


@pytest.mark.parametrize("activation", [v for k, v in FUNCTIONS.items() if k != "written out"])
def test_activations_called_as_functions(activation):
    layers, functional, x = pair(PRODUCTS["linear"], lra.LRAE(0.3), activation)
    assert_same(updates(functional, x), updates(layers, x))


def test_the_example_finds_other_elementwise_functions():
    model = Functional(PRODUCTS["linear"], FUNCTIONS["written out"]).double()
    with torch.no_grad():
        model.weight.copy_(torch.eye(WIDTH)), model.bias.zero_()
    x = torch.randn(5, WIDTH).double()
    lra.convert(model, lra.LRAE(), example=x)
    assert lra.audit(model, x).clean
    assert "exp()" in [layer.name for layer in lra.diagnose(model, x, torch.arange(5)).layers]


@pytest.mark.parametrize(
    "norm",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        nn.utils.weight_norm,
        lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    ],
    ids=["weight_norm", "spectral_norm", "old weight_norm", "pruned"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_computed_weights_have_feedback_of_their_own(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), norm(nn.Linear(6, 6)), nn.Tanh())
    model = nn.Sequential(model, nn.Linear(6, 6)).double().eval()
    x = torch.randn(5, 6).double()
    expected = model(x).detach()
    lra.convert(model, lra.LRAE(), example=x)
    assert torch.equal(model(x), expected)
    (E,) = (p for name, p in model[0][2].named_parameters() if "feedback" in name)
    seen = {}
    model[0][1].register_full_backward_hook(lambda m, i, o: seen.update(d=o[0]))
    model[0][2].register_full_backward_hook(lambda m, i, o: seen.update(e=o[0]))
    updates(model, x)
    torch.testing.assert_close(seen["d"], seen["e"] @ E)


class Norm(nn.Module):
    """A normalisation in elementary functions, which keeps autograd's derivative."""

    def forward(self, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def test_normalisation_softmax_and_attention_keep_autograds_derivative():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm = nn.Linear(6, 18), Norm()
            self.w = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            q, k, v = self.norm(self.a(x)).chunk(3, -1)
            return torch.softmax(q @ k.mT, -1) @ v @ self.w

    model, x = Net(), torch.randn(2, 3, 6)
    lra.convert(model, lra.LRAE(), example=x)
    covered = lra.coverage(model)
    assert covered.full
    assert {"softmax", "sqrt", "matmul"} <= {name.rpartition(".")[2] for name in covered.passes}
    assert type(model.norm) is Norm


@pytest.mark.parametrize("by", ["deepcopy", "pickle"])
def test_copies_give_the_same_updates(by):
    layers, functional, x = pair(_linear, lra.LRAE(0.3))
    twin = copy.deepcopy(functional) if by == "deepcopy" else pickle.loads(pickle.dumps(functional))
    assert type(twin) is type(functional)
    assert_same(updates(twin, x), updates(layers, x))
    assert type(lra.restore(twin)) is Functional


def _linear(m, z):
    return F.linear(z, m.weight, m.bias)


def test_restore_leaves_nothing_behind():
    model = Functional(_linear).double()
    plain, x = copy.deepcopy(model), torch.randn(5, WIDTH).double()
    nn.init.normal_(model.weight), nn.init.normal_(model.bias)
    plain.load_state_dict(model.state_dict())
    lra.restore(lra.convert(model, lra.LRAE(), example=x))
    assert vars(model).keys() == vars(plain).keys()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert_same(updates(model, x), updates(plain, x))


def test_feedback_parameters_and_state_dicts():
    _, functional, _ = pair(_linear, lra.LRAE())
    assert {id(E) for E in lra.feedback_parameters(functional)} == {
        id(functional.feedback),
        id(functional.c.feedback),
    }
    plain = Functional(_linear).double().state_dict()
    before = functional.feedback.clone()
    functional.load_state_dict(plain)
    assert torch.equal(functional.feedback, before)
    functional.load_state_dict(functional.state_dict())


def test_products_that_the_example_did_not_run_are_refused():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.wide = nn.Linear(6, 6), False
            self.w = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            h = self.a(x)
            return h @ (self.w * 2)[:, :3] if self.wide else h @ self.w

    model, x = Two(), torch.randn(2, 6)
    lra.convert(model, lra.LRAE(), example=x)
    model(x).sum().backward()
    model.wide = True
    with pytest.raises(lra.errors.RuleError, match=r"no feedback weights.*example="):
        model(x)


def test_a_skipped_module_inside_an_intercepted_one_stays_on_autograd():
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return torch.tanh(self.layer(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.inside, self.c = nn.Linear(6, 6), Inside(), nn.Linear(6, 6)

        def forward(self, x):
            return self.c(self.inside(torch.tanh(self.a(x))))

    x = torch.randn(5, 6).double()
    model = lra.convert(Net().double(), lra.LRAE(beta=3.0), example=x, skip="inside")
    seen = {}
    model.inside.register_forward_hook(lambda m, inputs, output: seen.update(h=inputs[0]))
    model.inside.register_full_backward_hook(lambda m, d, e: seen.update(d=d[0], e=e[0]))
    updates(model, x)
    h = seen["h"].detach().requires_grad_()
    z = torch.tanh(F.linear(h, model.inside.layer.weight, model.inside.layer.bias))
    torch.testing.assert_close(seen["d"], *torch.autograd.grad(z, h, seen["e"]))
    covered = lra.coverage(model)
    assert not covered.full
    assert covered.left == {"Linear": 42}
    lra.restore(model)
    assert type(model.inside) is Inside


def test_a_failing_example_leaves_the_model_unchanged():
    model = Functional(_linear)
    before = [type(m) for m in model.modules()], list(model.state_dict())
    with pytest.raises(RuntimeError):
        lra.convert(model, lra.LRAE(), example=torch.randn(2, WIDTH + 1))
    assert before == ([type(m) for m in model.modules()], list(model.state_dict()))


def test_the_example_finds_the_layers_that_see_the_raw_input():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.a, self.b = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x, y):
            return self.head(self.a(x) + self.b(y))

    x = torch.randn(2, 4)
    model = lra.convert(Net(), lra.LRAE(), example={"x": x, "y": x})
    assert (model.a.feedback, model.b.feedback) == (None, None)
    assert model.head.feedback is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler
@pytest.mark.parametrize(
    "rule", [lra.LRAE(0.3), lra.FeedbackAlignment()], ids=lambda rule: rule.name
)
def test_compiled_models_give_the_eager_updates(rule):
    _, functional, x = pair(_linear, rule)
    expected = {k: v.clone() for k, v in updates(functional, x).items()}
    torch._dynamo.reset()
    compiled = torch.compile(functional, backend="aot_eager", fullgraph=True)
    functional.zero_grad()
    F.cross_entropy(compiled(x), torch.arange(5)).backward()
    assert_same(
        {n: p.grad for n, p in functional.named_parameters() if p.grad is not None}, expected
    )


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_recurrent_layers(kind, double):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = kind(4, 6, 2, bidirectional=True), nn.Linear(12, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    torch.manual_seed(0)
    dtype = torch.float64 if double else torch.float32
    model, x = Net().to(dtype), torch.randn(5, 2, 4, dtype=dtype)
    expected = model(x).detach()
    with torch.no_grad():
        kernel = model(x)  # some processors use another kernel than with gradients
    lra.convert(model, lra.LRAE(), example=x)
    assert lra.coverage(model).full
    torch.testing.assert_close(model(x).detach(), expected)
    with torch.no_grad():
        assert torch.equal(model(x), kernel)
    names = [name for name, _ in model.named_parameters() if "feedback" in name]
    assert "rnn.feedback_hh_l1_reverse" in names
    assert "rnn.feedback_ih_l0" not in names  # its weight sees the raw input
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_users_activations_are_recognised_or_registered():
    class Hat(nn.Module):
        def forward(self, x):
            return (1 - x.abs()).clamp(min=0)

    class Winners(nn.Module):  # keeps the larger of each pair, so it is not elementwise
        def forward(self, x):
            pairs = x.unflatten(-1, (-1, 2))
            return torch.where(pairs == pairs.amax(-1, keepdim=True), pairs, 0).flatten(-2)

    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    layers = nn.Linear(6, 6), Hat(), Twice(), nn.Linear(6, 6), Winners(), nn.Linear(6, 2)
    model = nn.Sequential(*layers).double()
    x = torch.randn(5, 6).double()
    lra.register_activation(Winners)
    lra.convert(model, lra.LRAE(0.4))
    kinds = [type(m).__name__ for m in model]
    assert kinds[1:5] == ["LocalHat", "Twice", "LocalLinear", "LocalWinners"]
    h = torch.randn(5, 6).double().requires_grad_()
    d = torch.randn(5, 6).double()
    model[4](h).backward(d)
    expected = Winners()(h) - Winners()(h - 0.4 * 5 * d)
    torch.testing.assert_close(h.grad, (expected / 5).detach())
    model(x).sum().backward()
    with pytest.raises(
        lra.errors.OptionError, match=r"expected subclasses of torch\.nn\.Module or .*, got 'relu'"
    ):
        lra.register_activation("relu")


def test_registered_activations_may_have_their_own_surrogate():
    class Step(nn.Module):
        def forward(self, x):
            return x.sign()

    def net():
        torch.manual_seed(0)
        layers = nn.Linear(6, 6), Step(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)
        return nn.Sequential(*layers).double()

    x = torch.randn(5, 6).double()
    # The rule's surrogate changes nothing at the tanh, whose function it is.
    expected = updates(lra.convert(net(), lra.LRAE(0.4, surrogate=lra.crossing.TanhSurrogate())), x)
    lra.register_activation(Step, surrogate=lra.crossing.TanhSurrogate())
    model = lra.convert(net(), lra.LRAE(0.4))
    assert_same(updates(model, x), expected)
    assert "surrogate=TanhSurrogate()" in str(model[1])
    assert "surrogate" not in str(model[3])
    lra.register_activation(Step)
    assert "crossing=TargetDifference(beta=0.4)" in str(model[1])
    lra.convert(net(), lra.FeedbackAlignment())
    with pytest.raises(
        lra.errors.OptionError, match=r"surrogate must be one such as .*, got <built-in method tanh"
    ):
        lra.register_activation(Step, surrogate=torch.tanh)


def test_users_activations_may_have_their_own_difference():
    class Cube(nn.Module):
        def forward(self, x):
            return x**3

        def difference(self, h, delta, xp):
            assert xp is torch
            v = h - delta
            return 2 * delta * (h * h + h * v + v * v)  # twice the truth, to see that it is used

    h, d = torch.randn(2, 5, 6, dtype=torch.float64)
    for two_sided in (False, True):
        model = nn.Sequential(nn.Linear(6, 6), Cube(), nn.Linear(6, 6)).double()
        lra.convert(model, lra.LRAE(0.4, two_sided=two_sided))
        at = h.clone().requires_grad_()
        model[1](at).backward(d)
        m = 0.4 * 5 * d
        truth = ((h + m) ** 3 - (h - m) ** 3) / 2 if two_sided else h**3 - (h - m) ** 3
        torch.testing.assert_close(at.grad, 2 * truth / 5)


ELEMENTWISE = {
    **{
        f.__name__: f
        for f in (
            *(torch.exp, torch.exp2, torch.expm1, torch.sinh, torch.cosh, torch.erf, torch.log),
            *(torch.log2, torch.log10, torch.log1p, torch.logit, torch.square, torch.sqrt),
            *(torch.rsqrt, torch.reciprocal, torch.sin, torch.cos, torch.tan, torch.atan),
            *(torch.asin, torch.acos, torch.asinh, torch.atanh, torch.abs, torch.special.ndtr),
            *(torch.sigmoid, torch.tanh, F.relu, F.relu6, F.silu, F.mish, F.gelu, F.selu, F.elu),
            *(F.celu, F.leaky_relu, F.hardtanh, F.hardsigmoid, F.hardswish, F.hardshrink),
            *(F.softplus, F.softshrink, F.softsign, F.tanhshrink, F.logsigmoid),
        )
    },
    "acosh": lambda h: torch.acosh(1 + h),
    "method": lambda h: h.exp(),
    "square by **": lambda h: h**2,
    "root by **": lambda h: h**0.5,
    "inverse by **": lambda h: h**-1,
    "pow": lambda h: torch.pow(h, 3),
    "pow, named": lambda h: torch.pow(h, exponent=1.5),
    "clamp": lambda h: torch.clamp(h, 0.3, 0.7),
    "clamp, named": lambda h: h.clamp(max=0.7),
    "leaky_relu, slope": lambda h: F.leaky_relu(h - 0.5, 0.3),
    "elu, alpha": lambda h: F.elu(h - 0.5, 1.7),
    "celu, named": lambda h: F.celu(h - 0.5, alpha=0.6),
    "gelu, tanh": lambda h: F.gelu(h, approximate="tanh"),
    "hardtanh, ends": lambda h: F.hardtanh(h, 0.2, max_val=0.6),
    "softplus, beta": lambda h: F.softplus(h, 2.5),
    "threshold": lambda h: F.threshold(h, 0.4, 0.1),
    "softshrink, lambda": lambda h: F.softshrink(h, 0.2),
    "in place": lambda h: (1 * h).exp_(),
    "pow in place": lambda h: (1 * h).pow_(2.5),
}
"""Elementwise functions with a closed form, as a forward may call them on numbers in (0, 1)."""

OTHERS = {
    "logit, eps": lambda h: torch.logit(h, 0.4),
    "logit, eps named": lambda h: torch.special.logit(h, eps=0.4),
    "pow, tensor": lambda h: torch.pow(h, torch.tensor(1.5, dtype=h.dtype)),
    "power of": lambda h: 1.5**h,
    "clamp, crossed": lambda h: torch.clamp(h, 0.7, 0.3),  # 0.3 everywhere
    "clamp, tensor": lambda h: torch.clamp(h, torch.full((WIDTH,), 0.5, dtype=h.dtype)),
    "softplus, threshold": lambda h: F.softplus(h, 1.0, 0.5),
}
"""The same with settings for which there is no closed form."""


class Below(nn.Module):
    """A function called on a layer's output h, which equals the input."""

    def __init__(self, phi):
        super().__init__()
        self.layer, self.phi = nn.Linear(WIDTH, WIDTH, bias=False), phi
        nn.init.eye_(self.layer.weight)

    def forward(self, x):
        return self.phi(self.layer(x))


def errors_at(phi, h, d, two_sided, dtype):
    """Compute the error at h under a rule with moves of len(h) d."""
    found = []

    def watch(module, inputs, output):
        output.register_hook(found.append)

    rule = lra.LRAE(1.0, two_sided=two_sided)
    model = lra.convert(Below(phi).to(dtype), rule, example=h.to(dtype))
    model.layer.register_forward_hook(watch)
    model(h.to(dtype)).backward(d.to(dtype))
    return found[0]


def numbers(size):
    torch.manual_seed(0)
    return 0.1 + 0.8 * torch.rand(50, WIDTH), size * torch.randn(50, WIDTH) / 50


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("phi", (ELEMENTWISE | OTHERS).values(), ids=ELEMENTWISE | OTHERS)
def test_errors_at_functions_equal_their_formulas(phi, two_sided):
    h, d = (t.double() for t in numbers(1e-2))
    m = 50 * d
    expected = (phi(h + m) - phi(h - m)) / 2 if two_sided else phi(h) - phi(h - m)
    e = errors_at(phi, h, d, two_sided, torch.float64)
    torch.testing.assert_close(e, expected / 50, rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("phi", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_errors_at_functions_are_exact_in_float32(phi, two_sided):
    """Subtraction would lose two to three of float32's seven digits."""
    e, exact = (errors_at(phi, *numbers(1e-3), two_sided, t) for t in (torch.float32, torch.double))
    assert exact.any()
    assert (e - exact).norm() <= 3e-6 * exact.norm()


# Backprop, which intercepts nothing


FREE = {
    "own weights": lambda: FreeWeights(),
    "recurrent": lambda: nn.LSTM(WIDTH, 3),
    "cell": lambda: nn.GRUCell(WIDTH, 3),
    "parametrized": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, 3))
    ),
}


class FreeWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(WIDTH, 8)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x):
        return torch.tanh(x @ self.w) @ self.v


@pytest.mark.parametrize("given", [True, False], ids=["example", "scan"])
@pytest.mark.parametrize("build", FREE.values(), ids=FREE)
def test_backprop_converts_what_other_rules_intercept(build, given):
    def gradients(model):
        model.zero_grad()
        out = model(x)
        (out[0] if isinstance(out, tuple) else out).square().mean().backward()
        return taken(model)

    x, model = torch.randn(6, WIDTH), build()
    kinds, plain = [type(m) for m in model.modules()], gradients(model)
    lra.convert(model, lra.Backprop(), example=x if given else None)
    assert lra.is_converted(model)
    assert lra.feedback_parameters(model) == []
    assert lra.coverage(model).full == given
    assert_same(gradients(model), plain)
    assert_same(gradients(copy.deepcopy(model)), plain)
    lra.restore(model)
    assert [type(m) for m in model.modules()] == kinds
    lra.convert(model, lra.FeedbackAlignment(), example=x)


# Forms of the example


def test_an_example_may_be_a_named_tuple():
    Pair = collections.namedtuple("Pair", "first second")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(WIDTH, 3))

        def forward(self, pair):
            return torch.relu(pair.first @ self.w) + pair.second

    pair = Pair(torch.randn(4, WIDTH), torch.randn(4, 3))
    for example in (pair, (pair,), {"pair": pair}):
        assert lra.coverage(lra.convert(Net(), lra.LRAE(), example=example)).full


def test_an_example_may_be_a_packed_sequence():
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(4, 3, WIDTH), torch.tensor([4, 3, 2]))
    model = lra.convert(nn.LSTM(WIDTH, 6), lra.LRAE(), example=packed)
    assert lra.coverage(model).full
    model(packed)[0].data.square().mean().backward()
    assert model.weight_ih_l0.grad.any()


def test_an_example_may_be_a_dict_of_names_or_hold_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(WIDTH, 3))

        def forward(self, batch, scale=1.0):
            return scale * torch.relu(batch["x"] @ self.w)

    batch = {"x": torch.randn(4, WIDTH)}
    for example in ((batch,), {"batch": batch, "scale": 2.0}, [batch, 0.5]):
        assert lra.coverage(lra.convert(Net(), lra.LRAE(), example=example)).full
