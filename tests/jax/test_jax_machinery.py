"""Machinery: what JAX and its libraries do to a step leaves a rule's updates as they are."""

import dataclasses
import inspect

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from small_nets import (
    batch_of,
    cross_entropy,
    descend,
    distance,
    hidden,
    loss,
    params_of,
    same,
    start,
)

import lra
import lra.jax
from lra.errors import OptionError

ROUNDING = 1e-12
OLD_FLAX = "model" not in inspect.signature(nnx.Optimizer.update).parameters  # before 0.11
RULES = {
    "lra-e": lra.LRAE(),
    "mirrored": lra.MirroredLRA(),
    "usf": lra.SignSymmetry(),
}
RULES_ONCE = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def many(n):
    return stack([batch_of(seed) for seed in range(10, 10 + n)])


# ------------------------------------------------------------------ transformations


def test_a_compiled_step_traces_the_loss_once_per_shape():
    traces = []

    def counted(params, x, y):
        traces.append(x.shape)
        return loss(params, x, y)

    params, feedback, step, _ = start(lra.LRAE(), counted)
    traces.clear()
    for seed in range(3):
        step(params, feedback, *batch_of(seed))
    assert traces == [(6, 5)]
    step(params, feedback, *batch_of(0, n=4))
    assert traces == [(6, 5), (4, 5)]


def test_jit_has_the_updates_of_the_eager_step():
    params, feedback, step, args = start(lra.LRAE())
    expected = lra.jax.value_and_grad(loss, lra.LRAE())(params, feedback, *args)
    assert distance(step(params, feedback, *args), expected) < ROUNDING


@RULES_ONCE
def test_vmap_over_batches_has_the_updates_of_each_batch(rule):
    params, feedback, step, _ = start(rule)
    xs, ys = many(3)
    found = jax.jit(jax.vmap(step, (None, None, 0, 0)))(params, feedback, xs, ys)
    expected = stack([step(params, feedback, x, y) for x, y in zip(xs, ys, strict=True)])
    assert distance(found, expected) < ROUNDING


@pytest.mark.parametrize("rule", [lra.LRAE(), lra.MirroredLRA(samples=30)], ids=["lra-e", "mirror"])
def test_vmap_over_seeds_is_each_seed_by_itself(rule):
    args = batch_of()
    plan = lra.jax.plan(loss, params_of(), *args)
    step = lra.jax.value_and_grad(loss, rule)

    def run(params, key):
        feedback = lra.jax.init(plan, rule, params, key)
        value, (grads, feedback_grads) = step(params, feedback, *args)
        return value, descend((params, feedback), (grads, feedback_grads))

    seeds = [params_of(seed) for seed in range(3)]
    keys = jax.random.split(jax.random.key(3), 3)
    found = jax.jit(jax.vmap(run))(stack(seeds), keys)
    one = jax.jit(run)
    expected = stack([one(params, key) for params, key in zip(seeds, keys, strict=True)])
    assert distance(found, expected) < 1e-10


def test_vmap_over_betas_and_gammas_is_each_rule_by_itself():
    params, feedback, _, args = start(lra.LRAE())
    betas, gammas = [0.05, 0.1, 0.3], [1.0, 0.5, -2.0]

    def update(beta, gamma):
        rule = lra.jax.replace(lra.LRAE(), beta=beta, gamma=gamma)
        return jax.jit(lra.jax.value_and_grad(loss, rule))(params, feedback, *args)

    found = jax.jit(jax.vmap(update))(jnp.array(betas), jnp.array(gammas))
    each = [lra.LRAE(beta=b, gamma=g) for b, g in zip(betas, gammas, strict=True)]
    expected = [jax.jit(lra.jax.value_and_grad(loss, r))(params, feedback, *args) for r in each]
    assert distance(found, stack(expected)) < ROUNDING
    assert distance(expected[0][1], expected[2][1]) > 1e-3  # both numbers matter


def test_a_traced_beta_reaches_activations_inside_a_scan():
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(0, 0.5, (4, 4))) for name in "wu"}
    xs, target = jnp.asarray(rng.normal(0, 1, (6, 3, 4))), jnp.ones((6, 4))

    def recurrent(params, xs, target):
        def cell(h, x):
            return jnp.tanh(x @ params["w"] + h @ params["u"]), None

        h, _ = jax.lax.scan(cell, jnp.zeros_like(target), xs.swapaxes(0, 1))
        return jnp.mean((h - target) ** 2)

    _, feedback, step, args = start(lra.LRAE(beta=0.3), recurrent, params, (xs, target))

    def update(beta):
        rule = lra.jax.replace(lra.LRAE(), beta=beta)
        return lra.jax.value_and_grad(recurrent, rule)(params, feedback, *args)

    found = jax.jit(update)(jnp.asarray(0.3))
    assert distance(found, step(params, feedback, *args)) < ROUNDING


