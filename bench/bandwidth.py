"""How fast this machine reads memory: the ceiling for generating tokens one at a time."""

from __future__ import annotations

import time

import numpy as np

from pymixtral.engine import Engine
from pymixtral.roofline import READ_BYTES


class ReadBandwidth:
    """Reads one buffer with an engine's threads, in the widest loads that its tier has."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = np.ones(READ_BYTES, np.uint8)  # written, so that every page exists

    def measure(self) -> float:
        """Bytes per second of one pass over the buffer."""
        start = time.perf_counter()
        self._engine.read(self._buffer)
        return READ_BYTES / (time.perf_counter() - start)
