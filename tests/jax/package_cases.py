"""Models of public JAX packages, as installed: each case builds a small instance of one of them.

`packages.txt` beside this file has the versions. A case is a function that returns
(loss, params, args) for `lra.jax.plan(loss, params, *args)`.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy

os.environ.setdefault("KERAS_BACKEND", "jax")


@dataclasses.dataclass(frozen=True)
class Case:
    """Describe a model: the modules it imports, how to build it, and what the plan must say.

    Args:
        name: name of the case.
        modules: modules of the package, which the test imports or skips.
        build: returns (loss, params, args).
        refused: words of the expected refusal; empty where the model must work.
        digits: the precision in which the package computes: 64, or 32 where it casts to float32.
        limit: false where the backward pass of the package is no derivative (surrogates of spikes).
        top: parts of the paths of parameters with no weight layer above them, whose updates
            stay backprop's.
    """

    name: str
    modules: tuple[str, ...]
    build: Callable[[], tuple[Callable[..., Any], Any, tuple[Any, ...]]]
    refused: tuple[str, ...] = ()
    digits: int = 64
    limit: bool = True
    top: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


def case(name: str, *modules: str, **options: Any) -> Callable[..., Any]:
    """Register a function that builds a case."""

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        CASES[name] = Case(name, modules, build, **options)
        return build

    return register


def key(i: int = 0) -> jax.Array:
    return jax.random.key(i, impl="unsafe_rbg")  # compiles fastest


def normal(*shape: int, seed: int = 1) -> Any:
    return numpy.random.default_rng(seed).normal(size=shape).astype(numpy.float32)


def is_float(leaf: Any) -> bool:
    """Return whether a leaf is a float array."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def built(construct: Callable[[], Any]) -> Any:
    """Return a pytree of arrays and other things, as `construct` makes it, in one compilation."""
    static: dict[str, Any] = {}

    def arrays() -> list[Any]:
        leaves, static["tree"] = jax.tree.flatten(construct())
        static["leaves"] = [None if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
        return [leaf if isinstance(leaf, jax.Array) else None for leaf in leaves]

    made = jax.jit(arrays)()
    leaves = [a if s is None else s for a, s in zip(made, static["leaves"], strict=True)]
    return jax.tree.unflatten(static["tree"], leaves)


def squared(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loss mean((f(params, *inputs) - y)^2)."""

    def loss(params: Any, *args: Any) -> jax.Array:
        *inputs, y = args
        return jnp.mean(jnp.square(f(params, *inputs) - y))

    return loss


def fit(f: Callable[..., Any], params: Any, *inputs: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Return a case whose targets are random numbers of the output's shape."""
    leaves, tree = jax.tree.flatten(params)

    def call(floats: list[Any], *inputs: Any) -> Any:
        left = iter(floats)
        full = [next(left) if is_float(leaf) else leaf for leaf in leaves]
        return f(jax.tree.unflatten(tree, full), *inputs)

    out = jax.eval_shape(call, [leaf for leaf in leaves if is_float(leaf)], *inputs)
    return squared(f), params, (*inputs, normal(*out.shape, seed=9))


def linen(
    module: Any, *inputs: Any, first: bool = False, **options: Any
) -> tuple[Any, Any, tuple[Any, ...]]:
    """Return a case from a Flax Linen module; its other collections stay as they are."""
    variables = jax.jit(
        lambda: module.init({"params": key(), "dropout": key()}, *inputs, **options)
    )()
    params = variables.pop("params")

    def f(params: Any, *inputs: Any) -> Any:
        out = module.apply({"params": params, **variables}, *inputs, **options)
        return out[0] if first else out

    return fit(f, params, *inputs)


def nnx_case(
    construct: Callable[[], Any], *inputs: Any, call: Callable[..., Any] | None = None
) -> Any:
    """Return a case from a Flax NNX module: its parameters as a pytree."""
    from flax import nnx

    graph, params, rest = nnx.split(
        construct if isinstance(construct, nnx.Module) else nnx.jit(construct)(), nnx.Param, ...
    )

    def f(params: Any, *inputs: Any) -> Any:
        model = nnx.merge(graph, params, rest, copy=True)
        return model(*inputs) if call is None else call(model, *inputs)

    return fit(f, params, *inputs)


def haiku(f: Callable[..., Any], *inputs: Any) -> Any:
    """Return a case from a function of Haiku modules; its state stays as it is."""
    import haiku as hk

    model = hk.transform_with_state(f)
    params, state = jax.jit(model.init)(key(), *inputs)
    return fit(lambda p, *inputs: model.apply(p, state, None, *inputs)[0], params, *inputs)


def over_batch(
    construct: Callable[[], Any], *inputs: Any, call: Callable[..., Any] | None = None
) -> Any:
    """Return a case from a callable pytree (Equinox) that takes one sample."""
    run = call or (lambda model, *one: model(*one))
    return fit(
        lambda model, *many: jax.vmap(functools.partial(run, model))(*many),
        built(construct),
        *inputs,
    )


# ---------------------------------------------------------------- DeepMind's packages


@case("haiku: MLP", "haiku", top=("mlp/~/linear_2",))
def _():
    import haiku as hk

    return haiku(lambda x: hk.nets.MLP([8, 8, 3], activation=jnp.tanh)(x), normal(6, 4))


@case("haiku: ResNet", "haiku", top=("['linear']",))
def _():
    import haiku as hk

    def f(x):
        norm = {"create_scale": True, "create_offset": True, "decay_rate": 0.9}
        x = hk.Conv2D(4, 3, with_bias=False)(x)
        x = hk.nets.ResNet.BlockGroup(8, 1, 1, norm, True, True, True)(
            x, is_training=True, test_local_stats=False
        )
        x = hk.nets.ResNet.BlockGroup(8, 1, 2, norm, False, False, True)(
            x, is_training=True, test_local_stats=False
        )
        return hk.Linear(3)(jnp.mean(x, axis=(1, 2)))

    return haiku(f, normal(4, 8, 8, 3))


@case("haiku: MobileNetV1", "haiku", top=("logits",))
def _():
    import haiku as hk

    def f(x):
        return hk.nets.MobileNetV1((1, 2), (8, 8), num_classes=3)(x, is_training=True)

    return haiku(f, normal(4, 8, 8, 3))


@case("haiku: LSTM, unrolled by scan", "haiku", top=("linear_1",))
def _():
    import haiku as hk

    def f(x):
        core = hk.DeepRNN([hk.Linear(5), jax.nn.relu, hk.LSTM(6), hk.Linear(2)])
        return hk.dynamic_unroll(core, x, core.initial_state(3))[0]

    return haiku(f, normal(4, 3, 5))


@case("haiku: GRU and attention", "haiku", top=("['linear']",))
def _():
    import haiku as hk

    def f(x):
        h = hk.dynamic_unroll(hk.GRU(8), x, jnp.zeros((3, 8)), time_major=False)[0]
        attention = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling(1.0))
        return hk.Linear(2)(hk.LayerNorm(-1, True, True)(h + attention(h, h, h)))

    return haiku(f, normal(3, 4, 8))


@case("jraph: graph network", "jraph", "haiku")
def _():
    import haiku as hk
    import jraph

    graph = _graph()

    def f(nodes):
        net = jraph.GraphNetwork(
            update_edge_fn=jraph.concatenated_args(hk.nets.MLP([6, 4])),
            update_node_fn=jraph.concatenated_args(hk.nets.MLP([6, 4])),
            update_global_fn=jraph.concatenated_args(hk.nets.MLP([6, 4])),
        )
        return net(net(graph._replace(nodes=nodes))).globals

    return haiku(f, normal(7, 4))


def _graph():
    import jraph

    return jraph.GraphsTuple(
        nodes=None,
        edges=normal(8, 4, seed=2),
        senders=jnp.array([0, 1, 2, 0, 3, 4, 5, 6]),
        receivers=jnp.array([1, 2, 0, 2, 4, 5, 6, 3]),
        globals=normal(2, 4, seed=3),
        n_node=jnp.array([3, 4]),
        n_edge=jnp.array([4, 4]),
    )


@case("jraph: GAT and GCN", "jraph", "haiku", top=("linear_1",))
def _():
    import haiku as hk
    import jraph

    graph = _graph()

    def logits(sent, received, edges):
        return jax.nn.leaky_relu(hk.Linear(1)(jnp.concatenate([sent, received], -1)))

    def f(nodes):
        attention = jraph.GAT(hk.Linear(6), logits, node_update_fn=jax.nn.elu)
        convolution = jraph.GraphConvolution(hk.Linear(3), symmetric_normalization=True)
        return convolution(attention(graph._replace(nodes=nodes, edges=None))).nodes

    return haiku(f, normal(7, 4))


@case("distrax: coupling flow", "distrax", "haiku", top=("['linear_1']",))
def _():
    import distrax
    import haiku as hk

    def conditioner():
        return hk.Sequential(
            [
                hk.nets.MLP([8, 8], activate_final=True),
                hk.Linear(8, w_init=hk.initializers.RandomNormal(0.1)),
                hk.Reshape((4, 2)),
            ]
        )

    def f(x):
        layers = [
            distrax.MaskedCoupling(
                mask=jnp.arange(4) % 2 == i % 2,
                bijector=lambda p: distrax.ScalarAffine(
                    shift=p[..., 0], log_scale=jnp.tanh(p[..., 1])
                ),
                conditioner=conditioner(),
            )
            for i in range(2)
        ]
        base = distrax.Independent(distrax.Normal(jnp.zeros(4), jnp.ones(4)), 1)
        return distrax.Transformed(base, distrax.Chain(layers)).log_prob(x)

    return haiku(f, normal(6, 4))


@case("rlax: Q-learning of a Haiku network", "rlax", "haiku", top=("linear_2",))
def _():
    import haiku as hk
    import rlax

    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 8, 3])(x)))
    x, after = normal(6, 4), normal(6, 4, seed=2)

    def loss(params, x, action, reward, after):
        q = jax.vmap(rlax.q_learning, in_axes=(0, 0, 0, None, 0))
        return jnp.mean(
            jnp.square(q(net.apply(params, x), action, reward, 0.9, net.apply(params, after)))
        )

    return loss, jax.jit(net.init)(key(), x), (x, jnp.arange(6) % 3, normal(6, seed=3), after)


