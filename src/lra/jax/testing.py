"""Test a rule against the identities that each must keep, in JAX."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lra.crossing import Crossing, Derivative, Relative, Squared, TargetDifference
from lra.differences import known
from lra.errors import OptionError
from lra.feedback import Stored, Transpose
from lra.identities import CANCELLED, ROUNDING, Identities, RuleReport, gap
from lra.jax.differences import NUMPY
from lra.jax.feedback import init
from lra.jax.gradients import value_and_grad
from lra.jax.plan import plan
from lra.loss_terms import LossTerms, check_terms
from lra.rules import Rule
from lra.wiring import Chain

Arrays = dict[str, Any]
Batch = tuple[Any, Any]


def check_rule(rule: Rule, *, loss_terms: LossTerms | str = LossTerms.BATCH) -> RuleReport:
    """Test a rule against its identities, on a small network in float64.

    Takes any `lra.Rule`, including your own feedback, crossing, local loss or initialisation.
    `IDENTITIES` of this module lists the identities; `lra.testing.check_rule` tests those of torch.

    Args:
        rule: the rule.
        loss_terms: what the losses are means over: "batch" for data of shape (batch, features),
            "tokens" for (batch, tokens, features).

    Returns:
        The measured deviations, if all identities hold.

    Raises:
        RuleError: with every identity that fails, its deviation and the deviation allowed.
        OptionError: for anything but a rule, or for other loss terms.

    >>> lra.jax.check_rule(lra.LRAE())
    <RuleReport of lra-e: ...>
    """
    if not isinstance(rule, Rule):
        raise OptionError(f"check_rule: expected a rule such as lra.LRAE(), got {rule!r}")
    terms = check_terms(loss_terms)
    if not isinstance(terms, LossTerms):
        raise OptionError(f"check_rule: loss_terms must be 'batch' or 'tokens', got {loss_terms!r}")
    with _in_float64():
        return IDENTITIES.check(rule, Bench(rule, terms))


def _in_float64() -> Any:
    """Return the context in which JAX computes in float64."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # before JAX 0.8

    return enable_x64()


@dataclass(frozen=True)
class Bench:
    """The network, data and updates that identities are measured with, the same every time.

    Attributes:
        rule: the rule under test.
        terms: what the losses are means over.
    """

    rule: Rule
    terms: LossTerms

    @cached_property
    def params(self) -> Arrays:
        """The parameters of 5-6-4-3 units. W2 and W3 send errors down."""
        random, sizes = np.random.default_rng(0), (5, 6, 4, 3)
        shapes = {f"W{i + 1}": sizes[i : i + 2] for i in range(3)}
        shapes |= {f"b{i + 1}": sizes[i + 1 : i + 2] for i in range(3)}
        return {name: jnp.asarray(0.5 * random.normal(size=s)) for name, s in shapes.items()}

    @cached_property
    def batch(self) -> Batch:
        """The inputs and labels."""
        random = np.random.default_rng(2)
        shape = (6,) if self.terms is LossTerms.BATCH else (6, 3)
        x, y = random.normal(size=(*shape, 5)), random.integers(3, size=shape)
        return jnp.asarray(x), jnp.asarray(y)

    def loss(self, params: Arrays, x: Any, y: Any) -> Any:
        """Compute the cross-entropy of the network."""
        z = jnp.tanh(x @ params["W1"] + params["b1"])
        z = jax.nn.sigmoid(z @ params["W2"] + params["b2"])
        return cross_entropy(z @ params["W3"] + params["b3"], y)

    def feedback(self, rule: Rule | None = None, loss: Any = None) -> Arrays:
        """Draw the feedback weights, by default of the network and the rule under test."""
        found = plan(loss or self.loss, self.params, *self.batch)
        return init(found, rule or self.rule, self.params, jax.random.key(1))

    def step(
        self, rule: Rule | None = None, loss: Any = None, **options: Any
    ) -> Callable[..., Any]:
        """Return a function of (x, y) that computes the value, the updates, and those of E."""
        rule, loss = rule or self.rule, loss or self.loss
        feedback = self.feedback(rule, loss)
        run = value_and_grad(loss, rule, **{"loss_terms": self.terms} | options)

        def updates(x: Any, y: Any) -> tuple[Any, Arrays, Arrays]:
            value, (grads, feedback_grads) = run(self.params, feedback, x, y)
            return value, grads, feedback_grads

        return updates

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        """The compiled step of the network and the rule under test."""
        step: Callable[..., Any] = jax.jit(self.step())
        return step

    @cached_property
    def own(self) -> Arrays:
        """The updates of the batch."""
        return self.updates(*self.batch)

    @cached_property
    def gradient(self) -> Arrays:
        """The gradient by JAX alone."""
        found: Arrays = jax.jit(jax.grad(self.loss))(self.params, *self.batch)
        return found

    def updates(self, x: Any, y: Any, **options: Any) -> Arrays:
        """Compute the updates of the parameters and of E; options are those of `step`."""
        step = jax.jit(self.step(**options)) if options else self.compiled
        _, grads, feedback_grads = step(x, y)
        return {**grads, **feedback_grads}

    def transported(self, crossing: Crossing) -> Arrays:
        """Compute the updates with another crossing and with E = W."""
        return self.updates(*self.batch, rule=Rule(Transpose(), crossing))


