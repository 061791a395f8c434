"""Closed form: the backward pass of each layer against its formula, written out in float64."""

import copy
import pickle

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from nets import ACTIVATION_CASES, alone, name_of
from torch import nn
from torch.nn import functional as F

import lra
from lra.torch.registry import WEIGHT_LAYERS

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
FA = lra.FeedbackAlignment()
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def check_weight_layer(plain: nn.Module, x: torch.Tensor, gamma: float = -0.7) -> None:
    """Check that d is the layer's adjoint at E, dW and db are autograd's, and dE = gamma dW."""
    layer = alone(copy.deepcopy(plain), lra.KolenPollack(gamma=gamma))
    z = x.clone().requires_grad_()
    h = layer(z)
    expected = plain(x)
    assert torch.equal(h, expected)
    e = torch.randn_like(h)
    h.backward(e)

    names, parameters = zip(*plain.named_parameters(), strict=True)
    for name, g in zip(names, torch.autograd.grad(expected, parameters, e), strict=True):
        torch.testing.assert_close(getattr(layer, name).grad, g, **CLOSE)
    torch.testing.assert_close(layer.feedback.grad, gamma * layer.weight.grad, **CLOSE)

    at_E = copy.deepcopy(plain)
    with torch.no_grad():
        at_E.weight.copy_(layer.feedback)
    other = x.clone().requires_grad_()
    (d,) = torch.autograd.grad(at_E(other), other, e)
    torch.testing.assert_close(z.grad, d, **CLOSE)


@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    n_in=st.integers(1, 4),
    n_out=st.integers(1, 4),
    bias=st.booleans(),
)
def test_linear(leading, n_in, n_out, bias):
    check_weight_layer(nn.Linear(n_in, n_out, bias).double(), torch.randn(*leading, n_in).double())


def test_linear_sends_e_times_feedback():
    layer = alone(nn.Linear(3, 3).double(), FA)  # square: E must not be transposed
    x = torch.randn(2, 3).double().requires_grad_()
    e = torch.randn(2, 3).double()
    layer(x).backward(e)
    torch.testing.assert_close(x.grad, e @ layer.feedback, **CLOSE)
    torch.testing.assert_close(layer.weight.grad, e.T @ x, **CLOSE)
    torch.testing.assert_close(layer.bias.grad, e.sum(0), **CLOSE)


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))

    def per_dim(most, least=1):
        return tuple(draw(st.integers(least, most)) for _ in range(dims))

    kernel, dilation = per_dim(3), per_dim(2)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), st.just(per_dim(2, 0))))
    stride = (1,) * dims if padding == "same" else per_dim(2)
    size = tuple(r + draw(st.integers(2, 3)) for r in reach)
    if padding != "valid":
        widest = reach if padding == "same" else padding
        assume(all(p < s for p, s in zip(widest, size, strict=True)))
    plain = CONVOLUTIONS[dims](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    ).double()
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    return plain, torch.randn(*batch, plain.in_channels, *size).double()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own
@given(convolutions())
def test_convolution(case):
    check_weight_layer(*case)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dims", CONVOLUTIONS)
def test_uneven_same_padding(dims, mode):
    kernel, dilation = (2, 4, 2)[:dims], (1, 1, 3)[:dims]
    plain = CONVOLUTIONS[dims](
        2, 3, kernel, padding="same", dilation=dilation, padding_mode=mode
    ).double()
    check_weight_layer(plain, torch.randn(2, 2, *(5, 6, 7)[:dims]).double())
    check_weight_layer(plain, torch.randn(2, *(5, 6, 7)[:dims]).double())


def out_of_place(cls: type[nn.Module], options: dict) -> nn.Module:
    """Build the plain module, out of place and with RReLU's mean slope."""
    return cls(**{k: v for k, v in options.items() if k != "inplace"}).double().eval()


def pre_activations(*shape: int) -> torch.Tensor:
    """Draw values on both sides of every kink, a few of them large."""
    return torch.randn(*shape).double() * torch.logspace(-1, 0.7, shape[-1]).double()