# ---------------------------------------------------------------- Equinox packages


@case("equinox: MLP", "equinox", top=("layers[2]",))
def _():
    import equinox as eqx

    return over_batch(lambda: eqx.nn.MLP(4, 3, 8, 2, key=key()), normal(6, 4))


@case("equimo: Vision Transformer", "equimo.models.vit", top=(".head",), digits=32)
def _():
    from equimo.models.vit import VisionTransformer

    def construct():
        return VisionTransformer(8, 3, 8, 4, 2, [2], num_classes=3, reg_tokens=1, key=key())

    return over_batch(construct, normal(3, 3, 8, 8), call=infer)


@case("equimo: ConvNeXt", "equimo.models.convnext", top=(".head",), digits=32)
def _():
    from equimo.models.convnext import ConvNeXt

    def construct():
        sizes = {"depths": [1, 1], "dims": [4, 8], "num_classes": 3}
        return ConvNeXt(3, **sizes, layer_scale_init_value=1.0, key=key())

    return over_batch(construct, normal(2, 3, 16, 16), call=infer)


def infer(model: Any, x: Any) -> Any:
    """Call a model of Equimo without dropout."""
    return model(x, key=key(), inference=True)


@case("pdequinox: U-Net", "pdequinox", top=(".projection",))
def _():
    from pdequinox.arch import ClassicUNet

    return over_batch(
        lambda: ClassicUNet(1, 2, 1, hidden_channels=4, num_levels=2, key=key()), normal(2, 2, 16)
    )


