"""The exceptions and warnings. Messages state what is wrong, where, what is allowed, and a fix."""

from dataclasses import dataclass


class LraError(Exception):
    """Base class of all errors that lra raises."""


class OptionError(LraError, ValueError):
    """An unknown option or name, or a value outside its range."""


@dataclass(frozen=True)
class Refusal:
    """Why one module is refused.

    Attributes:
        name: the module's qualified name; "" for the model itself.
        type: the name of its class.
        reason: what is not supported, and how to fix it.
    """

    name: str
    type: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name or '(the model itself)'} ({self.type}): {self.reason}"


class _RefusedError(LraError, TypeError):
    """A model that is refused.

    Attributes:
        refused: the modules that cause it, each with its reason.
    """

    def __init__(self, message: str, refused: tuple[Refusal, ...] = ()) -> None:
        super().__init__(message)
        self.refused = refused


class ConversionError(_RefusedError):
    """A model that cannot be converted or restored as asked. The model is unchanged."""


class MethodError(_RefusedError):
    """A model that a method does not support, or a situation in which it would be wrong."""


class CompileError(LraError, RuntimeError):
    """A training step that cannot be compiled, or is called in an unsupported way."""


class EnsembleError(_RefusedError):
    """Networks that cannot be trained as one ensemble, or are no longer compatible."""


class RuleError(LraError, AssertionError):
    """A rule or a method that breaks an identity, or a pass that is not defined under a rule."""


class LraWarning(UserWarning):
    """Something that works, but is probably not intended."""


class DataError(LraError, OSError):
    """A dataset that cannot be found, fetched, or trusted."""


class RunError(LraError, RuntimeError):
    """A training run that cannot start, resume or continue."""


class Diverged(RunError):  # noqa: N818 - a state of a run, like Interrupted
    """A training run or a method whose loss, weights or states are no longer finite."""


def one_line(error: BaseException) -> str:
    """Return the message of another library's error as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