def test_replace_refuses_a_number_that_no_axis_has():
    with pytest.raises(OptionError, match=r"number of this rule 'betta'.*Did you mean 'beta'"):
        lra.jax.replace(lra.LRAE(), betta=0.1)


@RULES_ONCE
def test_a_training_in_one_scan_is_the_loop(rule):
    params, feedback, step, _ = start(rule)
    optimizer = lra.jax.share_feedback(optax.adam(1e-2), rule)
    xs, ys = many(5)

    def train(state, args):
        pair, memory = state
        value, grads = step(*pair, *args)
        updates, memory = optimizer.update(grads, memory, pair)
        return (optax.apply_updates(pair, updates), memory), value

    state = (params, feedback), optimizer.init((params, feedback))
    found, values = jax.jit(lambda s: jax.lax.scan(train, s, (xs, ys)))(state)
    one, expected = jax.jit(train), []
    for args in zip(xs, ys, strict=True):
        state, value = one(state, args)
        expected.append(value)
    assert distance(values, jnp.stack(expected)) < ROUNDING
    assert distance(found[0][0], state[0][0]) < 1e-10
    if feedback:
        assert distance(found[0][1], state[0][1]) < 1e-10


@pytest.mark.filterwarnings("ignore:Some donated buffers")  # a CPU of an older JAX keeps them
def test_donated_buffers_and_repeated_runs_give_the_same_bits():
    rule = lra.LRAE()

    def train(pair, x, y):
        _, grads = jax.jit(lra.jax.value_and_grad(loss, rule))(*pair, x, y)
        return descend(pair, grads)

    results = []
    for donated in ((), (0,), ()):
        params, feedback, _, args = start(rule)
        pair = jax.tree.map(jnp.array, (params, feedback))
        step = jax.jit(train, donate_argnums=donated)
        for _ in range(3):
            pair = step(pair, *args)
        results.append(pair)
    assert same(results[1], results[0])
    assert same(results[2], results[0])


@RULES_ONCE
def test_remat_keeps_the_updates(rule):
    def saving(params, x, y):
        z = jax.checkpoint(hidden)(params, x)
        return cross_entropy(z @ params["c"], y)

    params, feedback, step, args = start(rule, saving)
    _, same_feedback, plain, _ = start(rule)
    assert feedback.keys() == same_feedback.keys()
    found = step(params, feedback, *args)
    assert distance(found, plain(params, feedback, *args)) < ROUNDING


# ------------------------------------------------------------------ devices


def mesh():
    assert len(jax.devices()) == 2, "conftest.py asks for two virtual devices"
    return Mesh(np.array(jax.devices()), ("data",))


@RULES_ONCE
def test_a_batch_sharded_over_two_devices_has_the_updates_of_one(rule):
    params, feedback, step, args = start(rule)
    expected = step(params, feedback, *args)
    split, whole = (NamedSharding(mesh(), PartitionSpec(*axes)) for axes in (("data",), ()))
    x, y = (jax.device_put(each, split) for each in args)
    assert len(x.sharding.device_set) == 2
    found = step(*jax.device_put((params, feedback), whole), x, y)
    assert distance(found, expected) < ROUNDING


@pytest.mark.parametrize("rule", [lra.LRAE(), lra.SignSymmetry()], ids=["lra-e", "usf"])
def test_shard_map_around_the_step_has_the_updates_of_one_device(rule):
    params, feedback, step, args = start(rule)
    expected = step(params, feedback, *args)
    each, all_ = PartitionSpec("data"), PartitionSpec()

    def part(params, feedback, x, y):
        # Each device has its own copy of the parameters, and so its own updates.
        found = jax.tree.map(lambda a: a[0], (params, feedback))
        return jax.lax.pmean(step(*found, x, y), "data")

    sharded = jax.shard_map(part, mesh=mesh(), in_specs=(each, each, each, each), out_specs=all_)
    copies = jax.tree.map(lambda a: jnp.stack([a, a]), (params, feedback))
    found = jax.jit(sharded)(*copies, *args)
    assert distance(found, expected) < ROUNDING


