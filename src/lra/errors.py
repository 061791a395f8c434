"""The exception tree: every message says what, where, what is allowed, and the remedy."""

from dataclasses import dataclass


class LraError(Exception):
    """Base of every error that lra raises on purpose."""


class OptionError(LraError, ValueError):
    """An option or a name that is unknown, or a value outside its range."""


@dataclass(frozen=True)
class Refusal:
    """Why one module cannot follow a rule.

    Attributes:
        name: its qualified name; "" for the model itself.
        type: the name of its class.
        reason: what stands in the way, and the remedy.
    """

    name: str
    type: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name or '(the model itself)'} ({self.type}): {self.reason}"


class _RefusedError(LraError, TypeError):
    """A model that is refused.

    Attributes:
        refused: the modules that stand in the way, each with its reason.
    """

    def __init__(self, message: str, refused: tuple[Refusal, ...] = ()) -> None:
        super().__init__(message)
        self.refused = refused


class ConversionError(_RefusedError):
    """A model that cannot be converted or restored as asked; nothing was changed."""


class MethodError(_RefusedError):
    """A model that a method is not defined on, or a situation in which it would go wrong."""


class CompileError(LraError, RuntimeError):
    """A training step that cannot be compiled, or not as it is called."""


class EnsembleError(_RefusedError):
    """Networks that cannot be trained together, or that are no longer alike."""


class RuleError(LraError, AssertionError):
    """A rule that breaks an identity it must keep."""


class LraWarning(UserWarning):
    """Something that works, and is hardly what was meant."""


class DataError(LraError, OSError):
    """A dataset that cannot be found, fetched, or trusted."""


class RunError(LraError, RuntimeError):
    """A training run that cannot start, resume, or go on."""


class Diverged(RunError):  # noqa: N818 - said of runs, as Interrupted is
    """A training run whose loss or weights stopped being finite."""


def one_line(error: BaseException) -> str:
    """Say what another library's error says, in a line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