def cross_entropy(logits: Any, y: Any) -> Any:
    """Compute the mean cross-entropy."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1).mean()


IDENTITIES: Identities[Bench] = Identities()
"""The identities, in the order in which they are reported."""


@IDENTITIES.add("forward")
def _forward(bench: Bench) -> float:
    """The value is that of the loss, compiled, to the bit."""
    value, _, _ = bench.compiled(*bench.batch)
    return gap({"loss": value}, {"loss": jax.jit(bench.loss)(bench.params, *bench.batch)})


@IDENTITIES.add("shape")
def _shape(bench: Bench) -> float | None:
    """Every E has the shape and type of its W: arrays where not."""
    if not isinstance(bench.rule.wiring, Chain):
        return None
    pairs = [(E, bench.params[path[2:-2]]) for path, E in bench.feedback().items()]
    return float(sum(E.shape != W.shape or E.dtype != W.dtype for E, W in pairs))


@IDENTITIES.add("one layer", ROUNDING)
def _one_layer(bench: Bench) -> float:
    """The update of a network of one layer is JAX's gradient."""

    def loss(params: Arrays, x: Any, y: Any) -> Any:
        return cross_entropy((x @ params["W1"] + params["b1"])[..., :3], y)

    updates = bench.updates(*bench.batch, loss=loss)
    return gap(updates, jax.jit(jax.grad(loss))(bench.params, *bench.batch))


@IDENTITIES.add("top layer", ROUNDING)
def _top_layer(bench: Bench) -> float:
    """The update of a deep network's last layer is JAX's gradient."""
    pair = bench.own, bench.gradient
    return gap(*({name: each[name] for name in ("W3", "b3")} for each in pair))


@IDENTITIES.add("zero error")
def _zero_error(bench: Bench) -> float:
    """Without an error there is no update: d = 0 gives e = 0."""
    updates = bench.updates(*bench.batch, loss=lambda *args: 0 * bench.loss(*args))
    return max(float(abs(update).max()) for update in updates.values())


@IDENTITIES.add("order", CANCELLED)
def _order(bench: Bench) -> float:
    """The order of the samples does not matter."""
    x, y = bench.batch
    return gap(bench.updates(x[::-1], y[::-1]), bench.own)


@IDENTITIES.add("duplicates", CANCELLED)
def _duplicates(bench: Bench) -> float:
    """A batch with every sample twice gives the same update."""
    twice = [jnp.concatenate([array, array]) for array in bench.batch]
    return gap(bench.updates(*twice), bench.own)


@IDENTITIES.add("mean of samples", CANCELLED)
def _mean_of_samples(bench: Bench) -> float | None:
    """A batch's update is the mean of its samples' updates, mapped by vmap."""
    if getattr(bench.rule.crossing, "relative", None) is Relative.BATCH:
        return None
    x, y = bench.batch
    _, *ones = jax.jit(jax.vmap(bench.step()))(x[:, None], y[:, None])
    return gap({k: u.mean(0) for each in ones for k, u in each.items()}, bench.own)


@IDENTITIES.add("summed loss", CANCELLED)
def _summed_loss(bench: Bench) -> float:
    """A loss summed over N terms, with loss_terms=1, gives N times the mean's update."""
    n = bench.batch[1].size
    summed = bench.updates(*bench.batch, loss=lambda *args: n * bench.loss(*args), loss_terms=1)
    return gap(summed, {name: n * update for name, update in bench.own.items()})


@IDENTITIES.add("learned feedback", ROUNDING)
def _learned_feedback(bench: Bench) -> float | None:
    """Learned feedback gets the feedback's update for dW."""
    if bench.rule.feedback.stored is not Stored.LEARNED:
        return None
    chain = ("W2", "W3") if isinstance(bench.rule.wiring, Chain) else ("W3",)  # with their own E
    expected = {f"['{W}']": bench.rule.feedback.update(bench.own[W]) for W in chain}
    return gap({path: E for path, E in bench.own.items() if path in expected}, expected)


@IDENTITIES.add("compiled", CANCELLED)
def _compiled(bench: Bench) -> float:
    """A compiled step has the updates of the same step run op by op."""
    _, updates, moved = bench.step()(*bench.batch)
    return gap(bench.own, {**updates, **moved})


@IDENTITIES.add("NumPy", CANCELLED)
def _numpy(bench: Bench) -> float | None:
    """The crossing computes the same with NumPy's arrays as with JAX's."""
    crossing = bench.rule.crossing
    if isinstance(crossing, Derivative):
        return None
    h, d = np.random.default_rng(4).normal(size=(2, 6, 4))
    arrays = h, np.tanh(h), d / 6
    e = crossing.error(known("tanh", np.tanh), *arrays, 6, np)
    h, z, d = map(jnp.asarray, arrays)
    return gap({"e": crossing.error(known("tanh", jnp.tanh), h, z, d, 6, NUMPY)}, {"e": e})


@IDENTITIES.add("weight transport", ROUNDING)
def _weight_transport(bench: Bench) -> float | None:
    """With E = W, a crossing by the derivative is backprop."""
    if not isinstance(bench.rule.crossing, Derivative):
        return None
    return gap(bench.transported(bench.rule.crossing), bench.gradient)


@IDENTITIES.add("limit", 0.12)
def _limit(bench: Bench) -> float | None:
    """With E = W and gain = 1/beta, the gap to backprop shrinks like beta: at 1e-4 over at 1e-3."""
    crossing = bench.rule.crossing
    if not isinstance(crossing, TargetDifference) or crossing.surrogate is not None:
        return None
    if crossing.local_loss != Squared():
        return None
    nearer, near = (
        gap(
            bench.transported(replace(crossing, beta=beta, gain=1.0, normalized=True)),
            bench.gradient,
        )
        for beta in (1e-4, 1e-3)
    )
    return nearer / near