def test_shard_map_over_shared_parameters_sums_the_updates():
    rule = lra.LRAE()
    params, feedback, step, args = start(rule)
    expected = step(params, feedback, *args)
    each, all_ = PartitionSpec("data"), PartitionSpec()

    def part(params, feedback, x, y):
        value, grads = step(params, feedback, x, y)
        return jax.lax.pmean(value, "data"), jax.tree.map(lambda g: g / 2, grads)

    sharded = jax.shard_map(part, mesh=mesh(), in_specs=(all_, all_, each, each), out_specs=all_)
    assert distance(jax.jit(sharded)(params, feedback, *args), expected) < ROUNDING


# ------------------------------------------------------------------ numbers


def test_weights_cast_to_bfloat16_in_the_loss_keep_float32_updates_and_feedback():
    def mixed(params, x, y):
        low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        logits = hidden(low, x.astype(jnp.bfloat16)) @ low["c"]
        return cross_entropy(logits.astype(jnp.float32), y)

    params, args = params_of(dtype=np.float32), batch_of(n=64, dtype=np.float32)
    for rule in (lra.LRAE(), lra.MirroredLRA(), lra.FeedbackAlignment()):
        params, feedback, step, args = start(rule, mixed, params, args)
        _, (grads, feedback_grads) = step(params, feedback, *args)
        assert {a.dtype for a in jax.tree.leaves((feedback, grads, feedback_grads))} == {
            jnp.dtype(jnp.float32)
        }
        exact = jax.jit(lra.jax.value_and_grad(loss, rule))(params, feedback, *args)[1]
        assert distance((grads, feedback_grads), exact) < 0.05


@RULES_ONCE
def test_float32_parameters_have_float32_updates_beside_float64_ones(rule):
    params, feedback, step, args = start(rule)
    expected = step(params, feedback, *args)
    cast = [
        jax.tree.map(lambda a: a.astype(jnp.float32), tree) for tree in (params, feedback, args[0])
    ]
    found = step(*cast, args[1])
    assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    assert distance(found, expected) < 2e-6


# ------------------------------------------------------------------ arguments and results


def test_dropout_by_a_key_has_the_updates_of_its_mask():
    def by_key(params, key, x, y):
        z = hidden(params, x)
        kept = jax.random.bernoulli(key, 0.5, z.shape)
        return cross_entropy((z * kept * 2) @ params["c"], y)

    def by_mask(params, x, y, kept):
        return cross_entropy((hidden(params, x) * kept * 2) @ params["c"], y)

    x, y = batch_of()
    rule = lra.LRAE()
    for key in (jax.random.key(4), jax.random.PRNGKey(4)):  # N is x's: a key has no batch
        params, feedback, step, args = start(rule, by_key, args=(key, x, y))
        kept = jax.random.bernoulli(key, 0.5, (6, 6))
        expected = jax.jit(lra.jax.value_and_grad(by_mask, rule))(params, feedback, x, y, kept)
        assert distance(step(params, feedback, *args), expected) < ROUNDING
        other = step(params, feedback, jax.random.key(5), x, y)
        assert distance(other, expected) > 1e-2


def test_aux_is_returned_beside_the_loss():
    def with_aux(params, x, y):
        z = hidden(params, x)
        return cross_entropy(z @ params["c"], y), {"z": z, "units": 6, "name": "net"}

    params, feedback, _, args = start(lra.LRAE(), with_aux)
    step = lra.jax.value_and_grad(with_aux, lra.LRAE(), has_aux=True)  # jit returns arrays only
    (value, aux), grads = step(params, feedback, *args)
    assert aux["units"] == 6
    assert aux["name"] == "net"
    assert distance(aux["z"], hidden(params, args[0])) < ROUNDING
    expected = jax.jit(lra.jax.value_and_grad(loss, lra.LRAE()))(params, feedback, *args)
    assert distance((value, grads), expected) < ROUNDING


def test_keyword_arguments_reach_the_loss():
    def scaled(params, x, *, y, temperature=1.0, train):
        assert train is True
        return cross_entropy(hidden(params, x) @ params["c"] / temperature, y)

    params, (x, y) = params_of(), batch_of()
    plan = lra.jax.plan(scaled, params, x, y=y, train=True)
    rule = lra.LRAE()
    feedback = lra.jax.init(plan, rule, params, jax.random.key(0))
    step = jax.jit(lra.jax.value_and_grad(scaled, rule), static_argnames="train")
    found = step(params, feedback, x, y=y, temperature=jnp.asarray(2.0), train=True)

    def fixed(params, x, y):
        return cross_entropy(hidden(params, x) @ params["c"] / 2.0, y)

    expected = jax.jit(lra.jax.value_and_grad(fixed, rule))(params, feedback, x, y)
    assert distance(found, expected) < ROUNDING


