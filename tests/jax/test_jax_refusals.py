"""Refusals: what no rule can follow is named; what it takes amiss can be set right by the user."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from small_nets import batch_of, cross_entropy, distance, hidden, loss, params_of, start

import lra
import lra.jax
from lra.crossing import TanhSurrogate
from lra.errors import ConversionError, OptionError
from lra.wiring import Direct, Stride

ROUNDING = 1e-12
W = {"W": jnp.eye(3) + 0.1, "b": jnp.ones(3)}
X = jnp.ones((4, 3))


def line(fn, text):
    """Return the file and line at which a function has some text."""
    lines, first = inspect.getsourcelines(fn)
    (found,) = (first + i for i, each in enumerate(lines) if text in each)
    return f"test_jax_refusals.py:{found}"


def updates(fn, params, feedback, *args, rule=None, **options):
    rule = rule or lra.LRAE()
    return jax.jit(lra.jax.value_and_grad(fn, rule, **options))(params, feedback, *args)


# ------------------------------------------------------------------ what a rule cannot follow


def in_a_while_loop(params, x):
    def more(state):
        return state[1].sum() < 9

    def step(state):
        return state[0], state[1] + jnp.tanh(state[1] @ state[0])

    return jax.lax.while_loop(more, step, (params["W"], x))[1].sum()


@jax.custom_vjp
def product(x, W):
    return x @ W


product.defvjp(lambda x, W: (x @ W, (x, W)), lambda xW, e: (e @ xW[1].T, xW[0].T @ e))


@jax.custom_jvp
def other_product(x, W):
    return x @ W


@other_product.defjvp
def _(primals, tangents):
    (x, W), (dx, dW) = primals, tangents
    return x @ W, dx @ W + x @ dW


def by_a_custom_vjp(params, x):
    return jnp.tanh(product(x, params["W"])).sum()


def by_a_custom_jvp(params, x):
    return jnp.tanh(other_product(x, params["W"])).sum()


def by_a_device(params, x):
    h = jax.pure_callback(np.matmul, x, x, params["W"])
    return jnp.tanh(h).sum()


def by_a_solver(params, x):
    return jnp.linalg.solve(params["W"], x.T).sum()


def by_an_unknown_function(params, x):
    return jax.scipy.special.gammainc(jnp.abs(x), params["b"]).sum()


def in_a_scan(params, x):
    def step(z, _):
        return product(z, params["W"]), None

    return jax.lax.scan(step, x, None, 3)[0].sum()


def in_a_shard_map(params, x):
    spec = PartitionSpec()
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    dot = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    return dot(x, params["W"]).sum()


register = "call it through lra.jax.register_weight_layer(f)"
CANNOT_FOLLOW = [
    (
        in_a_while_loop,
        "['W']",
        "while",
        "lax.while_loop(",
        "use jax.lax.scan, or a fori_loop with a",
    ),
    (by_a_custom_vjp, "['W']", "custom_vjp_call", "product(x", register),
    (by_a_custom_jvp, "['W']", "custom_jvp_call", "other_product(x", register),
    (by_a_device, "['W']", "pure_callback", "pure_callback", "does not know how this primitive"),
    (by_a_solver, "['W']", "custom_linear_solve", "solve(params", register),
    (by_an_unknown_function, "['b']", "igamma", "gammainc", register),
    (in_a_scan, "['W']", "custom_vjp_call", "product(z", register),
    (in_a_shard_map, "['W']", "shard_map", "dot(x", "call shard_map around the whole step"),
]


@pytest.mark.parametrize(
    ("fn", "path", "primitive", "text", "remedy"),
    CANNOT_FOLLOW,
    ids=[fn.__name__ for fn, *_ in CANNOT_FOLLOW],
)
def test_what_a_rule_cannot_follow_is_named_by_path_primitive_and_line(
    fn, path, primitive, text, remedy
):
    with pytest.raises(ConversionError, match="plan: a rule cannot follow this fun") as caught:
        lra.jax.plan(fn, W, X)
    (refusal,) = caught.value.refused
    assert refusal.name == path
    assert refusal.type.replace("_jaxpr", "") == f"{primitive}, {line(fn, text)}"  # of old releases
    assert remedy in refusal.reason
    assert str(refusal) in str(caught.value)


def test_value_and_grad_refuses_the_same():
    with pytest.raises(ConversionError, match=re.escape("['W'] (pure_callback")):
        lra.jax.value_and_grad(by_a_device, lra.LRAE())(W, {}, X)


def test_all_that_is_refused_is_listed_at_once():
    def two(params, x):
        return product(x, params["W"]).sum() + by_a_device(params, x)

    with pytest.raises(ConversionError) as caught:
        lra.jax.plan(two, W, X)
    assert [r.type.split(",")[0] for r in caught.value.refused][1:] == ["pure_callback"]
    assert len(str(caught.value).splitlines()) == 3


def test_what_stands_in_the_remedies_is_followed():
    def with_stopped_weights(params, x):
        fixed = jax.tree.map(jax.lax.stop_gradient, params)
        return jnp.tanh(x @ params["W"]).sum() + 0 * fixed["b"].sum()

    def with_a_fixed_number_of_steps(params, x):
        step = lambda i, z: jnp.tanh(z @ params["W"])  # noqa: E731
        return jax.lax.fori_loop(0, 3, step, x).sum()

    def with_the_weights_as_data(params, x):
        return jnp.tanh(lra.jax.register_weight_layer(product)(x, params["W"])).sum()

    for fn in (with_stopped_weights, with_a_fixed_number_of_steps, with_the_weights_as_data):
        (weight,) = lra.jax.plan(fn, W, X).weights
        assert weight.path == "['W']"


def test_a_loop_without_products_is_left_to_autodiff():
    def shifted(params, x):
        z = jax.lax.while_loop(lambda z: z.sum() < 9, lambda z: z + params["b"], x)
        return jnp.sum(jnp.tanh(x @ params["W"]) @ params["W"] + jax.lax.stop_gradient(z))

    assert [w.path for w in lra.jax.plan(shifted, W, X).weights] == ["['W']"]


def test_an_activation_that_only_the_next_step_of_a_loop_reads_is_found():
    def delayed(params, xs):
        def step(z, x):
            return jnp.tanh(x @ params["W"]), z @ params["W"]

        return jax.lax.scan(step, xs[0], xs)[1].sum()

    assert [a.name for a in lra.jax.plan(delayed, W, jnp.stack([X, X])).activations] == ["tanh"]


@pytest.mark.parametrize(
    ("phi", "flat"),
    [
        (jnp.sign, True),
        (lambda h: jnp.where(h > 0, 1.0, -1.0), True),
        (lambda h: jnp.where(h > 0, h, -1.0), False),
        (jnp.tanh, False),
    ],
    ids=["sign", "step", "half", "tanh"],
)
def test_activations_without_a_slope_are_step_functions(phi, flat):
    plan = lra.jax.plan(lambda params, x: jnp.sum(phi(x @ params["W"]) @ params["W"]), W, X)
    assert [a.flat for a in plan.activations] == [flat]
    assert ("(step)" in str(plan)) == flat


# ------------------------------------------------------------------ functions with little in them


def test_a_function_without_weight_layers_has_the_gradient():
    def scaled(params, x):
        return jnp.sum(jnp.tanh(x * params["b"]))

    plan = lra.jax.plan(scaled, W, X)
    assert (plan.weights, plan.activations, plan.others) == ((), (), ("['W']", "['b']"))
    assert str(plan).startswith("0 weight layers, 0 activations, N = 4")
    assert lra.jax.init(plan, lra.LRAE(), W, jax.random.key(0)) == {}
    expected = jax.value_and_grad(scaled)(W, X)
    assert distance(updates(scaled, W, {}, X), (expected[0], (expected[1], {}))) < ROUNDING


def test_parameters_without_floating_point_numbers_have_no_updates():
    def counted(params, x):
        return x.sum() * params["n"]

    plan = lra.jax.plan(counted, {"n": 3, "i": jnp.arange(3)}, X)
    assert plan.others == ()
    assert lra.jax.coverage(plan).share == 1.0
    value, (grads, _) = lra.jax.value_and_grad(counted, lra.LRAE())({"n": 3}, {}, X)
    assert (float(value), grads) == (36.0, {"n": None})


def test_a_function_without_a_batch_counts_one_term():
    plan = lra.jax.plan(lambda params: jnp.sum(params["W"] @ params["b"]), W)
    assert (plan.batch, plan.weights) == (1, ())
    assert lra.jax.plan(lambda params, t: t * jnp.sum(params["W"]), W, jnp.ones(())).batch == 1


@pytest.mark.parametrize("fn", [3, None, "loss", dict])
def test_what_is_no_function_is_refused(fn):
    for call in (lambda: lra.jax.plan(fn, W), lambda: lra.jax.value_and_grad(fn, lra.LRAE())):
        with pytest.raises(OptionError, match=r"expected a function loss\(params, \.\.\.\), got"):
            call()


@pytest.mark.parametrize("rule", [None, "lra-e", lra.LRAE])
def test_what_is_no_rule_is_refused(rule):
    plan = lra.jax.plan(loss, params_of(), *batch_of())
    for name, call in {
        "value_and_grad": lambda: lra.jax.value_and_grad(loss, rule),
        "init": lambda: lra.jax.init(plan, rule, params_of(), jax.random.key(0)),
        "mirror": lambda: lra.jax.mirror(plan, rule, params_of(), {}, jax.random.key(0)),
        "share_feedback": lambda: lra.jax.share_feedback(None, rule),
    }.items():
        with pytest.raises(ConversionError, match=f"{name}: expected a rule such as lra.LRAE"):
            call()


# ------------------------------------------------------------------ errors that skip layers


def two_heads(params, x):
    z = jnp.tanh(x @ params["W"])
    return jnp.sum((z @ params["W"]) ** 2) + jnp.sum((z @ params["W"]) ** 4)


def recurrent(params, x):
    return jax.lax.fori_loop(0, 3, lambda i, z: jnp.tanh(z @ params["W"]), x).sum()


def of_pairs(params, x):
    z = jnp.tanh(x @ params["W"])
    return jnp.sum(jnp.tanh(z @ params["W"]).reshape(2, 6) @ jnp.tile(params["W"], (2, 1)))


@pytest.mark.parametrize("wiring", [Direct(), Stride(2)], ids=str)
@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (two_heads, "errors start at several weight layers"),
        (recurrent, r"scan \(test_jax_refusals.py:\d+\) has weight layers inside it"),
        (of_pairs, "Both need the batch as their first dimension"),
    ],
)
def test_errors_cannot_skip_layers_everywhere(fn, reason, wiring):
    rule = lra.LRAE(wiring=wiring)
    plan = lra.jax.plan(fn, W, X)
    with pytest.raises(ConversionError, match=reason + r"(.|\n)*use lra.wiring.Chain\(\)"):
        lra.jax.init(plan, rule, W, jax.random.key(0))
    lra.jax.init(plan, lra.LRAE(), W, jax.random.key(0))


def test_feedback_between_large_layers_is_refused():
    def large(params, x):
        z = jnp.tanh(x @ params["a"])
        return jnp.sum(jnp.tanh(z @ params["b"]) @ params["c"])

    shapes = {"a": (1, 2**16), "b": (2**16, 2**16), "c": (2**16, 2**16)}
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    plan = lra.jax.plan(large, params, jax.ShapeDtypeStruct((2, 1), "float32"))
    with pytest.raises(ConversionError, match="through 4,294,967,296 feedback weights, more than"):
        lra.jax.init(plan, lra.LRAE(wiring=Direct()), params, jax.random.key(0))


# ------------------------------------------------------------------ overrides


def net(params, x, y):
    z = jnp.tanh(x @ params["a"] + params["bias"])
    return cross_entropy(jax.nn.gelu(z @ params["b"]) @ params["c"], y)


def test_an_override_by_function_and_by_line_is_the_same():
    params, feedback, step, args = start(lra.LRAE(), net)
    usual = step(params, feedback, *args)
    at = line(net, "jax.nn.gelu")
    by_function = lra.jax.plan(net, params, *args, overrides={"gelu": "ordinary"})
    assert [a.name for a in by_function.activations] == ["tanh"]
    assert {(o.name, o.where) for o in by_function.ordinary} == {("gelu", at)}
    named = updates(net, params, feedback, *args, overrides={"gelu": "ordinary"})
    assert distance(named, usual) > 1e-4

    # With the slope as data, gelu is linear.
    def with_slopes(params, x, y, slopes, rest):
        z = jnp.tanh(x @ params["a"] + params["bias"])
        return cross_entropy((slopes * (z @ params["b"]) + rest) @ params["c"], y)

    h = jnp.tanh(args[0] @ params["a"] + params["bias"]) @ params["b"]
    slopes = jax.vmap(jax.vmap(jax.grad(jax.nn.gelu)))(h)
    rest = jax.nn.gelu(h) - slopes * h
    expected = updates(with_slopes, params, feedback, *args, slopes, rest)
    assert distance(named, expected) < 1e-10
    lined = updates(net, params, feedback, *args, overrides={line(net, "tanh"): "ordinary"})
    same = updates(net, params, feedback, *args, overrides={"tanh": "ordinary"})
    assert distance(lined, same) < ROUNDING


def test_an_override_by_line_leaves_other_lines():
    def branches(params, x):
        left = jnp.tanh(x @ params["W"])
        right = jnp.sin(x @ params["W"].T)
        return jnp.sum((left + right) @ params["W"])

    assert len(lra.jax.plan(branches, W, X).activations) == 2
    # A line may hold a layer and its activation: here it is all of the line.
    plan = lra.jax.plan(branches, W, X, overrides={line(branches, "left ="): "ordinary"})
    assert [a.name for a in plan.activations] == ["sin"]
    assert [w.where for w in plan.weights] == [
        (line(branches, "right ="), line(branches, "return"))
    ]


def test_a_part_of_a_normaliser_can_be_an_activation():
    def shares(params, x):
        e = jnp.exp(x @ params["W"])
        return jnp.sum((e / jnp.sum(e, axis=-1, keepdims=True)) @ params["W"])

    assert lra.jax.plan(shares, W, X).activations == ()
    (found,) = lra.jax.plan(shares, W, X, overrides={"exp": "activation"}).activations
    assert (found.name, found.where) == ("exp", line(shares, "exp("))


def test_a_weight_layer_can_be_left_to_autodiff():
    params, args = params_of(), batch_of()
    at = line(hidden, "gelu").replace("test_jax_refusals", "small_nets")
    plan = lra.jax.plan(loss, params, *args, overrides={at: "ordinary"})
    assert [w.path for w in plan.weights] == ["['c']"]
    coverage = lra.jax.coverage(plan)
    assert coverage.left == ("['b']",)
    assert coverage.roles["['b']"].startswith("multiplies data outside weight layers")
    assert coverage.share == pytest.approx((35 + 18 + 7) / (35 + 42 + 18 + 7))
    above = line(loss, '"c"').replace("test_jax_refusals", "small_nets")
    assert lra.jax.coverage(
        lra.jax.plan(loss, params, *args, overrides={above: "ordinary"})
    ).left == ("['c']",)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"gleu": "ordinary"}, "unknown line or function in overrides 'gleu'.*Did you mean 'gelu'"),
        ({"small_nets.py:1": "ordinary"}, "unknown line or function in overrides"),
        ({"gelu": "ordnary"}, "unknown override of 'gelu' 'ordnary'; known: activation, ordinary."),
        ({"gelu": True}, "unknown override of 'gelu' True"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(overrides, reason):
    with pytest.raises(OptionError, match=reason):
        lra.jax.plan(net, params_of(), *batch_of(), overrides=overrides)
    step = lra.jax.value_and_grad(net, lra.Backprop(), overrides=overrides)
    with pytest.raises(OptionError, match=reason):
        step(params_of(), {}, *batch_of())


# ------------------------------------------------------------------ registered functions


def with_units(phi):
    def of_units(params, x, y):
        z = phi(x @ params["a"] + params["bias"])
        return cross_entropy(phi(z @ params["b"]) @ params["c"], y)

    return of_units


def test_a_registered_activation_has_the_updates_of_what_it_computes():
    params, feedback, step, args = start(lra.LRAE(), with_units(jnp.tanh))
    expected = step(params, feedback, *args)

    def by_device(h):
        return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(h.shape, h.dtype), h)

    for phi in (jnp.tanh, by_device):
        marked = lra.jax.register_activation(phi)
        fn = with_units(marked)
        plan = lra.jax.plan(fn, params, *args)
        assert [a.name for a in plan.activations] == [phi.__name__] * 2
        assert plan.ordinary == ()
        assert distance(updates(fn, params, feedback, *args), expected) < 1e-10
        assert marked.__name__ == phi.__name__
    with pytest.raises(ValueError, match=r"[Pp]ure callbacks do not support"):
        updates(fn, params, feedback, *args, rule=lra.KolenPollack())  # by the derivative


def test_a_surrogate_takes_the_targets_of_its_activation_alone():
    params = params_of()

    def step_function(h):
        return jnp.where(h > 0, 1.0, -1.0)

    plain = with_units(step_function)
    _, feedback, step, args = start(lra.LRAE(surrogate=TanhSurrogate()), plain)
    expected = step(params, feedback, *args)
    marked = lra.jax.register_activation(step_function, surrogate=TanhSurrogate())
    unmarked = lra.jax.register_activation(step_function)  # under the same name
    assert distance(updates(with_units(marked), params, feedback, *args), expected) < ROUNDING
    other = updates(with_units(unmarked), params, feedback, *args)
    assert distance(other[1], expected[1]) > 1e-3


def test_a_difference_keeps_the_digits_that_subtracting_loses():
    params, rule = params_of(), lra.LRAE(beta=1e-11, gain=1e11)
    _, feedback, step, args = start(rule, with_units(jnp.tanh))
    expected = step(params, feedback, *args)

    def by_device(h):
        return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(h.shape, h.dtype), h)

    def difference(h, delta, xp):
        t = xp.tanh(delta)
        return t * (1 - xp.tanh(h) ** 2) / (1 - xp.tanh(h) * t)

    exact = lra.jax.register_activation(by_device, difference=difference)
    found = updates(with_units(exact), params, feedback, *args, rule=rule)
    assert distance(found, expected) < 1e-9
    subtracted = lra.jax.register_activation(by_device)
    found = updates(with_units(subtracted), params, feedback, *args, rule=rule)
    assert distance(found[1], expected[1]) > 1e-6


def with_product(dot):
    def of_product(params, x, y):
        z = jnp.tanh(dot(x, params["a"]) + params["bias"])
        return cross_entropy(dot(jax.nn.gelu(dot(z, params["b"])), params["c"]), y)

    return of_product


def test_a_registered_product_has_the_updates_of_the_product():
    params, feedback, step, args = start(lra.LRAE())
    expected = step(params, feedback, *args)
    fn = with_product(lra.jax.register_weight_layer(product))
    plan = lra.jax.plan(fn, params, *args)
    assert [(w.path, w.fan_in, w.has_error) for w in plan.weights] == [
        ("['a']", 5, False),
        ("['b']", 7, True),
        ("['c']", 6, True),
    ]
    assert distance(updates(fn, params, feedback, *args), expected) < ROUNDING


def test_a_device_runs_forward_and_its_adjoint_back():
    def device(x, W):
        shape = jax.ShapeDtypeStruct((*x.shape[:-1], W.shape[1]), x.dtype)
        return jax.pure_callback(lambda x, W: 1.01 * (x @ W), shape, x, W)

    params, feedback, _, args = start(lra.LRAE())
    fn = with_product(lra.jax.register_weight_layer(device, adjoint=jnp.matmul))
    found = updates(fn, params, feedback, *args)

    with_it = jax.custom_vjp(lambda x, W: 1.01 * (x @ W))
    with_it.defvjp(lambda x, W: (1.01 * (x @ W), (x, W)), lambda xW, e: (e @ xW[1].T, xW[0].T @ e))
    expected = with_product(lra.jax.register_weight_layer(with_it))
    assert distance(found, updates(expected, params, feedback, *args)) < 1e-10
    mirrored = lra.jax.mirror(
        lra.jax.plan(fn, params, *args), lra.LRAE(), params, feedback, jax.random.key(0), 2000
    )
    for path, E in mirrored.items():  # the noise goes through the device
        cosine = jnp.sum(E * params[path[2:-2]]) / jnp.linalg.norm(E)
        assert float(cosine / jnp.linalg.norm(params[path[2:-2]])) > 0.99


def test_a_registered_layer_takes_data_first():
    turned = lra.jax.register_weight_layer(lambda W, x: x @ W)

    def fn(params, x):
        return jnp.sum(turned(params["W"], x))

    with pytest.raises(ConversionError, match="takes the data first and the parameter second"):
        lra.jax.plan(fn, W, X)
    of_data = lra.jax.register_weight_layer(jnp.matmul)
    lra.jax.plan(lambda params, x: of_data(x, x.T).sum() + params["b"].sum(), W, X)


# ------------------------------------------------------------------ coverage and audit


def normed(x, gain):
    x = x - x.mean(-1, keepdims=True)
    return gain * x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def transformer(params, tokens, y):
    z = params["embedding"][tokens]
    z = z + params["positions"]
    n = normed(z, params["gain"])
    q, k, v = n @ params["q"], n @ params["k"], n @ params["v"]
    scores = jnp.einsum("bid,bjd->bij", q, k)
    shares = jax.nn.softmax(scores)
    z = z + jnp.einsum("bij,bjd->bid", shares, v) @ params["o"]
    hidden = jax.nn.gelu(z @ params["up"])
    z = z + hidden @ params["down"]
    logits = z[:, -1] @ params["head"]
    return cross_entropy(logits, y)


def transformer_params():
    rng = np.random.default_rng(0)
    shapes = {"embedding": (9, 4), "positions": (5, 4), "gain": (4,), "up": (4, 8)}
    shapes |= {"down": (8, 4), "head": (4, 3)} | dict.fromkeys("qkvo", (4, 4))
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def transformer_args():
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.integers(0, 9, (2, 5))), jnp.asarray(rng.integers(0, 3, 2))


def learned_data(jaxpr, weights, data):
    """Yield the shapes of what is made of weights and data, in the order of a jaxpr."""
    made = {v: (w, d) for v, w, d in zip(jaxpr.invars, weights, data, strict=True)}

    def kind(atom):
        return made.get(atom, (False, False)) if not hasattr(atom, "val") else (False, False)

    for eqn in jaxpr.eqns:
        kinds = [kind(v) for v in eqn.invars]
        w, d = (any(each[i] for each in kinds) for i in range(2))
        if eqn.primitive.name in ("jit", "pjit"):
            inner = eqn.params["jaxpr"].jaxpr
            outs = yield from learned_data(inner, *zip(*kinds, strict=True))
            made.update(zip(eqn.outvars, outs, strict=True))
            continue
        made.update(dict.fromkeys(eqn.outvars, (w, d)))
        if w and d:
            yield eqn.outvars[0].aval.shape
    return [kind(v) for v in jaxpr.outvars]


def test_an_audit_has_every_op_on_the_errors_way():
    params, args = transformer_params(), transformer_args()
    steps = lra.jax.audit(lra.jax.plan(transformer, params, *args)).steps
    closed = jax.make_jaxpr(transformer)(params, *args)
    weights = [True] * len(params) + [False] * len(args)
    expected = list(learned_data(closed.jaxpr, weights, [not w for w in weights]))
    assert [step.shape for step in steps] == expected
    assert all(step.where != "?" for step in steps)


def test_an_audit_has_the_role_of_each_line():
    plan = lra.jax.plan(transformer, transformer_params(), *transformer_args())
    roles = {}
    for step in lra.jax.audit(plan).steps:
        roles.setdefault(step.where, []).append(step.role)
    auto = "automatic differentiation"

    def at(text):
        return set(roles[line(transformer, text)])

    assert at("embedding") == {"linear"}
    assert at("positions") == {"linear"}
    assert at("q, k, v =") == {f"weight layer ['{name}']" for name in "qkv"}
    assert at("scores =") == {auto}
    assert at("shares =") == {"linear", auto}
    assert at('@ params["o"]') == {"linear", auto, "weight layer ['o']"}
    assert at("hidden =") == {"weight layer ['up']", "activation"}
    assert at('"down"') == {"linear", "weight layer ['down']"}
    assert at('"head"') == {"linear", "weight layer ['head']"}
    assert set(roles[line(normed, "sqrt")]) == {"linear", auto}
    header = str(lra.jax.audit(plan)).splitlines()[0]
    assert header.split("  ")[0] == "line"
    assert "errors cross it" in header


def test_coverage_has_the_role_of_each_parameter():
    plan = lra.jax.plan(transformer, transformer_params(), *transformer_args())
    coverage = lra.jax.coverage(plan)
    down, arrives = "weight layer, sends its error down through E", "the error that arrives"
    layers = dict.fromkeys((*"qkvo", "up", "down", "head"), down)
    others = dict.fromkeys(("embedding", "positions", "gain"), arrives)
    assert coverage.roles == {f"['{name}']": role for name, role in (layers | others).items()}
    assert (coverage.share, coverage.left) == (1.0, ())
    assert set(plan.others) == {f"['{name}']" for name in others}


def test_coverage_names_matrices_that_errors_cross():
    def gated(params, x):
        z = jnp.tanh(x @ params["a"])
        return jnp.sum((z * params["b"]) @ params["c"])

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((2, 4)), "c": jnp.ones((4, 1))}
    coverage = lra.jax.coverage(lra.jax.plan(gated, params, jnp.ones((2, 3))))
    assert coverage.left == ("['b']",)
    assert coverage.share == pytest.approx(16 / 24)
    assert coverage.roles["['a']"] == "weight layer that reads data"
    assert str(coverage).startswith("66.7% of the parameters follow the rule")
