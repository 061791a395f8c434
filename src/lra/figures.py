"""Figures of matplotlib that notebooks show without pyplot. Importing this needs matplotlib."""

import io

try:
    import matplotlib.figure
except ModuleNotFoundError as error:
    if error.name != "matplotlib":
        raise
    raise ModuleNotFoundError("plots need matplotlib: pip install matplotlib") from error


class Figure(matplotlib.figure.Figure):
    """A figure of matplotlib, with constrained layout.

    Args:
        width: its width in inches.
        height: its height in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=130, layout="constrained")

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()