def test_a_summed_loss_with_one_term_has_n_times_the_updates_of_the_mean():
    def summed(params, x, y):
        return 6 * loss(params, x, y)

    params, feedback, mean, args = start(lra.LRAE())
    _, expected = mean(params, feedback, *args)
    expected = jax.tree.map(lambda g: 6 * g, expected)
    _, found = jax.jit(lra.jax.value_and_grad(summed, lra.LRAE(), loss_terms=1))(
        params, feedback, *args
    )
    assert distance(found, expected) < ROUNDING
    _, wrong = jax.jit(lra.jax.value_and_grad(summed, lra.LRAE()))(params, feedback, *args)
    assert distance(wrong, expected) > 1e-3  # with N = 6 targets lie six times as far


def test_tokens_count_every_position():
    def of_tokens(params, x, y):
        return cross_entropy((hidden(params, x) @ params["c"]).reshape(-1, 3), y.reshape(-1))

    params, (x, y) = params_of(), batch_of(n=12)
    args = x.reshape(4, 3, 5), y.reshape(4, 3)
    params, feedback, tokens, _ = start(lra.LRAE(), of_tokens, args=args, loss_terms="tokens")
    expected = jax.jit(lra.jax.value_and_grad(loss, lra.LRAE()))(params, feedback, x, y)
    assert distance(tokens(params, feedback, *args), expected) < ROUNDING
    twelve = jax.jit(lra.jax.value_and_grad(of_tokens, lra.LRAE(), loss_terms=12))
    assert distance(twelve(params, feedback, *args), expected) < ROUNDING
    four = jax.jit(lra.jax.value_and_grad(of_tokens, lra.LRAE(), loss_terms="batch"))
    assert distance(four(params, feedback, *args), expected) > 1e-3


@pytest.mark.parametrize("terms", ["samples", 0, -1, float("nan"), float("inf"), True, None])
def test_wrong_loss_terms_are_refused_at_once(terms):
    with pytest.raises(OptionError, match="loss_terms must be one of 'batch', 'tokens', or a pos"):
        lra.jax.value_and_grad(loss, lra.LRAE(), loss_terms=terms)


# ------------------------------------------------------------------ pytrees and libraries


def test_leaves_that_are_no_float_arrays_stay_as_they_are():
    @dataclasses.dataclass
    class Params:
        net: dict
        steps: int
        nothing: None
        counts: jax.Array

    def of_tree(params, x, y):
        assert params.steps == 3
        return loss(params.net, x + 0 * params.counts.sum(), y)

    jax.tree_util.register_dataclass(Params, ["net", "steps", "nothing", "counts"], [])
    net, args = params_of(), batch_of()
    tree = Params(net, 3, None, jnp.arange(3))
    rule = lra.LRAE()
    plan = lra.jax.plan(of_tree, tree, *args)
    assert [w.path for w in plan.weights] == [".net['a']", ".net['b']", ".net['c']"]
    feedback = lra.jax.init(plan, rule, tree, jax.random.key(0))
    _, (grads, _) = lra.jax.value_and_grad(of_tree, rule)(tree, feedback, *args)
    assert isinstance(grads, Params)
    assert (grads.steps, grads.nothing, grads.counts) == (None, None, None)
    plain = {path.removeprefix(".net"): E for path, E in feedback.items()}
    _, (expected, _) = jax.jit(lra.jax.value_and_grad(loss, rule))(net, plain, *args)
    assert distance(grads.net, expected) < ROUNDING


def test_an_equinox_model_is_passed_whole_and_trains():
    model = eqx.nn.MLP(5, 3, 16, 2, jax.nn.tanh, key=jax.random.key(0))

    def of_model(model, x, y):
        return cross_entropy(jax.vmap(model)(x), y)

    rule, (x, y) = lra.LRAE(), batch_of(n=30)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    plan = lra.jax.plan(of_model, model, x, y)
    assert [w.has_error for w in plan.weights] == [False, True, True]
    feedback = lra.jax.init(plan, rule, model, jax.random.key(1))
    optimizer = lra.jax.share_feedback(optax.adam(1e-2), rule)
    step = eqx.filter_jit(lra.jax.value_and_grad(of_model, rule))
    state = optimizer.init((eqx.filter(model, eqx.is_inexact_array), feedback))
    expected = eqx.filter_grad(of_model)(model, x, y)
    values = []
    for _ in range(30):
        value, grads = step(model, feedback, x, y)
        assert jax.tree.structure(grads[0]) == jax.tree.structure(expected)
        pair = eqx.filter(model, eqx.is_inexact_array), feedback
        updates, state = optimizer.update(grads, state, pair)
        model, feedback = eqx.apply_updates((model, feedback), updates)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]


