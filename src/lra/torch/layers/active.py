"""Which intercepted and skipped modules a thread's forward pass is inside of."""

import threading
from typing import Any


class _Active(threading.local):
    """The modules whose code is running.

    Attributes:
        layers: intercepted modules, from the outermost.
        skipped: the number of skipped modules.
    """

    def __init__(self) -> None:
        self.layers: list[Any] = []
        self.skipped = 0


active = _Active()