@pytest.mark.parametrize(("cls", "options"), ACTIVATION_CASES, ids=name_of)
@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_target_difference_of_an_activation(cls, options, gain):
    beta, N = 0.3, 4
    phi = out_of_place(cls, options)
    layer = alone(cls(**options).double().eval(), lra.LRAE(beta=beta, gain=gain))
    leaf = pre_activations(N, 3, 50).requires_grad_()
    h = leaf * 1.0
    given_h = h.detach().clone()
    z = layer(h)
    if options.get("inplace"):
        assert z.data_ptr() == h.data_ptr()
        assert torch.equal(h, phi(given_h))
    else:
        assert torch.equal(h, given_h)
    d = torch.randn_like(z)
    z.backward(d)
    with torch.no_grad():
        e = gain * (phi(given_h) - phi(given_h - beta * N * d)) / N
    torch.testing.assert_close(leaf.grad, e, **CLOSE)


@pytest.mark.parametrize(
    ("loss", "derivative"),
    [
        (lra.crossing.Squared(), lambda u: u),
        (lra.crossing.Absolute(), torch.sign),
        (lra.crossing.Cauchy(), lambda u: u / (1 + u**2)),
    ],
    ids=["squared", "absolute", "cauchy"],
)
@pytest.mark.parametrize(
    ("surrogate", "s"),
    [
        (None, torch.sigmoid),
        (lra.crossing.TanhSurrogate(), torch.tanh),
        (lra.crossing.IdentitySurrogate(), lambda v: v),
    ],
    ids=["phi", "tanh", "identity"],
)
def test_local_losses_and_surrogates(loss, derivative, surrogate, s):
    beta, gain, N = 0.4, 1.7, 3
    layer = alone(nn.Sigmoid(), lra.LRAE(beta, gain=gain, local_loss=loss, surrogate=surrogate))
    h, d = torch.randn(N, 4).double().requires_grad_(), torch.randn(N, 4).double()
    layer(h).backward(d)
    with torch.no_grad():
        e = gain * derivative(s(h) - s(h - beta * N * d)) / N
    torch.testing.assert_close(h.grad, e, **CLOSE)


@pytest.mark.parametrize(
    ("terms", "N"),
    [("batch", 2), ("tokens", 6), (lra.loss_terms.LossTerms.TOKENS, 6), (1, 1), (7.5, 7.5)],
)
def test_loss_terms_set_n(terms, N):
    layer = alone(nn.Tanh(), lra.LRAE(beta=0.2), loss_terms=terms)
    h, d = torch.randn(2, 3, 4).double().requires_grad_(), torch.randn(2, 3, 4).double()
    layer(h).backward(d)
    e = (torch.tanh(h) - torch.tanh(h - 0.2 * N * d)) / N
    torch.testing.assert_close(h.grad, e.detach(), **CLOSE)
    model = nn.Sequential(nn.Linear(1, 1), layer)
    lra.set_loss_terms(model, 3)
    h.grad = None
    layer(h).backward(d)
    e = (torch.tanh(h) - torch.tanh(h - 0.2 * 3 * d)) / 3
    torch.testing.assert_close(h.grad, e.detach(), **CLOSE)


@pytest.mark.parametrize("inplace", [False, True])
@given(N=st.integers(1, 4), lower=st.floats(0.05, 0.2), width=st.floats(0, 0.5))
def test_rrelu_takes_targets_with_the_slopes_of_its_forward(inplace, N, lower, width):
    layer = alone(nn.RReLU(lower, lower + width, inplace=inplace).double(), lra.LRAE(beta=0.3))
    leaf = torch.randn(N, 20).double().requires_grad_()
    z = layer(leaf * 1.0)
    d = torch.randn(N, 20).double()
    z.backward(d)
    h, z = leaf.detach(), z.detach()
    slope = torch.where(h < 0, z / h, lower + width / 2)
    assert ((slope >= lower - 1e-12) & (slope <= lower + width + 1e-12)).all()
    target = h - 0.3 * N * d
    y = torch.where(target < 0, slope * target, target)
    torch.testing.assert_close(leaf.grad, (z - y) / N, **CLOSE)


@pytest.mark.parametrize("slopes", [1, 3])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 2, 2), (6,)], ids=str)
def test_prelu_slopes_get_autograds_gradient(slopes, shape):
    if slopes == 3 and len(shape) == 1:
        shape = (3,)
    plain = nn.PReLU(slopes).double()
    nn.init.uniform_(plain.weight, 0.1, 0.9)
    layer = alone(copy.deepcopy(plain), lra.LRAE())
    h, d = torch.randn(shape).double(), torch.randn(shape).double()
    if slopes == 3 and len(shape) == 1:
        h, d = h[None], d[None]
    layer(h).backward(d)
    plain(h).backward(d)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, **CLOSE)


