"""The exception tree: every message says what, where, what is allowed, and the remedy."""


class LraError(Exception):
    """Base of every error that lra raises on purpose."""


class OptionError(LraError, ValueError):
    """An option or a name that is unknown, or a value outside its range."""


class ConversionError(LraError, TypeError):
    """A model that cannot be converted or restored as asked; nothing was changed."""


class RuleError(LraError, AssertionError):
    """A rule that breaks an identity it must keep."""


class DataError(LraError, OSError):
    """A dataset that cannot be found, fetched, or trusted."""


class RunError(LraError, RuntimeError):
    """A training run that cannot start, resume, or go on."""
