"""Closed form: the axes' arithmetic against each formula written out here, in NumPy and torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lra
from lra.differences import Phi, known
from lra.feedback import Stored
from lra.loss_terms import check_terms, count_terms
from lra.torch.layers.sampler import FeedbackSampler

NAMESPACES = pytest.mark.parametrize(
    ("xp", "array"),
    [(np, np.asarray), (torch, lambda a: torch.from_numpy(np.array(a)))],
    ids=["numpy", "torch"],
)
rng = np.random.default_rng(0)
FINITE = st.floats(-1e3, 1e3)
LOSSES = {
    lra.crossing.Squared(): lambda u: u,
    lra.crossing.Absolute(): lambda u: (u > 0) * 1.0 - (u < 0) * 1.0,
    lra.crossing.Cauchy(): lambda u: u / (1 + u * u),
}
ENERGIES = {
    lra.crossing.Squared(): lambda u: u * u / 2,
    lra.crossing.Absolute(): abs,
    lra.crossing.Cauchy(): lambda u: math.log(1 + u * u) / 2,
}


def close(actual, expected, **options):
    torch.testing.assert_close(
        torch.as_tensor(actual), torch.as_tensor(expected), rtol=1e-12, atol=1e-14, **options
    )


def no_draw(kind, scale):
    raise AssertionError("nothing should be drawn")


@NAMESPACES
@pytest.mark.parametrize(("loss", "derivative"), LOSSES.items(), ids=str)
def test_local_losses_have_their_derivatives(xp, array, loss, derivative):
    u = np.concatenate([rng.normal(size=20), [0.0, 1e-9, 1e9, -1e9]])
    close(loss.derivative(array(u), xp), derivative(u))


@pytest.mark.parametrize(("loss", "energy"), ENERGIES.items(), ids=str)
@given(u=FINITE.filter(lambda u: abs(u) > 1e-3))
def test_derivative_matches_the_slope_of_the_local_loss(loss, energy, u):
    step = 1e-6 * max(1.0, abs(u))
    slope = (energy(u + step) - energy(u - step)) / (2 * step)
    assert loss.derivative(np.float64(u), np) == pytest.approx(slope, rel=1e-3, abs=1e-6)


@NAMESPACES
def test_surrogates_compute_their_functions(xp, array):
    h = rng.normal(size=20)
    close(lra.crossing.IdentitySurrogate()(array(h), xp), h)
    close(lra.crossing.TanhSurrogate()(array(h), xp), np.tanh(h))
    close(lra.crossing.HardTanhSurrogate()(array(3 * h), xp), np.minimum(np.maximum(3 * h, -1), 1))
    close(lra.crossing.SigmoidSurrogate()(array(h), xp), 1 / (1 + np.exp(-h)))
    far = lra.crossing.SigmoidSurrogate()(array(np.array([-1e4, 1e4])), xp)
    close(far, np.array([0.0, 1.0]))


@NAMESPACES
@pytest.mark.parametrize(("loss", "derivative"), LOSSES.items(), ids=str)
@pytest.mark.parametrize(
    ("surrogate", "s"),
    [
        (None, lambda h: h**3),
        (lra.crossing.TanhSurrogate(), np.tanh),
        (lra.crossing.IdentitySurrogate(), lambda h: h),
    ],
    ids=["phi", "tanh", "identity"],
)
def test_target_difference_equals_its_formula(xp, array, loss, derivative, surrogate, s):
    beta, gain, N = 0.3, 1.9, 5
    crossing = lra.crossing.TargetDifference(beta, gain, loss, surrogate)
    h, d = rng.normal(size=(2, N, 4))
    e = crossing.error(lambda v: v**3, array(h), array(h**3), array(d), N, xp)
    close(e, gain * derivative(s(h) - s(h - beta * N * d)) / N)


SCALES = {
    None: lambda d, N: np.full((len(d), 1, 1), 1 / N),
    "sample": lambda d, N: np.stack([abs(sample).max(keepdims=True) for sample in d]),
    "batch": lambda d, N: np.full((len(d), 1, 1), abs(d).max()),
    "unit": lambda d, N: abs(d),
}
PHIS = {
    "function": (lambda xp: lambda v: v**3, lambda v: v**3, None),
    "closed form": (lambda xp: known("tanh", xp.tanh), np.tanh, None),
    "surrogate": (lambda xp: lambda v: v**3, np.tanh, lra.crossing.TanhSurrogate()),
}
"""What a crossing receives as phi, the function whose targets it compares, and the surrogate."""


@NAMESPACES
@pytest.mark.parametrize(("relative", "scale"), SCALES.items(), ids=str)
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(("loss", "derivative"), LOSSES.items(), ids=str)
@pytest.mark.parametrize(("build", "s", "surrogate"), PHIS.values(), ids=PHIS)
def test_forms_of_the_target_difference_equal_their_formulas(
    xp, array, relative, scale, normalized, two_sided, loss, derivative, build, s, surrogate
):
    beta, gain, N = 0.3, 1.9, 5
    crossing = lra.crossing.TargetDifference(
        beta, gain, loss, surrogate,
        normalized=normalized, two_sided=two_sided, relative=relative,
    )  # fmt: skip
    h, d = rng.normal(size=(2, N, 4, 3))
    size = scale(d, N)
    move = beta * d / size
    difference = (s(h + move) - s(h - move)) / 2 if two_sided else s(h) - s(h - move)
    expected = (gain / beta if normalized else gain) * size * derivative(difference)
    phi, z = build(xp), np.asarray(build(np)(h))
    given = array(h), array(z), array(d)
    close(crossing.error(phi, *given, N, xp), expected)
    close(crossing.error(phi, given[0], None, given[2], N, xp), expected)
    for array_given, before in zip(given, (h, z, d), strict=True):
        assert (np.asarray(array_given) == before).all()


EXACT = {
    "tanh": (
        lambda xp: known("tanh", xp.tanh),
        lambda h, D: np.sinh(D) / np.cosh(h) / np.cosh(h - D),
    ),
    "exp": (lambda xp: known("exp", xp.exp), lambda h, D: np.exp(h - D) * np.expm1(D)),
    "log": (lambda xp: known("log", xp.log), lambda h, D: np.log1p(D / (h - D))),
    "sqrt": (lambda xp: known("sqrt", xp.sqrt), lambda h, D: D / (h**0.5 + (h - D) ** 0.5)),
}
"""Activations with a closed form, and phi(h) - phi(h - D) by formulas without cancellation."""


@NAMESPACES
@pytest.mark.parametrize("relative", [None, "unit", "sample", "batch"])
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("beta", [1e-3, 1e-9, 1e-15])
@pytest.mark.parametrize(("build", "difference"), EXACT.values(), ids=EXACT)
def test_short_moves_lose_no_digits(xp, array, relative, two_sided, beta, build, difference):
    """By subtraction, six digits would be left at beta 1e-9, and none at 1e-15."""
    N = 5
    crossing = lra.crossing.TargetDifference(beta, two_sided=two_sided, relative=relative)
    h, d = rng.uniform(1, 2, size=(N, 4)), rng.normal(size=(N, 4))
    size = SCALES[relative](d[:, None], N)[:, 0]
    move = beta * d / size
    expected = difference(h + move, 2 * move) / 2 if two_sided else difference(h, move)
    e = crossing.error(build(xp), array(h), None, array(d), N, xp)
    torch.testing.assert_close(
        torch.as_tensor(e), torch.as_tensor(size * expected), rtol=1e-14, atol=0
    )


@NAMESPACES
def test_short_moves_through_a_surrogate_lose_no_digits(xp, array):
    crossing = lra.crossing.TargetDifference(1e-9, surrogate=lra.crossing.TanhSurrogate())
    h, d = rng.normal(size=(2, 5, 4))
    e = crossing.error(lambda v: v**3, array(h), None, array(d), 5, xp)
    expected = EXACT["tanh"][1](h, 5e-9 * d) / 5
    torch.testing.assert_close(torch.as_tensor(e), torch.as_tensor(expected), rtol=1e-14, atol=0)


DOMAINS = {
    "log": (np.log, lambda h: h),
    "log1p": (np.log1p, lambda h: 1 + h),
    "sqrt": (np.sqrt, lambda h: h),
    "asin": (np.arcsin, lambda h: 1 - abs(h)),
    "acosh": (np.arccosh, lambda h: h - 1),
    "atanh": (np.arctanh, lambda h: 1 - abs(h)),
    "reciprocal": (lambda v: 1 / v, abs),
}
"""Functions that are not defined everywhere, and the distance from h to where they end."""


@NAMESPACES
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("name", DOMAINS)
def test_targets_stay_inside_the_domain(xp, array, name, two_sided):
    """A move is limited to half the distance from h to the end of the domain."""
    f, distance = DOMAINS[name]
    h = {"acosh": 1 + rng.random((40, 5)), "reciprocal": rng.normal(size=(40, 5))}.get(
        name, rng.random((40, 5))
    )
    d = rng.normal(size=(40, 5)) * 10.0 ** rng.integers(-4, 2, (40, 5))
    crossing = lra.crossing.TargetDifference(1.0, two_sided=two_sided)
    room = distance(h) / 2
    assert (abs(d) > room).any()
    assert (abs(d) < room).any()
    move = np.clip(d, -room, room)
    expected = (f(h + move) - f(h - move)) / 2 if two_sided else f(h) - f(h - move)
    assert np.isfinite(expected).all()
    form = known(name, {np: f}.get(xp) or (lambda v: torch.from_numpy(f(v.numpy()))))
    given = array(h), array(f(h)), array(d)
    for phi in (form, Phi(form.f, None, form.room)):  # in closed form, and by subtraction
        e = crossing.error(phi, *given, 1, xp)
        torch.testing.assert_close(
            torch.as_tensor(e), torch.as_tensor(expected), rtol=1e-9, atol=1e-12
        )


@NAMESPACES
@pytest.mark.parametrize("relative", ["unit", "sample", "batch"])
@pytest.mark.parametrize("S", [1e-4, 1.0, 65536.0, 1e-30])
def test_relative_targets_ignore_the_scale_of_the_loss(xp, array, relative, S):
    crossing = lra.crossing.TargetDifference(
        0.7, two_sided=True, normalized=True, relative=relative
    )
    assert not crossing.needs_terms
    h, d = rng.normal(size=(2, 5, 4))
    d[2] = 0  # a sample without an error
    e = crossing.error(np.tanh if xp is np else torch.tanh, array(h), array(h), array(d), 5, xp)
    scaled = crossing.error(
        np.tanh if xp is np else torch.tanh, array(h), array(h), array(S * d), 77, xp
    )
    close(scaled / S, e)
    assert not np.asarray(e)[2].any()


@pytest.mark.parametrize("relative", [None, "unit", "sample", "batch"])
def test_empty_batches_give_empty_errors(relative):
    crossing = lra.crossing.TargetDifference(relative=relative)
    for shape in ((0, 3), (2, 0)):
        empty = np.zeros(shape)
        assert crossing.error(np.tanh, empty, empty, empty, 1, np).shape == shape


def test_targets_per_unit_follow_the_chord_of_phi():
    h, d = rng.normal(size=(2, 3, 4))
    crossing = lra.crossing.TargetDifference(0.8, normalized=True, two_sided=True, relative="unit")
    chord = (np.tanh(h + 0.8) - np.tanh(h - 0.8)) / 1.6
    close(crossing.error(np.tanh, h, np.tanh(h), d, 3, np), chord * d)
    sign = (abs(h) < 0.8) / 0.8  # of a step of 2 at 0
    close(crossing.error(np.sign, h, np.sign(h), d, 3, np), sign * d)


def test_relative_if_flat_applies_at_steps_without_a_surrogate():
    rule = lra.crossing.TargetDifference(relative="batch", relative_if_flat="unit")
    assert rule.at_steps() == lra.crossing.TargetDifference(
        relative="unit", relative_if_flat="unit"
    )
    with_surrogate = lra.crossing.TargetDifference(
        relative="batch", relative_if_flat="unit", surrogate=lra.crossing.TanhSurrogate()
    )
    assert with_surrogate.at_steps() == with_surrogate
    assert lra.crossing.TargetDifference(relative="batch").at_steps().relative == "batch"
    assert lra.crossing.Derivative().at_steps() == lra.crossing.Derivative()


@pytest.mark.parametrize("relative", [None, "unit", "sample", "batch"])
def test_two_sided_targets_have_a_bias_of_second_order(relative):
    h, d = rng.normal(size=(2, 3, 4))
    truth = (1 - np.tanh(h) ** 2) * d

    def distance(beta):
        crossing = lra.crossing.TargetDifference(
            beta, normalized=True, two_sided=True, relative=relative
        )
        return np.abs(crossing.error(np.tanh, h, np.tanh(h), d, 3, np) - truth).max()

    assert 95 < distance(1e-2) / distance(1e-3) < 105


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative": "token"}, "relative must be one of unit, sample, batch, got 'token'"),
        (
            {"relative_if_flat": "steps"},
            "relative_if_flat must be one of unit, sample, batch, got 'steps'",
        ),
        ({"two_sided": 1}, "two_sided must be True or False, got 1"),
        ({"normalized": "yes"}, "normalized must be True or False, got 'yes'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(lra.errors.OptionError, match=message):
        lra.crossing.TargetDifference(**options)
    with pytest.raises(lra.errors.OptionError, match=message):
        lra.Rule(lra.feedback.Learned(), lra.crossing.TargetDifference(**options))


@pytest.mark.parametrize(("relative", "scale"), SCALES.items(), ids=str)
def test_move_is_the_distance_of_the_target(relative, scale):
    d = rng.normal(size=(2, 4, 3))
    crossing = lra.crossing.TargetDifference(0.3, relative=relative)
    close(crossing.move(d, 2, np), 0.3 * d / scale(d, 2))
    assert lra.crossing.Derivative().move(d, 2, np) is None


@given(
    beta=st.floats(1e-3, 10),
    gain=st.floats(0.1, 10),
    n=st.integers(1, 100),
    scale=st.floats(0.1, 10),
)
def test_scaling_the_loss_and_its_terms_scales_the_error(beta, gain, n, scale):
    crossing = lra.crossing.TargetDifference(beta, gain)
    h, d = np.linspace(-2, 2, 9), np.linspace(1, -1, 9) / n
    e = crossing.error(np.tanh, h, np.tanh(h), d, n, np)
    scaled = crossing.error(np.tanh, h, np.tanh(h), scale * d, n / scale, np)
    torch.testing.assert_close(
        torch.from_numpy(scaled), torch.from_numpy(scale * e), rtol=1e-9, atol=1e-12
    )


def test_normalized_target_difference_tends_to_the_derivative():
    h, d = rng.normal(size=(2, 3, 4))
    truth = (1 - np.tanh(h) ** 2) * d

    def distance(beta):
        crossing = lra.crossing.TargetDifference(beta, 1 / beta)
        return np.abs(crossing.error(np.tanh, h, np.tanh(h), d, 3, np) - truth).max()

    assert distance(1e-5) < 1e-4
    assert 9 < distance(1e-4) / distance(1e-5) < 11


@pytest.mark.parametrize(
    ("terms", "shape", "N"),
    [
        (lra.loss_terms.LossTerms.BATCH, (7,), 7),
        (lra.loss_terms.LossTerms.BATCH, (7, 3, 2), 7),
        (lra.loss_terms.LossTerms.TOKENS, (7, 3, 2), 21),
        (lra.loss_terms.LossTerms.TOKENS, (7, 2), 7),
        (lra.loss_terms.LossTerms.TOKENS, (7,), 1),
        (lra.loss_terms.LossTerms.BATCH, (0, 3), 1),
        (lra.loss_terms.LossTerms.TOKENS, (4, 0, 3), 1),
        (2.5, (7, 3), 2.5),
        (1, (7, 3), 1),
    ],
)
def test_loss_terms_are_counted_from_the_shape(terms, shape, N):
    assert count_terms(terms, shape) == N


@pytest.mark.parametrize("terms", ["batch", "tokens", 1, 0.5, 2**20])
def test_valid_loss_terms_are_accepted(terms):
    assert check_terms(terms) == terms


@pytest.mark.parametrize(
    "terms", ["batches", "", 0, -1, math.nan, math.inf, True, None, [4], lra.loss_terms.LossTerms]
)
def test_invalid_loss_terms_are_refused(terms):
    with pytest.raises(lra.errors.OptionError, match=r"'batch', 'tokens', or a positive number"):
        check_terms(terms)


@dataclass(frozen=True)
class Layer:
    """The part of a layer that an initialisation reads."""

    answer: Callable[[str, float], Any]
    fan_in: int
    rms: float = math.nan

    def __call__(self, kind, scale, rank=0):
        return self.answer(kind, scale, *([rank] if rank else []))


def test_transpose_uses_the_weights_themselves():
    W = rng.normal(size=(3, 2))
    assert lra.feedback.Transpose().stored is Stored.NOTHING
    assert lra.feedback.Transpose().effective(W, None, no_draw, np) is W


@pytest.mark.parametrize(
    ("feedback", "stored"),
    [(lra.feedback.Random(), Stored.FIXED), (lra.feedback.Learned(), Stored.LEARNED)],
)
def test_stored_feedback_is_used_unchanged(feedback, stored):
    W, E = rng.normal(size=(2, 3, 2))
    assert feedback.stored is stored
    assert feedback.effective(W, E, no_draw, np) is E


@pytest.mark.parametrize("gamma", [1.0, 0.25, -2.0, 0.0])
def test_learned_feedback_is_updated_by_gamma_dw(gamma):
    dW = rng.normal(size=(3, 2))
    close(lra.feedback.Learned(gamma).update(dW), gamma * dW)


@NAMESPACES
@pytest.mark.parametrize("magnitude", list(lra.feedback.Magnitude))
def test_sign_symmetric_feedback_has_the_signs_of_the_weights(xp, array, magnitude):
    feedback = lra.feedback.SignSymmetric(magnitude, lra.inits.FanIn(scale=2.0))
    W, drawn, kept = rng.normal(size=(3, 3, 16))
    W[0, 0] = 0.0
    asked = []

    def draw(kind, scale):
        asked.append((kind, scale))
        return array(drawn)

    E = feedback.effective(array(W), array(kept), Layer(draw, 16), xp)
    M = {"uniform": np.full((3, 16), 0.5), "fixed": kept, "batch": drawn}[magnitude]
    close(E, np.abs(M) * np.sign(W))
    assert asked == ([("uniform", 0.5)] if magnitude == "batch" else [])
    assert feedback.stored is (Stored.FIXED if magnitude == "fixed" else Stored.NOTHING)


@pytest.mark.parametrize(
    ("init", "fan_in", "rms", "asked"),
    [
        (lra.inits.FanIn(), 16, 1.0, ("uniform", 0.25)),
        (lra.inits.FanIn(scale=2.0), 100, 1.0, ("uniform", 0.2)),
        (lra.inits.Normal(), 16, 1.0, ("normal", 0.1)),
        (lra.inits.Normal(std=1.0), 100, 1.0, ("normal", 1.0)),
        (lra.inits.Orthogonal(), 16, 1.0, ("orthogonal", 1.0)),
        (lra.inits.Orthogonal(gain=0.5), 100, 1.0, ("orthogonal", 0.5)),
        (lra.inits.LikeWeights(), 16, 0.02, ("uniform", 0.02 * 3**0.5)),
        (lra.inits.LikeWeights(scale=0.5), 16, 0.1, ("uniform", 0.05 * 3**0.5)),
        (lra.inits.LikeWeights(), 16, 0.0, ("uniform", 0.25)),  # weights that start at zero
        (lra.inits.LikeWeights(2.0), 100, math.nan, ("uniform", 0.2)),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "feedback", [lra.feedback.Random, lra.feedback.Learned, lra.feedback.SignSymmetric]
)
def test_initial_feedback_has_the_requested_scale(feedback, init, fan_in, rms, asked):
    kind, scale = feedback(init=init).draw(Layer(lambda *request: request, fan_in, rms))
    assert kind == asked[0]
    assert scale == pytest.approx(asked[1], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 2, 3, 3), (30, 2, 3, 3)], ids=str)
def test_orthogonal_draws_are_orthogonal(shape, dtype):
    """The rows, or the columns where there are fewer, are orthogonal, with the gain as length."""
    torch.manual_seed(0)
    W = torch.zeros(shape, dtype=dtype)
    if len(shape) == 4:
        W = W.to(memory_format=torch.channels_last)
    E = lra.inits.Orthogonal(1.5).draw(FeedbackSampler(W))
    assert (E.shape, E.dtype, E.stride()) == (W.shape, dtype, W.stride())
    rows = E.flatten(1).double()
    gram = rows @ rows.T if shape[0] <= rows.shape[1] else rows.T @ rows
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    expected = 2.25 * torch.eye(len(gram), dtype=torch.float64)
    torch.testing.assert_close(gram, expected, rtol=0, atol=tolerance)
    assert not torch.equal(E, lra.inits.Orthogonal(1.5).draw(FeedbackSampler(W)))


@pytest.mark.parametrize("shape", [(40, 30), (30, 20, 3, 2), (24, 40, 5)], ids=str)
def test_xavier_has_torchs_bound(shape):
    """The bound is that of torch's own initialisation of a weight of this shape."""
    torch.manual_seed(0)
    W = torch.empty(shape)
    bound = 2 * float(torch.nn.init.xavier_uniform_(W.clone()).abs().max())
    E = lra.inits.Xavier(2.0).draw(FeedbackSampler(W))
    assert float(E.abs().max()) == pytest.approx(bound, rel=5e-3)
    assert float(E.square().mean()) == pytest.approx(bound**2 / 3, rel=0.1)
    feedback = lra.feedback.SignSymmetric(init=lra.inits.Xavier(3**-0.5))
    exact = math.sqrt(2 / sum(torch.nn.init._calculate_fan_in_and_fan_out(W)))
    torch.testing.assert_close(
        feedback.effective(E, None, FeedbackSampler(W), torch), exact * E.sign()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 30), (30, 60), (30, 10, 3, 2)], ids=str)