@case("pdequinox: ResNet", "pdequinox", top=(".projection",))
def _():
    from pdequinox.arch import ModernResNet

    return over_batch(
        lambda: ModernResNet(1, 2, 1, hidden_channels=4, num_blocks=2, key=key()), normal(2, 2, 16)
    )


@case("pdequinox: Fourier neural operator", "pdequinox", top=(".projection",))
def _():
    from pdequinox.arch import ClassicFNO

    return over_batch(
        lambda: ClassicFNO(1, 2, 1, hidden_channels=4, num_modes=3, num_blocks=2, key=key()),
        normal(2, 2, 16),
    )


@case(
    "jaxonmodels: CLIP",
    "jaxonmodels.models.clip",
    top=(".text_projection", ".logit_scale", ".visual.proj"),
)
def _():
    import equinox as eqx
    from jaxonmodels.models.clip import CLIP

    model = built(
        lambda: eqx.nn.make_with_state(CLIP)(
            8, 8, 1, 64, 4, 5, 11, 64, 1, 1, True, "batch", key=key()
        )[0]
    )

    def f(model, image, text):
        return jax.vmap(lambda i, t: model(i, t, None)[0])(image, text)

    return fit(f, model, normal(2, 3, 8, 8), jnp.arange(10).reshape(2, 5) % 11)


