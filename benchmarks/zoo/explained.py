"""Why the models that `reach.py` shows as failing fail, by list and name."""

REASONS: dict[str, dict[str, str]] = {}