def test_low_rank_draws_have_the_rank_and_the_size_of_the_weights(shape, dtype):
    torch.manual_seed(0)
    W = (0.1 * torch.randn(shape)).to(dtype)
    E = lra.inits.LowRank(6).draw(FeedbackSampler(W))
    assert (E.shape, E.dtype) == (W.shape, dtype)
    values = torch.linalg.svdvals(E.flatten(1).double())
    assert values[5] > 0.3 * values[0]
    assert values[6] < (1e-12 if dtype is torch.float64 else 0.03) * values[0]
    assert float(E.double().square().mean().sqrt()) == pytest.approx(0.1, rel=0.25)
    assert not torch.equal(E, lra.inits.LowRank(6).draw(FeedbackSampler(W)))


@pytest.mark.parametrize("rms", [0.0, math.nan])
def test_low_rank_without_weights_is_as_large_as_fan_in(rms):
    asked = lra.inits.LowRank(3).draw(Layer(lambda *request: request, 16, rms))
    assert asked == ("low-rank", pytest.approx(0.25 / math.sqrt(3)), 3)


def test_a_rank_that_is_too_large_is_refused():
    rule = lra.FeedbackAlignment(init=lra.inits.LowRank(9))
    net = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.Tanh(), torch.nn.Linear(8, 12))
    with pytest.raises(lra.errors.OptionError, match=r"rank must be at most 8 .* 12 x 8, got 9"):
        lra.convert(net, rule)


def test_uniform_magnitude_of_an_orthogonal_init():
    """The constant of uSF is the root mean square of an orthogonal row."""
    W = rng.normal(size=(3, 16))
    feedback = lra.feedback.SignSymmetric(init=lra.inits.Orthogonal(2.0))
    close(feedback.effective(W, None, Layer(no_draw, 16), np), 0.5 * np.sign(W))


def test_base_classes_implement_no_arithmetic():
    for call in (
        lambda: lra.crossing.LocalLoss().derivative(0.0, np),
        lambda: lra.crossing.Surrogate()(0.0, np),
        lambda: lra.crossing.Crossing().error(np.tanh, 0.0, 0.0, 0.0, 1, np),
        lambda: lra.inits.Init().draw(no_draw),
        lambda: lra.feedback.Feedback().stored,
        lambda: lra.feedback.Transpose().draw(no_draw),
        lambda: lra.feedback.Random().update(0.0),
        lambda: lra.wiring.Wiring().reach,
    ):
        with pytest.raises(NotImplementedError):
            call()