def test_linen_variables_are_a_dict_like_any_other():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            z = linen.tanh(linen.Dense(7)(x))
            return linen.Dense(3)(z)

    net, args = Net(), batch_of(dtype=np.float32)
    variables = net.init(jax.random.key(0), args[0])

    def of_variables(variables, x, y):
        return cross_entropy(net.apply(variables, x), y)

    def by_hand(variables, x, y):
        first, second = (variables["params"][f"Dense_{i}"] for i in range(2))
        h = jnp.tanh(x @ first["kernel"] + first["bias"])
        return cross_entropy(h @ second["kernel"] + second["bias"], y)

    _, feedback, step, _ = start(lra.LRAE(), of_variables, variables, args)
    assert list(feedback) == ["['params']['Dense_1']['kernel']"]
    expected = jax.jit(lra.jax.value_and_grad(by_hand, lra.LRAE()))(variables, feedback, *args)
    assert distance(step(variables, feedback, *args), expected) < 1e-6  # Linen makes float32


class Net(nnx.Module):
    """Two layers with batch norm and dropout between them."""

    def __init__(self, rngs):
        self.a = nnx.Linear(5, 7, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(7, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.25, rngs=rngs)
        self.b = nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x):
        return self.b(self.drop(nnx.tanh(self.norm(self.a(x)))))


def of_net(model, x, y):
    return cross_entropy(model(x), y)


def test_an_nnx_module_updates_its_statistics_in_place_and_has_nnx_gradients():
    x, y = batch_of(dtype=np.float32)
    ours, theirs = Net(nnx.Rngs(0)), Net(nnx.Rngs(0))
    plan = lra.jax.nnx.plan(of_net, ours, x, y)
    assert same(nnx.state(ours), nnx.state(theirs))  # the plan leaves the module as it is
    feedback = lra.jax.nnx.init(plan, lra.Backprop(), ours, jax.random.key(0))
    assert feedback == {}
    step = nnx.jit(lra.jax.nnx.value_and_grad(of_net, lra.Backprop()))
    for _ in range(2):  # the second with other dropout and other running statistics
        value, (grads, _) = step(ours, feedback, x, y)
        value_there, grads_there = nnx.value_and_grad(of_net)(theirs, x, y)
        assert distance(value, value_there) < 1e-6
        assert distance(nnx.to_pure_dict(grads), nnx.to_pure_dict(grads_there)) < 2e-5
        for name in ("mean", "var"):
            assert distance(getattr(ours.norm, name)[...], getattr(theirs.norm, name)[...]) < 1e-6
    mean = np.asarray(x @ ours.a.kernel[...]).mean(0)
    assert distance(ours.norm.mean[...], 0.75 * mean) < 1e-5  # from 0 by momentum 0.5, twice


def test_an_nnx_module_trains_with_an_nnx_optimizer():
    x, _ = batch_of(n=32, dtype=np.float32)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    model, rule = Net(nnx.Rngs(0)), lra.MirroredLRA()
    feedback = lra.jax.nnx.init(
        lra.jax.nnx.plan(of_net, model, x, y), rule, model, jax.random.key(0)
    )
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    moved = optax.adam(1e-2)
    state = moved.init(feedback)

    @nnx.jit
    def train(model, optimizer, feedback, state, x, y):
        value, (grads, feedback_grads) = lra.jax.nnx.value_and_grad(of_net, rule)(
            model, feedback, x, y
        )
        of_model = () if OLD_FLAX else (model,)
        optimizer.update(*of_model, grads)
        updates, state = moved.update(feedback_grads, state, feedback)
        return value, optax.apply_updates(feedback, updates), state

    values = []
    for _ in range(40):
        value, feedback, state = train(model, optimizer, feedback, state, x, y)
        values.append(float(value))
    assert np.mean(values[-5:]) < 0.7 * values[0]


def test_an_nnx_loss_returns_aux():
    def with_aux(model, x, y, *, scale):
        logits = model(x)
        return scale * cross_entropy(logits, y), logits

    args = batch_of(dtype=np.float32)
    model, other = Net(nnx.Rngs(0)), Net(nnx.Rngs(0))
    plan = lra.jax.nnx.plan(with_aux, model, *args, scale=2.0)
    rule = lra.LRAE()
    feedback = lra.jax.nnx.init(plan, rule, model, jax.random.key(0))
    step = lra.jax.nnx.value_and_grad(with_aux, rule, has_aux=True)
    (value, logits), _ = step(model, feedback, *args, scale=2.0)
    assert distance(logits, other(args[0])) < 1e-6
    assert distance(value, 2.0 * cross_entropy(logits, args[1])) < 1e-6
