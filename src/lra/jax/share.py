"""Optimizers of parameters and feedback weights in which E moves as its W does."""

from typing import Any

import jax

from lra.errors import OptionError
from lra.feedback import Stored
from lra.jax.trace import is_inexact, split
from lra.rules import Rule, require_rule


def share_feedback(optimizer: Any, rule: Rule) -> Any:
    """Return an optax optimizer of (params, feedback) in which E moves with the state of its W.

    With dE = dW and one optimizer for both, each step moves E exactly as it moves W, apart from
    weight decay. So E needs no state of its own: the optimizer's update is computed a second time,
    with E in place of W and the same gradients. A compiler shares all but the decay. Fixed feedback
    stays as it is, so that one training loop serves all rules.

    For optimizers with decoupled decay, such as `optax.adamw`, and for those without decay, this
    equals an optimizer of the pair up to rounding, with two exceptions. Clipping by the norm of all
    gradients does not count dE. And a parameter that is also used outside weight layers, such as an
    embedding tied to the output layer, moves its E by its whole gradient.

    Args:
        optimizer: an `optax.GradientTransformation` for the parameters.
        rule: the rule.

    Returns:
        An `optax.GradientTransformationExtraArgs` for pairs: its init takes (params, feedback), and
        its update takes (grads, feedback_grads), the state, and (params, feedback).

    Raises:
        OptionError: for a rule whose E does not move as W does: a gamma other than 1, or errors
            that skip layers. Use the optimizer itself on the pair there.

    Source: Kolen and Pollack, Backpropagation without weight transport, 1994, for E - W.

    >>> import optax
    >>> params, E = {"a": jnp.ones((3, 4))}, {"['a']": jnp.zeros((3, 4))}
    >>> optimizer = lra.jax.share_feedback(optax.sgd(0.1), lra.LRAE())
    >>> state = optimizer.init((params, E))
    >>> grads = {"a": jnp.ones((3, 4))}
    >>> updates, state = optimizer.update((grads, E), state, (params, E))
    >>> params, E = optax.apply_updates((params, E), updates)
    >>> float(params["a"][0, 0]), float(E["['a']"][0, 0])
    (0.8999999761581421, -0.10000000149011612)
    """
    import optax

    feedback_axis = require_rule(rule, "share_feedback").feedback
    learned = feedback_axis.stored is Stored.LEARNED
    if learned and (rule.wiring.reach != 1 or getattr(feedback_axis, "gamma", None) != 1):
        what = feedback_axis if rule.wiring.reach == 1 else rule.wiring
        raise OptionError(
            f"share_feedback: under {what} E does not move as W does; use the optimizer itself on "
            "(params, feedback)"
        )
    inner = optax.with_extra_args_support(optimizer)

    def start(pair: Any) -> Any:
        params, _ = _pair(pair)
        return inner.init(params)

    def update(grads: Any, state: Any, pair: Any = None, **extra: Any) -> Any:
        params, feedback = _pair(pair)
        moves, new = inner.update(grads[0], state, params, **extra)
        if not learned:
            return (moves, jax.tree.map(jax.numpy.zeros_like, feedback)), new
        others = split(params, is_inexact)
        there = [feedback.get(p, W) for p, W in zip(others.paths, others.leaves, strict=True)]
        moves_there, _ = inner.update(grads[0], state, others.join(there), **extra)
        found = split(moves_there, is_inexact)
        by_path = dict(zip(found.paths, found.leaves, strict=True))
        return (moves, {path: by_path[path] for path in feedback}), new

    return optax.GradientTransformationExtraArgs(start, update)


def _pair(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], dict):
        raise OptionError(
            "share_feedback: this optimizer takes the pair (params, feedback), with feedback from "
            f"lra.jax.init; got {type(pair).__name__}"
        )
    return pair