@case("flowjax: masked autoregressive flow", "flowjax", top=(".base_dist",))
def _():
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow

    flow = masked_autoregressive_flow(
        key(), base_dist=Normal(jnp.zeros(3)), flow_layers=2, nn_width=8, nn_depth=2
    )
    return lambda flow, x: -_unwrap(flow).log_prob(x).mean(), flow, (normal(6, 3),)


def _unwrap(tree):
    import paramax

    return paramax.unwrap(tree)


@case("flowjax: coupling flow with splines", "flowjax", top=(".base_dist",))
def _():
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow

    flow = coupling_flow(
        key(),
        base_dist=Normal(jnp.zeros(4)),
        transformer=RationalQuadraticSpline(knots=4, interval=3),
        flow_layers=2,
        nn_width=8,
    )
    return lambda flow, x: -_unwrap(flow).log_prob(x).mean(), flow, (normal(6, 4),)


@case(
    "flowjax: block neural autoregressive flow", "flowjax", top=(".base_dist", "layers[2][0].bias")
)
def _():
    from flowjax.distributions import Normal
    from flowjax.flows import block_neural_autoregressive_flow

    flow = block_neural_autoregressive_flow(
        key(), base_dist=Normal(jnp.zeros(3)), nn_block_dim=4, nn_depth=2
    )
    return lambda flow, x: -_unwrap(flow).log_prob(x).mean(), flow, (normal(6, 3),)


REFUSED = (".layers[0].weight", "custom_vjp_call", "register_weight_layer")


@case("diffrax: neural ODE", "diffrax", "equinox", refused=REFUSED)
def _():
    import diffrax

    def f(model, x):
        terms = diffrax.ODETerm(lambda t, y, model: model(y))
        return diffrax.diffeqsolve(terms, diffrax.Tsit5(), 0.0, 1.0, 0.25, x, args=model).ys[-1]

    return over_batch(vector_field, normal(4, 3), call=f)


@case("diffrax: two steps of Heun", "diffrax", "equinox", refused=REFUSED)
def _():
    import diffrax

    def f(model, x):
        terms, solver = diffrax.ODETerm(lambda t, y, model: model(y)), diffrax.Heun()
        state = solver.init(terms, 0.0, 0.5, x, model)
        for t in (0.0, 0.5):
            x, _, _, state, _ = solver.step(terms, t, t + 0.5, x, model, state, made_jump=False)
        return x

    return over_batch(vector_field, normal(4, 3), call=f)


def vector_field() -> Any:
    """Return the MLP that gives the derivative of a neural ODE's state."""
    import equinox as eqx

    return eqx.nn.MLP(3, 3, 8, 2, activation=jnp.tanh, key=key())


@case("jaxpike: spiking network", "jaxpike", top=("layers[4]", "layers[5]"), digits=32, limit=False)
def _():
    import jaxpike

    def net():
        layers = (
            jaxpike.Dense(4, 8, key=key()),
            jaxpike.LIF(8),
            jaxpike.Dense(8, 8, key=key(1)),
            jaxpike.LIF(8),
        )
        return jaxpike.Sequential(
            *layers, jaxpike.Dense(8, 3, key=key(2)), jaxpike.LeakyIntegrator(3)
        )

    return fit(lambda net, x: jaxpike.unroll(net, x)[0], net(), normal(5, 6, 4))