@pytest.mark.parametrize("magnitude", list(lra.feedback.Magnitude))
def test_sign_symmetric_feedback(magnitude):
    layer = alone(nn.Linear(4, 5).double(), lra.SignSymmetry(magnitude))
    with torch.no_grad():
        layer.weight[0, 0] = 0.0

    def feedback_in_use():
        x, e = torch.zeros(5, 4).double().requires_grad_(), torch.eye(5).double()
        layer(x).backward(e)
        return x.grad  # e E with e = 1

    E = feedback_in_use()
    assert torch.equal(E.sign(), layer.weight.sign())
    bound = 1 / 4**0.5
    if magnitude == "uniform":
        torch.testing.assert_close(E, bound * layer.weight.sign(), **CLOSE)
        assert layer.feedback is None
    else:
        assert E.abs().max() <= bound
        assert E.abs().std() > 0.05
    assert torch.equal(feedback_in_use(), E) is (magnitude != "batch")
    with torch.no_grad():
        layer.weight.neg_()
    if magnitude != "batch":
        assert torch.equal(feedback_in_use(), -E)  # the sign follows the current weights
    if magnitude == "fixed":
        torch.testing.assert_close(E.abs(), torch.where(E == 0, 0, layer.feedback.abs()), **CLOSE)


@pytest.mark.parametrize(
    ("init", "bound", "std"),
    [
        (lra.inits.FanIn(), 1 / 20, 1 / 20 / 3**0.5),
        (lra.inits.FanIn(scale=3.0), 3 / 20, 3 / 20 / 3**0.5),
        (lra.inits.Normal(), 1.0, 0.1),
        (lra.inits.Normal(std=0.5), 5.0, 0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("layer", [(nn.Linear, 400, 300), (nn.Conv2d, 16, 300, 5)], ids=name_of)
def test_bounds_and_deviation_of_drawn_feedback(layer, init, bound, std):
    cls, *sizes = layer
    E = alone(cls(*sizes), lra.FeedbackAlignment(init)).feedback  # each unit has 400 inputs
    assert E.abs().max() <= bound
    assert abs(E.std() / std - 1) < 0.02
    assert abs(E.mean()) < 0.02 * std


def test_each_layer_draws_its_own_feedback():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))
    lra.convert(model, FA)
    assert model[0].feedback is None
    assert not torch.equal(model[1].feedback, model[2].feedback)
    assert not torch.equal(model[1].feedback, model[1].weight)


def test_frozen_weights_and_their_feedback_get_no_gradient():
    layer = alone(nn.Linear(3, 2), lra.KolenPollack())
    layer.weight.requires_grad_(False)
    layer(torch.randn(4, 3)).sum().backward()
    assert layer.weight.grad is None
    assert layer.feedback.grad is None  # E is learned only while W is
    assert layer.bias.grad is not None


class Subtracted(nn.Module):
    """tanh in a class without a closed form, so that the rule subtracts y from z."""

    def forward(self, h):
        return torch.tanh(h)


@pytest.mark.parametrize("phi", [nn.Tanh, Subtracted], ids=["closed form", "subtracted"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_targets_are_taken_in_float32_at_least(dtype, phi):
    beta, N = 0.1, 8
    h = (2 * torch.rand(N, 500) - 1).to(dtype).requires_grad_()
    d = (0.05 * torch.randn(N, 500)).to(dtype)
    layer = alone(phi(), lra.LRAE(beta=beta))
    z = layer(h)
    assert z.dtype == dtype
    z.backward(d)

    def distance(e):
        return ((e.double() - exact).norm() / exact.norm()).item()

    with torch.no_grad():
        wide_h, wide_d = h.double(), d.double()
        exact = (torch.tanh(wide_h) - torch.tanh(wide_h - beta * N * wide_d)) / N
        naive = (torch.tanh(h) - torch.tanh(h - beta * N * d)) / N
    bound = torch.finfo(dtype).eps  # twice the error of rounding the result
    assert h.grad.dtype == dtype
    assert distance(h.grad) < bound
    assert distance(naive) > 3 * bound  # so the bound would detect targets in 16 bits


class Transposed(nn.Module):
    """A linear layer with a weight of (in, out), such as Conv1D of Hugging Face's transformers."""

    def __init__(self, inputs, outputs, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs)
        self.bias = nn.Parameter(torch.randn(outputs)) if bias else None

    def forward(self, z):
        h = z @ self.weight
        return h if self.bias is None else h + self.bias


def multiply(layer, z, W, b):
    h = z @ W
    return h if b is None else h + b


@pytest.fixture
def _registered():
    known = dict(WEIGHT_LAYERS)
    lra.register_weight_layer(Transposed, multiply)
    yield
    for cls in WEIGHT_LAYERS.keys() - known.keys():
        del WEIGHT_LAYERS[cls]


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("bias", [True, False])
def test_a_registered_product_equals_a_linear_layer(bias):
    first, second, third = (Transposed(*size, bias) for size in ((4, 6), (6, 5), (5, 3)))
    model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), third).double()
    x, t = torch.randn(7, 4).double(), torch.arange(7) % 3
    twin = nn.Sequential(
        *(nn.Linear(*m.weight.shape, bias) if isinstance(m, Transposed) else nn.Tanh()
          for m in model)
    ).double()  # fmt: skip
    lra.convert(model, lra.LRAE(0.3))
    lra.convert(twin, lra.LRAE(0.3))
    with torch.no_grad():
        for a, b in zip(model, twin, strict=True):
            if isinstance(a, Transposed):
                b.weight.copy_(a.weight.t())
                if bias:
                    b.bias.copy_(a.bias)
                if a.feedback is not None:
                    b.feedback.copy_(a.feedback.t())
    for net in (model, twin):
        F.cross_entropy(net(x), t).backward()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        expected = b.grad.t() if a.dim() == 2 else b.grad
        torch.testing.assert_close(a.grad, expected, rtol=1e-12, atol=1e-14, msg=name)
    unpickled = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(unpickled(x), model(x))
    lra.restore(model)
    assert type(model[0]) is Transposed
    assert not hasattr(model[0], "checked")


@pytest.mark.usefixtures("_registered")
def test_a_wrong_product_is_refused():
    lra.register_weight_layer(Transposed, lambda layer, z, W, b: z @ W)
    model = lra.convert(nn.Sequential(Transposed(4, 6), nn.Tanh(), Transposed(6, 3)), lra.LRAE())
    with pytest.raises(
        lra.errors.RuleError,
        match=r"'0': the product registered for Transposed computes another h .* register the same",
    ):
        model(torch.randn(5, 4))


@pytest.mark.usefixtures("_registered")
def test_a_registered_product_may_always_add_the_bias():
    lra.register_weight_layer(Transposed, lambda layer, z, W, b: z @ W + b)
    model = nn.Sequential(Transposed(4, 6), nn.Tanh(), Transposed(6, 3)).double()
    lra.convert(model, lra.MirroredLRA())
    E, W = model[2].feedback, model[2].weight
    assert (E - W).norm() < 0.1 * W.norm()  # so the mirror saw no bias
    F.cross_entropy(model(torch.randn(5, 4).double()), torch.arange(5) % 3).backward()


@pytest.mark.usefixtures("_registered")
def test_a_registered_layer_with_other_parameters_is_refused():
    class Scaled(Transposed):
        def __init__(self):
            super().__init__(4, 4)
            self.scale = nn.Parameter(torch.ones(4))

    lra.register_weight_layer(Scaled, multiply)
    with pytest.raises(lra.errors.ConversionError, match="has scale beside weight and bias"):
        lra.convert(nn.Sequential(Scaled()), lra.LRAE())


@pytest.mark.parametrize(
    ("cls", "product", "message"),
    [
        (nn.Linear, multiply, "Linear is a weight layer already"),
        (3, multiply, r"expected a subclass of torch\.nn\.Module, got 3"),
        (Transposed, 3, r"expected a function of \(layer, z, W, b\), got 3; .* black_box=True"),
    ],
)
def test_registering_something_else_is_refused(cls, product, message):
    with pytest.raises(lra.errors.OptionError, match=f"register_weight_layer: {message}"):
        lra.register_weight_layer(cls, product)
    assert Transposed not in WEIGHT_LAYERS
