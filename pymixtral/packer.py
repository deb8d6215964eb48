"""The engine's repacked layout, as `pymixtral.formats` asks for it: whose it is, and its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pymixtral.engine import (
    REPACKED_ROWS,
    default_threads,
    is_repackable,
    repack_rows,
    repack_version,
)
from pymixtral.formats.blocks import row_bytes
from pymixtral.formats.gguf import GGUFFile
from pymixtral.formats.names import parse_name
from pymixtral.formats.packed import PackedHeader, header_for

_PART_BYTES = 64 << 20  # in memory at a time
_TASK_BYTES = 2 << 20  # of a thread at a time


def packed_header(gguf: GGUFFile) -> PackedHeader:
    """What the packed file of a model, whose header is good, must say."""
    return header_for(gguf, repackable_tensors(gguf), repack_version())


def repackable_tensors(gguf: GGUFFile) -> Iterator[str]:
    """Names of the tensors that the engine would repack."""
    for name, info in gguf.tensors.items():
        place = parse_name(name)
        if place is not None and is_repackable(place[0], info.type, info.ne):
            yield name


class Packer:
    """Repacks tensors on several threads.

    Args:
        n_threads: None: what CPU affinity and cgroup quota allow.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(n_threads or default_threads())

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, data: memoryview, type: int, n_cols: int) -> Iterator[memoryview]:
        """See `pymixtral.formats.packed_writer.Repack`. Matrices of a tensor follow one another,
        each of whole groups of rows, so that it is cut like one."""
        group = REPACKED_ROWS * row_bytes(type, n_cols)
        part_bytes, task_bytes = (max(n // group, 1) * group for n in (_PART_BYTES, _TASK_BYTES))
        buffer = np.empty(min(part_bytes, data.nbytes), np.uint8)

        def repack(task: tuple[memoryview, NDArray[np.uint8]]) -> None:
            repack_rows(task[0], type, n_cols, task[1])

        for first in range(0, data.nbytes, part_bytes):
            part = data[first : first + part_bytes]
            out = buffer[: part.nbytes]
            cuts = [slice(i, i + task_bytes) for i in range(0, part.nbytes, task_bytes)]
            for _ in self._threads.map(repack, ((part[cut], out[cut]) for cut in cuts)):
                pass
            yield out.data