# ---------------------------------------------------------------- Flax packages


@case("flax.linen: MLP", "flax.linen", top=("layers_3",))
def _():
    import flax.linen as nn

    return linen(nn.Sequential([nn.Dense(8), nn.silu, nn.LayerNorm(), nn.Dense(3)]), normal(6, 4))


@case("netket: deep set", "netket", top=("['ds_rho']['Dense_1']",))
def _():
    import netket as nk

    return linen(nk.models.DeepSetMLP(features_phi=(8, 8), features_rho=(8,)), normal(6, 5, 2))


@case("netket: group-equivariant network", "netket", top=("layers_1",))
def _():
    import netket as nk

    graph = nk.graph.Chain(4)
    model = nk.models.GCNN(
        symmetries=graph, layers=3, features=2, param_dtype=float, complex_output=False
    )
    return linen(model, jnp.sign(normal(6, 4)))


@case("netket: autoregressive network", "netket", top=("_layers_2",))
def _():
    import netket as nk

    model = nk.models.ARNNDense(hilbert=nk.hilbert.Spin(0.5, 4), layers=3, features=6)
    return linen(model, jnp.sign(normal(6, 4)))


@case("ott: input-convex network", "ott.neural.networks.icnn", top=("pos_def", "w_xs_2", "w_zs_1"))
def _():
    from ott.neural.networks.icnn import ICNN

    return linen(ICNN(3, (6, 6)), normal(5, 3))


@case("ott: velocity field", "ott.neural.networks.velocity_field.mlp", top=("[2]",))
def _():
    from flax import nnx
    from ott.neural.networks.velocity_field.mlp import MLP

    return nnx_case(lambda: MLP(3, hidden_dims=[8, 8], rngs=nnx.Rngs(0)), normal(5), normal(5, 3))


@case("evosax: CNN", "evosax.problems.networks", top=("Dense_1",))
def _():
    from evosax.problems.networks import CNN, identity_output_fn

    model = CNN([4, 4], [(3, 3), (3, 3)], [(1, 1), (1, 1)], [6, 3], output_fn=identity_output_fn)
    return linen(model, normal(3, 6, 6, 1))


@case("mamba2-jax: Mamba2", "mamba2_jax", digits=32)
def _():
    from flax import nnx
    from mamba2_jax import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=11, hidden_size=8, state_size=4, head_dim=4, chunk_size=4, num_hidden_layers=1
    )
    return nnx_case(
        lambda: Mamba2ForCausalLM(config, rngs=nnx.Rngs(0)),
        jnp.arange(16).reshape(2, 8) % 11,
        call=lambda m, x: m(x)["logits"],
    )


@case("attnax: transformer decoder", "attnax", top=("final_ln", "['layers'][1]['ffn']['dense2']"))
def _():
    import attnax
    from flax import nnx

    config = attnax.TransformerConfig(
        vocab_size=11, d_model=8, num_heads=2, num_layers=2, d_ff=8, dropout_rate=0.0, max_len=8
    )
    return nnx_case(
        attnax.TransformerDecoder(nnx.Rngs(0), config), jnp.arange(10).reshape(2, 5) % 11
    )


@case("nanodl: GPT-4 with experts", "nanodl", top=("['outputs']",))
def _():
    import nanodl

    model = nanodl.GPT4(1, 8, 2, 8, 0.0, 11, 8, 5, 0, 1, num_experts=2, top_k=1)
    return linen(model, jnp.arange(10).reshape(2, 5) % 11)


@case("nanodl: MLP-Mixer", "nanodl", top=("['output']",))
def _():
    import nanodl

    return linen(nanodl.Mixer((4, 4), 1, 8, 2, 8, 0.0, 3), normal(2, 8, 8, 3), first=True)


