"""Feedback weights: drawn, mirrored from noise, checked, and moved with their weights."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_nets import batch_of, distance, loss, params_of, same, start

import lra
import lra.jax
from lra.errors import ConversionError, OptionError
from lra.inits import FanIn, LikeWeights, LowRank, Mirror, Normal, Orthogonal, Xavier
from lra.wiring import Direct, Stride

WIDE = {"a": (8, 40), "b": (40, 60), "c": (60, 30)}


def wide_params(scale=0.2):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(0, scale, shape)) for name, shape in WIDE.items()}


def wide_loss(params, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"])


def draw(init, params=None, seed=0):
    params = wide_params() if params is None else params
    plan = lra.jax.plan(wide_loss, params, jnp.ones((4, 8)))
    return lra.jax.init(plan, lra.LRAE(init=init), params, jax.random.key(seed))


def planned(fn, params, *args, rule=None, seed=0):
    rule = rule or lra.LRAE()
    plan = lra.jax.plan(fn, params, *args)
    return plan, lra.jax.init(plan, rule, params, jax.random.key(seed))


def rms(E):
    return float(jnp.sqrt(jnp.mean(jnp.square(E))))


def cosine(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


# ------------------------------------------------------------------ drawing


def test_each_weight_layer_that_sends_errors_down_has_feedback_of_its_shape():
    E = draw(LikeWeights())
    assert {path: array.shape for path, array in E.items()} == {
        "['b']": (40, 60),
        "['c']": (60, 30),
    }
    assert all(array.dtype == jnp.float64 for array in E.values())
    assert isinstance(E, dict)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_like_weights_is_uniform_and_as_large_as_the_weights(scale):
    params = wide_params()
    params["c"] *= 5
    for path, E in draw(LikeWeights(scale), params).items():
        bound = scale * np.sqrt(3) * rms(params[path[2]])
        assert 0.99 * bound < float(abs(E).max()) <= bound
        assert rms(E) == pytest.approx(scale * rms(params[path[2]]), rel=0.05)
        assert abs(float(E.mean())) < 0.1 * rms(E)


def test_like_weights_of_zeros_is_drawn_by_fan_in():
    E = draw(LikeWeights(), wide_params(scale=0.0))
    for path, rows in (("['b']", 40), ("['c']", 60)):
        assert 0.99 < float(abs(E[path]).max()) * np.sqrt(rows) <= 1


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_fan_in_is_uniform_by_the_number_of_inputs(scale):
    E = draw(FanIn(scale))
    for path, rows in (("['b']", 40), ("['c']", 60)):
        bound = scale / np.sqrt(rows)
        assert 0.99 * bound < float(abs(E[path]).max()) <= bound
        assert rms(E[path]) == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_xavier_is_uniform_by_the_numbers_of_inputs_and_units():
    E = draw(Xavier(2.0))
    for path, both in (("['b']", 100), ("['c']", 90)):
        bound = 2 * np.sqrt(6 / both)
        assert 0.99 * bound < float(abs(E[path]).max()) <= bound
        assert rms(E[path]) == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_xavier_needs_a_matrix():
    def loss(params, x):
        return jnp.sum(jax.lax.scan(lambda h, W: (jnp.tanh(h @ W), None), x, params["stack"])[0])

    with pytest.raises(OptionError, match=r"Xavier: .* shape \(3, 4, 4\); use lra.inits.FanIn"):
        planned(
            loss, {"stack": jnp.ones((3, 4, 4))}, jnp.ones((2, 4)), rule=lra.LRAE(init=Xavier())
        )


def test_low_rank_has_the_rank_and_the_size_of_the_weights():
    params = wide_params()
    for path, E in draw(LowRank(6), params).items():
        values = np.linalg.svd(E, compute_uv=False)
        assert values[5] > 0.3 * values[0]
        assert values[6] < 1e-12 * values[0]
        assert rms(E) == pytest.approx(rms(params[path[2]]), rel=0.25)
    with pytest.raises(OptionError, match="rank must be at most 30 for a matrix of 60 x 30"):
        draw(LowRank(31))


def test_normal_has_its_std_and_no_bound():
    for E in draw(Normal(0.5)).values():
        assert rms(E) == pytest.approx(0.5, rel=0.05)
        assert float(abs(E).max()) > 1.25  # 2.5 std: a uniform draw ends at 1.7


def test_orthogonal_has_orthogonal_rows_or_columns_times_gain():
    E = draw(Orthogonal(2.0))
    assert distance(E["['b']"] @ E["['b']"].T, 4 * np.eye(40)) < 1e-6  # drawn in float32
    assert distance(E["['c']"].T @ E["['c']"], 4 * np.eye(30)) < 1e-6


def test_orthogonal_matrices_of_kernels_and_of_stacked_layers():
    rng = np.random.default_rng(0)
    kernel, stack = jnp.asarray(rng.normal(size=(3, 3, 2, 5))), jnp.ones((3, 4, 4))

    def of_images(params, x):
        h = jax.lax.conv_general_dilated(
            jnp.tanh(x * params["gain"]), params["kernel"], (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return jnp.sum(h)

    def of_stack(params, x):
        h, _ = jax.lax.scan(lambda h, W: (jnp.tanh(h @ W), None), x, params["stack"])
        return jnp.sum(h)

    rule = lra.LRAE(init=Orthogonal())
    params = {"gain": jnp.ones(()), "kernel": kernel}
    _, E = planned(of_images, params, jnp.ones((2, 4, 4, 2)), rule=rule)
    flat = E["['kernel']"].reshape(18, 5)
    assert distance(flat.T @ flat, np.eye(5)) < 1e-6
    _, E = planned(of_stack, {"stack": stack}, jnp.ones((2, 4)), rule=rule)
    for each in E["['stack']"]:
        assert distance(each.T @ each, np.eye(4)) < 1e-6
    assert not np.allclose(E["['stack']"][0], E["['stack']"][1])


@pytest.mark.parametrize("init", [LikeWeights(), Normal(), Orthogonal(), Mirror(100)], ids=str)
def test_a_key_has_one_draw(init):
    first = draw(init)
    assert same(draw(init), first)
    other = draw(init, seed=1)
    assert all(not np.allclose(other[path], first[path]) for path in first)


def test_layers_of_one_shape_have_different_feedback():
    params = {name: jnp.ones((4, 4)) for name in "abc"}
    _, E = planned(wide_loss, params, jnp.ones((2, 4)))
    assert not np.allclose(E["['b']"], E["['c']"])


@pytest.mark.parametrize("rule", [lra.Backprop(), lra.SignSymmetry()], ids=["backprop", "usf"])
def test_rules_that_store_nothing_have_no_feedback(rule):
    params = params_of()
    assert planned(loss, params, *batch_of(), rule=rule)[1] == {}


def test_paths_are_those_of_jax_key_paths():
    @jax.tree_util.register_pytree_with_keys_class
    class Layer:
        def __init__(self, W):
            self.W = W

        def tree_flatten_with_keys(self):
            return [(jax.tree_util.GetAttrKey("W"), self.W)], None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    params = {"net": [Layer(jnp.ones((3, 4))), (jnp.ones((4, 5)), Layer(jnp.ones((5, 2))))]}

    def of_tree(params, x):
        first, (second, third) = params["net"]
        return jnp.sum(jnp.tanh(jnp.tanh(x @ first.W) @ second) @ third.W)

    assert set(planned(of_tree, params, jnp.ones((2, 3)))[1]) == {
        "['net'][1][0]",
        "['net'][1][1].W",
    }


def test_feedback_keeps_the_type_of_each_parameter():
    params = {"a": jnp.ones((3, 4), "bfloat16"), "b": jnp.ones((4, 4), "bfloat16")}
    params["c"] = jnp.ones((4, 2), "float32")
    for init in (LikeWeights(), Normal(), Orthogonal(), Mirror(10)):
        rule = lra.LRAE(init=init)
        _, E = planned(wide_loss, params, jnp.ones((2, 3), "bfloat16"), rule=rule)
        assert {path: str(array.dtype) for path, array in E.items()} == {
            "['b']": "bfloat16",
            "['c']": "float32",
        }


# ------------------------------------------------------------------ wirings


def deep(params, x):
    """Compute a loss of four layers: 3-4-5-6-2 units."""
    z = x
    for name in "abc":
        z = jnp.tanh(z @ params[name])
    return jnp.sum(jnp.square(z @ params["d"]))


def deep_params():
    sizes = (3, 4, 5, 6, 2)
    rng = np.random.default_rng(0)
    shapes = zip("abcd", sizes, sizes[1:], strict=False)
    return {name: jnp.asarray(rng.normal(size=(n, m))) for name, n, m in shapes}


@pytest.mark.parametrize(
    ("wiring", "links"),
    [
        (Direct(), {"['b']": (2, 4), "['c']": (2, 5)}),
        (Stride(2), {"['b']": (6, 4), "['c']": (2, 5)}),
        (Stride(3), {"['b']": (2, 4), "['c']": (2, 5)}),
    ],
    ids=str,
)
def test_errors_that_skip_layers_need_outputs_times_units(wiring, links):
    # The inputs of b and c have 4 and 5 units; that of d gets the output layer's own error.
    params, x = deep_params(), jnp.ones((2, 3))
    _, E = planned(deep, params, x, rule=lra.LRAE(wiring=wiring))
    assert {path: array.shape for path, array in E.items()} == links | {"['d']": (6, 2)}


def test_links_between_tokens_have_one_feedback_for_all_positions():
    def flattened(params, x):  # the last layer reads all positions of a sample at once
        z = jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"])
        return jnp.sum(z.reshape(len(x), -1) @ params["c"])

    rule, x = lra.LRAE(wiring=Direct()), jnp.ones((2, 7, 3))
    params = deep_params()
    _, E = planned(deep, params, x, rule=rule)
    assert E["['b']"].shape == (2, 4)
    _, E = planned(flattened, params | {"c": jnp.ones((35, 2))}, x, rule=rule)
    assert E["['b']"].shape == (2, 7 * 4)


def test_a_layer_that_runs_twice_has_a_link_each_time():
    def shared(params, x):
        z = jnp.tanh(jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["b"])
        return jnp.sum(z @ params["c"])

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones((4, 2))}
    params, E, step, args = start(lra.LRAE(wiring=Direct()), shared, params, (jnp.ones((2, 3)),))
    assert {path: array.shape for path, array in E.items()} == {
        "['b']": (2, 4),
        "['b'] #2": (2, 4),
        "['c']": (4, 2),
    }
    _, (_, feedback_grads) = step(params, E, *args)
    assert feedback_grads.keys() == E.keys()


# ------------------------------------------------------------------ mirroring


def test_more_noise_shows_the_weights_better():
    params = wide_params()
    plan, E = planned(wide_loss, params, jnp.ones((4, 8)))
    near = lra.jax.mirror(plan, lra.LRAE(), params, E, jax.random.key(1), samples=200)
    nearer = lra.jax.mirror(plan, lra.LRAE(), params, E, jax.random.key(1), samples=20_000)
    for name, fan_in in (("b", 40), ("c", 60)):
        path, W = f"['{name}']", params[name]
        for found, samples in ((near, 200), (nearer, 20_000)):
            angle = np.arctan(np.sqrt(fan_in / samples))  # as lra.inits.Mirror says
            assert np.arccos(cosine(found[path], W)) == pytest.approx(angle, rel=0.1)
        assert abs(cosine(E[path], W)) < 0.1
        assert rms(nearer[path]) == pytest.approx(rms(W), rel=0.02)


def test_mirroring_takes_the_samples_of_the_rule():
    params = wide_params()
    plan, E = planned(wide_loss, params, jnp.ones((4, 8)))
    key = jax.random.key(1)
    rule = lra.MirroredLRA(samples=200)
    expected = lra.jax.mirror(plan, lra.LRAE(), params, E, key, samples=200)
    assert same(lra.jax.mirror(plan, rule, params, E, key), expected)
    assert same(lra.jax.init(plan, rule, params, key), expected)


@pytest.mark.parametrize(
    ("step", "decay", "kept"), [(0.3, None, 0.7), (0.3, 0.1, 0.9), (0.3, 0, 1)]
)
def test_a_step_moves_feedback_a_part_of_the_way(step, decay, kept):
    params = wide_params()
    plan, E = planned(wide_loss, params, jnp.ones((4, 8)))
    key = jax.random.key(1)
    whole = lra.jax.mirror(plan, lra.LRAE(), params, E, key, samples=200)
    moved = lra.jax.mirror(plan, lra.LRAE(), params, E, key, samples=200, step=step, decay=decay)
    for path, estimate in whole.items():
        np.testing.assert_allclose(moved[path], kept * E[path] + step * estimate, rtol=1e-12)
    with pytest.raises(OptionError, match="mirror: step must be above 0 and at most 1, got 2"):
        lra.jax.mirror(plan, lra.LRAE(), params, E, key, step=2)


def test_weights_are_mirrored_through_loops_branches_and_what_is_linear():
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=(4, 4))) for name in "abc"}
    params["stack"] = jnp.asarray(rng.normal(size=(3, 4, 4)))

    def of_all(params, x):
        z = jnp.tanh(x @ params["a"])
        z, _ = jax.lax.scan(lambda z, W: (jnp.tanh(z @ W), None), z, params["stack"])
        z = jax.lax.cond(x[0, 0] > 0, lambda z: z @ params["b"], jnp.negative, z)
        return jnp.sum(jnp.tanh(z) @ (2.0 * params["c"].T))

    rule, x = lra.MirroredLRA(samples=8000), jnp.ones((8, 4))
    _, E = planned(of_all, params, x, rule=rule)
    for path in ("['stack']", "['b']", "['c']"):
        W = params[path[2:-2]]
        assert cosine(E[path], W) > 0.995
    assert rms(E["['b']"]) == pytest.approx(rms(params["b"]), rel=0.1)


def test_a_branch_that_does_not_run_is_not_mirrored():
    params = {name: jnp.ones((3, 3)) for name in "ab"}

    def of_branch(params, x, on):
        z = jnp.tanh(x @ params["a"])
        return jnp.sum(jax.lax.cond(on, lambda z: z @ params["b"], jnp.negative, z))

    rule, x = lra.MirroredLRA(samples=100), jnp.ones((2, 3))
    assert bool((planned(of_branch, params, x, False, rule=rule)[1]["['b']"] == 0).all())
    assert bool((planned(of_branch, params, x, jnp.array(True), rule=rule)[1]["['b']"] != 0).any())


def test_weights_behind_a_nonlinear_function_are_not_mirrored():
    def normalized(params, x):
        v = params["v"]
        z = jnp.tanh(x @ params["a"])
        return jnp.sum(jnp.tanh(z @ (v / jnp.linalg.norm(v, axis=0))) @ params["c"])

    params = {"a": jnp.ones((3, 4)), "v": jnp.ones((4, 4)), "c": jnp.ones((4, 2))}
    x = jnp.ones((2, 3))
    plan, E = planned(normalized, params, x)  # other rules take it
    reason = re.escape("mirror: weights are derived from ['v'] by a nonlinear function")
    with pytest.raises(ConversionError, match=reason + ".*LikeWeights"):
        lra.jax.mirror(plan, lra.LRAE(), params, E, jax.random.key(0))
    with pytest.raises(ConversionError, match=reason):
        lra.jax.init(plan, lra.MirroredLRA(), params, jax.random.key(0))


def test_there_is_nothing_to_mirror_where_errors_skip_layers():
    rule = lra.LRAE(wiring=Direct())
    params = deep_params()
    plan, E = planned(deep, params, jnp.ones((2, 3)), rule=rule)
    with pytest.raises(OptionError, match="no weight that E could mirror"):
        lra.jax.mirror(plan, rule, params, E, jax.random.key(0))


# ------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda E: {p: e for p, e in E.items() if p != "['b']"}, "no feedback weights for ['b']"),
        (lambda E: E | {"['x']": E["['b']"]}, "no weight layer uses feedback weights ['x']"),
        (lambda E: E | {"['c']": E["['c']"].T}, "['c'] have the shape (3, 6) instead of (6, 3)"),
        (lambda E: {}, "there are no feedback weights for"),
    ],
    ids=["missing", "surplus", "shape", "empty"],
)
@pytest.mark.parametrize("rule", [lra.LRAE(), lra.FeedbackAlignment()], ids=str)
def test_feedback_that_does_not_fit_is_refused_by_its_path(change, reason, rule):
    params, E, _, args = start(rule)
    with pytest.raises(OptionError, match=re.escape(reason) + ".*draw them with lra.jax.init"):
        lra.jax.value_and_grad(loss, rule)(params, change(E), *args)


def test_rules_that_store_nothing_take_no_feedback():
    params, _, _, args = start(lra.Backprop())
    step = lra.jax.value_and_grad(loss, lra.SignSymmetry(lra.feedback.Magnitude.UNIFORM))
    assert step(params, {}, *args)[1][1] == {}
    with pytest.raises(OptionError, match="draws magnitudes in every pass"):
        lra.jax.value_and_grad(loss, lra.SignSymmetry(lra.feedback.Magnitude.BATCH))


@dataclass(frozen=True)
class Noisy(lra.feedback.Feedback):
    """E = W + noise, new in each pass."""

    noise: float = 0.5

    @property
    def stored(self):
        return lra.feedback.Stored.NOTHING

    def effective(self, W, kept, draw, xp):
        return W + draw("normal", self.noise * draw.rms)


@pytest.mark.parametrize("dtype", [float, complex])
def test_feedback_of_the_user_that_draws_in_every_pass_is_refused(dtype):
    params = {"a": jnp.ones((3, 4), dtype), "b": jnp.ones((4, 2), dtype)}
    step = lra.jax.value_and_grad(
        lambda params, x: jnp.sum(jnp.abs(x @ params["a"] @ params["b"])), lra.Rule(Noisy())
    )
    with pytest.raises(OptionError, match="draws numbers in every pass, and a function of JAX"):
        step(params, {}, jnp.ones((5, 3), dtype))


# ------------------------------------------------------------------ numbers


def test_replace_changes_the_numbers_of_every_axis_and_leaves_the_rule():
    rule = lra.RecLRA()
    found = lra.jax.replace(rule, beta=0.5, gamma=0.25, every=3)
    assert (found.crossing.beta, found.feedback.gamma, found.wiring.every) == (0.5, 0.25, 3)
    assert rule == lra.RecLRA()
    assert found.crossing.local_loss == rule.crossing.local_loss
    assert lra.jax.replace(rule) == rule


def test_replaced_numbers_have_the_updates_of_a_rule_with_them():
    params, E, _, args = start(lra.LRAE())
    expected = jax.jit(lra.jax.value_and_grad(loss, lra.LRAE(beta=0.4, gain=2.0)))
    replaced = lra.jax.replace(lra.LRAE(), beta=jnp.asarray(0.4), gain=jnp.asarray(2.0))
    found = jax.jit(lra.jax.value_and_grad(loss, replaced))
    assert distance(found(params, E, *args), expected(params, E, *args)) < 1e-12


# ------------------------------------------------------------------ sharing


def sgd(rate, momentum):
    def move(state, g):
        m = momentum * state + g
        return m, -rate * m

    return move, lambda W: 0 * W


def adam(rate, b1=0.9, b2=0.999, eps=1e-8):
    def move(state, g):
        t, m, v = state[0] + 1, b1 * state[1] + (1 - b1) * g, b2 * state[2] + (1 - b2) * g * g
        return (t, m, v), -rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

    return move, lambda W: (0, 0 * W, 0 * W)


@pytest.mark.parametrize(
    ("optimizer", "hand"),
    [(optax.sgd(0.1, momentum=0.9), sgd(0.1, 0.9)), (optax.adam(0.02), adam(0.02))],
    ids=["sgd", "adam"],
)
def test_shared_feedback_moves_as_its_weights_do_by_hand(optimizer, hand):
    params, E, step, args = start(lra.LRAE())
    move, zero = hand
    shared = lra.jax.share_feedback(optimizer, lra.LRAE())
    state = shared.init((params, E))
    mine, my_E = params, E
    states = {name: zero(W) for name, W in params.items()}
    D = {path: E[path] - params[path[2:-2]] for path in E}
    for _ in range(4):
        _, grads = step(params, E, *args)
        updates, state = shared.update(grads, state, (params, E))
        params, E = optax.apply_updates((params, E), updates)

        _, (by_name, _) = step(mine, my_E, *args)
        moved = {name: move(states[name], by_name[name]) for name in mine}
        states = {name: state for name, (state, _) in moved.items()}
        mine = {name: W + moved[name][1] for name, W in mine.items()}
        my_E = {path: e + moved[path[2:-2]][1] for path, e in my_E.items()}
    assert distance(params, mine) < 1e-7  # optax corrects Adam's bias in float32
    assert distance(E, my_E) < 1e-7
    assert distance({path: E[path] - params[path[2:-2]] for path in E}, D) < 1e-12


def test_shared_feedback_decays_by_itself_and_needs_no_state():
    params, E, step, args = start(lra.LRAE())
    optimizer = optax.adamw(0.01, weight_decay=0.1)
    shared = lra.jax.share_feedback(optimizer, lra.LRAE())
    state, whole = shared.init((params, E)), optimizer.init((params, E))
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(params))
    mine = params, E
    D = {path: E[path] - params[path[2:-2]] for path in E}
    for _ in range(3):
        updates, state = shared.update(step(params, E, *args)[1], state, (params, E))
        params, E = optax.apply_updates((params, E), updates)
        updates, whole = optimizer.update(step(*mine, *args)[1], whole, mine)
        mine = optax.apply_updates(mine, updates)
    assert distance((params, E), mine) < 1e-12
    shrunk = {path: (1 - 0.01 * 0.1) ** 3 * d for path, d in D.items()}
    assert distance({path: E[path] - params[path[2:-2]] for path in E}, shrunk) < 1e-12


def test_fixed_feedback_stays_as_it_is():
    for rule in (lra.FeedbackAlignment(), lra.Backprop()):
        params, E, step, args = start(rule)
        shared = lra.jax.share_feedback(optax.sgd(0.1), rule)
        _, grads = step(params, E, *args)
        updates, _ = shared.update(grads, shared.init((params, E)), (params, E))
        assert same(optax.apply_updates((params, E), updates)[1], E)
        expected = jax.tree.map(lambda g: -0.1 * g, grads[0])
        assert distance(updates[0], expected) < 1e-12


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (lra.LRAE(gamma=0.5), r"under Learned\(gamma=0.5\)"),
        (lra.KolenPollack(gamma=2.0), r"under Learned\(gamma=2.0\)"),
        (lra.LRAE(wiring=Direct()), r"under Direct\(\)"),
        (lra.RecLRA(gamma=1.0), r"under Stride"),
        (lra.jax.replace(lra.LRAE(), gamma=jnp.asarray(0.5)), "E does not move"),
    ],
    ids=["gamma", "kolen-pollack", "direct", "stride", "array"],
)
def test_feedback_that_moves_otherwise_is_not_shared(rule, what):
    with pytest.raises(OptionError, match=f"{what}.*use the optimizer itself"):
        lra.jax.share_feedback(optax.sgd(0.1), rule)


def test_sharing_takes_a_pair_of_parameters_and_feedback():
    params, E, _, _ = start(lra.LRAE())
    shared = lra.jax.share_feedback(optax.sgd(0.1), lra.LRAE())
    for given in (params, (params, [E]), (params, E, E)):
        with pytest.raises(OptionError, match=r"takes the pair \(params, feedback\)"):
            shared.init(given)
    state = shared.init((params, E))
    with pytest.raises(OptionError, match="got NoneType"):
        shared.update((params, E), state)


@pytest.mark.parametrize("wrong", ["other shape", "missing", "more"])
def test_a_plan_of_other_parameters_is_refused_by_path(wrong):
    params, args = params_of(), batch_of()
    plan = lra.jax.plan(loss, params, *args)
    feedback = lra.jax.init(plan, lra.LRAE(), params, jax.random.key(0))
    others = {
        "other shape": params | {"b": jnp.ones((7, 5))},
        "missing": {name: W for name, W in params.items() if name != "b"},
        "more": params | {"b2": jnp.ones(3)},
    }[wrong]
    path = "['b2']" if wrong == "more" else "['b']"
    message = rf"of other parameters: it has .* at {re.escape(path)}, and params has"
    with pytest.raises(OptionError, match=f"init: the plan is {message}"):
        lra.jax.init(plan, lra.LRAE(), others, jax.random.key(0))
    with pytest.raises(OptionError, match=f"mirror: the plan is {message}"):
        lra.jax.mirror(plan, lra.LRAE(), others, feedback, jax.random.key(0))
