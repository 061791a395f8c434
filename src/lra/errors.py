"""The exceptions and warnings. Messages state what is wrong, where, what is allowed, and a fix."""

from dataclasses import dataclass


class LraError(Exception):
    """Raised for everything that lra refuses: base class of its errors."""


class OptionError(LraError, ValueError):
    """Raised for an unknown option or name, or a value outside its range."""


@dataclass(frozen=True)
class Refusal:
    """State why one module is refused.

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
    """Raised for a model that is refused.

    Attributes:
        refused: the modules that cause it, each with its reason.
    """

    def __init__(self, message: str, refused: tuple[Refusal, ...] = ()) -> None:
        super().__init__(message)
        self.refused = refused


class ConversionError(_RefusedError):
    """Raised for a model that cannot be converted or restored as asked. The model is unchanged.

    Attributes:
        refused: the modules that cause it, each with its reason, as a tuple of `Refusal`.

    >>> net = nn.Sequential(nn.Linear(4, 2))
    >>> try:
    ...     lra.restore(net)
    ... except lra.errors.ConversionError as error:
    ...     print(error)
    restore: no layer of this Sequential is converted; call lra.convert(model, rule) first
    """


class MethodError(_RefusedError):
    """Raised for a model that a method does not support, or where its update would be wrong.

    Attributes:
        refused: the modules that cause it, each with its reason, as a tuple of `Refusal`.
    """


class CompileError(LraError, RuntimeError):
    """Raised for a training step that cannot be compiled, or is called in an unsupported way."""


class EnsembleError(_RefusedError):
    """Raised for networks that cannot be trained as one ensemble, or are no longer compatible.

    Attributes:
        refused: the modules that cause it, each with its reason, as a tuple of `Refusal`.
    """


class RuleError(LraError, AssertionError):
    """Raised for a rule that breaks an identity, or a pass that it does not define."""


class LraWarning(UserWarning):
    """Warns of something that works, but is probably not intended."""


class DataError(LraError, OSError):
    """Raised for a dataset that cannot be found, fetched, or trusted."""


class RunError(LraError, RuntimeError):
    """Raised for a training run that cannot start, resume or continue."""


class Diverged(RunError):  # noqa: N818 - a state of a run, like Interrupted
    """Raised for a run or a method whose loss, weights or states are no longer finite."""


def one_line(error: BaseException) -> str:
    """Return the message of another library's error as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
