"""Reading mapped weights from the disk ahead of the kernels that will need them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from pymixtral._cengine import lib

STEP = 16 << 20  # bytes between two looks at whether to stop


class ReadAhead:
    """Brings buffers into memory, one after another, in a thread of its own.

    What is in memory already is left alone. Where the operating system cannot do it (anything but
    Linux from 5.14 on), nothing happens.

    Args:
        buffers: `ffi.from_buffer` of mapped files; held until they are read or `stop` is called.
    """

    def __init__(self, buffers: Iterable[Any]) -> None:
        buffers = list(buffers)
        for buffer in buffers:
            lib.ce_want_large_reads(buffer, len(buffer))
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_read,
            args=(buffers, self._stop),
            name="pymixtral-read-ahead",
            daemon=True,  # a program that ends does not wait for it
        )
        self._thread.start()

    def wait(self) -> None:
        """Until all is read."""
        self._thread.join()

    def stop(self) -> None:
        """Return when the buffers are not touched any more, which is soon."""
        self._stop.set()
        self._thread.join()


def _read(buffers: list[Any], stop: threading.Event) -> None:
    for buffer in buffers:
        for start in range(0, len(buffer), STEP):
            n_bytes = min(STEP, len(buffer) - start)
            if stop.is_set() or not lib.ce_read_ahead(buffer + start, n_bytes):
                return
