"""How fast this machine reads memory: the ceiling for generating tokens one at a time."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

N_BYTES = 2 << 30  # far above any cache


class ReadBandwidth:
    """Reads one buffer with several threads.

    The reader is libc's memchr, told to look for a byte that is not there: a loop of plain vector
    loads, without the GIL, on every platform.
    """

    def __init__(self, n_threads: int) -> None:
        self._memchr = ctypes.CDLL(None).memchr
        self._memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self._memchr.restype = ctypes.c_void_p
        buffer = np.ones(N_BYTES, np.uint8)  # written, so that every page exists
        self._parts = np.array_split(buffer, n_threads)
        self._pool = ThreadPoolExecutor(n_threads)

    def measure(self) -> float:
        """Bytes per second of one pass over the buffer."""
        start = time.perf_counter()
        list(self._pool.map(self._read, self._parts))
        return N_BYTES / (time.perf_counter() - start)

    def _read(self, part: np.ndarray) -> None:
        self._memchr(part.ctypes.data, 0, part.nbytes)