@case("jaxkan: Chebyshev KAN", "jaxkan", top=("['layers'][1]",))
def _():
    from jaxkan.models.KAN import KAN

    return nnx_case(lambda: KAN([3, 4, 2], "chebyshev", {"D": 3}), normal(5, 3))


@case("jaxkan: spline KAN", "jaxkan", top=("['layers'][1]",))
def _():
    from jaxkan.models.KAN import KAN

    return nnx_case(KAN([3, 4, 2], "base", {"k": 3, "G": 3}), 0.3 * normal(5, 3))


@case("e3nn-jax: gated equivariant MLP", "e3nn_jax", "flax.linen", top=("Linear_2",))
def _():
    import e3nn_jax as e3nn
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = e3nn.IrrepsArray("2x0e + 1x1o", x)
            x = e3nn.gate(e3nn.flax.Linear("3x0e + 1x1o")(x))
            x = e3nn.flax.Linear("3x0e + 1x1o")(e3nn.tensor_product(x, x))
            return e3nn.flax.Linear("3x0e")(e3nn.gate(x)).array

    return linen(Net(), normal(5, 5))


@case("keras: CNN by stateless_call", "keras", top=("[6]", "[7]"), digits=32)
def _():
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(6, activation="gelu"),
            layers.Dense(3),
        ]
    )
    return keras_case(model, normal(4, 8, 8, 3))


def keras_case(model: Any, *inputs: Any) -> Any:
    params = [v.value for v in model.trainable_variables]
    rest = [v.value for v in model.non_trainable_variables]
    return fit(
        lambda p, *inputs: model.stateless_call(p, rest, *inputs, training=True)[0], params, *inputs
    )


# ---------------------------------------------------------------- packages with their own modules


@case("stax: CNN", "jax.example_libraries.stax", top=("[7]",))
def _():
    from jax.example_libraries import stax

    init, apply = stax.serial(
        stax.Conv(4, (3, 3)),
        stax.BatchNorm(),
        stax.Relu,
        stax.MaxPool((2, 2)),
        stax.Flatten,
        stax.Dense(6),
        stax.Softplus,
        stax.Dense(3),
    )
    _, params = init(key(), (-1, 6, 6, 2))
    return fit(apply, params, normal(4, 6, 6, 2))


@case("penzai: MLP", "penzai", top=(".sublayers[4]",))
def _():
    from penzai import pz
    from penzai.models import simple_mlp

    model = pz.freeze_params(simple_mlp.MLP.from_config(key(), [4, 8, 8, 3]))

    def f(model, x):
        return model(pz.nx.wrap(x, "batch", "features")).unwrap("batch", "features")

    return fit(f, model, normal(6, 4))


@case("penzai: Llama-like transformer", "penzai", top=("sublayers[5].table",))
def _():
    from penzai import pz
    from penzai.models.transformer.variants import llamalike_common as llama

    config = llama.LlamalikeTransformerConfig(
        num_kv_heads=2,
        query_head_multiplier=1,
        embedding_dim=8,
        projection_dim=4,
        mlp_hidden_dim=8,
        num_decoder_blocks=2,
        vocab_size=11,
        mlp_variant="swiglu",
        tie_embedder_and_logits=True,
    )
    model = pz.freeze_params(llama.build_llamalike_transformer(config, init_base_rng=key()))

    def f(model, tokens):
        tokens = pz.nx.wrap(tokens, "batch", "seq")
        positions = pz.nx.wrap(jnp.arange(5), "seq")
        return model(tokens, token_positions=positions).unwrap("batch", "seq", "vocabulary")

    return fit(f, model, jnp.arange(10).reshape(2, 5) % 11)


@case("inox: attention", "inox.nn", top=(".layers[4]",), digits=32)
def _():
    import inox.nn as nn

    def construct():
        attention = nn.MultiheadAttention(4, heads=2, key=key(2))
        return nn.Sequential(
            nn.Linear(3, 4, key=key()),
            nn.SiLU(),
            nn.LayerNorm(),
            attention,
            nn.Linear(4, 2, key=key(3)),
        )

    return fit(lambda model, x: model(x), construct(), normal(2, 5, 3))


@case("numpyro: variational network", "numpyro", top=("decoder$params'][2]",))
def _():
    import numpyro
    from jax.example_libraries import stax
    from numpyro.distributions import Normal
    from numpyro.infer import SVI, Trace_ELBO

    scale = stax.serial(stax.Dense(2), stax.Exp)
    hidden = stax.Dense(8), stax.Softplus, stax.Dense(8), stax.Softplus
    encoder = stax.serial(*hidden, stax.FanOut(2), stax.parallel(stax.Dense(2), scale))
    decoder = stax.serial(stax.Dense(8), stax.Softplus, stax.Dense(4))

    def model(x):
        decode = numpyro.module("decoder", decoder, (6, 2))
        with numpyro.plate("batch", 6):
            z = numpyro.sample("z", Normal(jnp.zeros((6, 2)), 1.0).to_event(1))
            numpyro.sample("x", Normal(decode(z), 1.0).to_event(1), obs=x)

    def guide(x):
        encode = numpyro.module("encoder", encoder, (6, 4))
        with numpyro.plate("batch", 6):
            numpyro.sample("z", Normal(*encode(x)).to_event(1))

    x = normal(6, 4)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    params = svi.get_params(jax.jit(svi.init)(jax.random.PRNGKey(0), x))
    return lambda p, x: svi.loss.loss(jax.random.PRNGKey(1), p, model, guide, x) / 6, params, (x,)


@case("ion: graph attention", "ion", top=("[1]",))
def _():
    from ion import gnn

    senders, receivers = jnp.array([0, 1, 2, 0, 3, 4, 5, 6]), jnp.array([1, 2, 0, 2, 4, 5, 6, 3])

    def f(model, x):
        x = jax.nn.elu(model[0](x, senders, receivers))
        return model[1](x, senders, receivers)

    def construct():
        return gnn.GATv2Conv(4, 6, num_heads=2, key=key()), gnn.GCNConv(6, 3, key=key(1))

    return fit(f, construct(), normal(7, 4))


@case("jraphx: graph transformer", "jraphx", top=("['second']",))
def _():
    from flax import nnx
    from jraphx.nn.conv import GATv2Conv, TransformerConv

    edges = jnp.array([[0, 1, 2, 0, 3, 4, 5, 6], [1, 2, 0, 2, 4, 5, 6, 3]])

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = GATv2Conv(4, 3, heads=2, rngs=rngs)
            self.second = TransformerConv(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.second(jax.nn.elu(self.first(x, edges)), edges)

    return nnx_case(lambda: Net(nnx.Rngs(0)), normal(7, 4))


@case("spyx: spiking network", "spyx", top=("['layers'][4]",), limit=False)
def _():
    import spyx.nn as snn
    from flax import nnx

    def construct():
        rngs = nnx.Rngs(0)
        layers = nnx.Linear(4, 8, rngs=rngs), snn.LIF((8,), rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        return snn.Sequential(*layers, snn.LIF((8,), rngs=rngs), nnx.Linear(8, 3, rngs=rngs))

    return nnx_case(construct(), 2 * normal(5, 6, 4), call=lambda m, x: snn.run(m, x)[0])


@case("spyx: Mamba block", "spyx", top=("out_proj",))
def _():
    from flax import nnx
    from spyx.ssm import MambaBlock

    return nnx_case(lambda: MambaBlock(4, 4, 3, rngs=nnx.Rngs(0)), normal(5, 3, 4))


@case("bijx: convolutional network", "bijx", top=("[2]",))
def _():
    import bijx
    from flax import nnx

    return nnx_case(
        lambda: bijx.nn.nets.ConvNet(
            2, 2, kernel_size=(3, 3), hidden_channels=[4, 4], rngs=nnx.Rngs(0)
        ),
        normal(3, 6, 6, 2),
    )


@case("flaxdiff: diffusion transformer", "flaxdiff.models.simple_dit", top=("final_proj",))
def _():
    from flaxdiff.models.simple_dit import SimpleDiT

    model = SimpleDiT(3, 4, 8, 1, 2, 2)
    return linen(model, normal(2, 8, 8, 3), normal(2), normal(2, 5, 8))
