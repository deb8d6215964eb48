"""The C quantizers, as the encoder that `pymixtral.formats` asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pymixtral.engine import default_threads, dequantize_rows, quantize_rows
from pymixtral.formats.blocks import quantize, row_bytes
from pymixtral.formats.quantize import Encoded
from pymixtral.formats.recipes import FLOAT_TYPES

Floats = NDArray[np.float32]
Sums = tuple[float, float]  # of (value - new value)^2 and value^2

_TASK_VALUES = 1 << 17  # decoded, quantized and decoded again while they are in the cache


def encode(
    data: memoryview,
    source: int,
    target: int,
    n_cols: int,
    importance: Floats | None,
    run: Callable[[Callable[[int], Sums], Iterable[int]], Iterable[Sums]] = map,
) -> Encoded:
    """See `pymixtral.formats.quantize.Encoder`.

    Args:
        run: calls a function for some rows at a time: `map`, or that of a `ThreadPoolExecutor`. A
            row's bytes depend on the row alone.
    """
    source_row, target_row = row_bytes(source, n_cols), row_bytes(target, n_cols)
    n_rows = data.nbytes // source_row
    encoded = np.empty((n_rows, target_row), np.uint8)
    step = max(1, _TASK_VALUES // n_cols)

    def encode_rows(first: int) -> Sums:
        rows = slice(first, min(first + step, n_rows))
        part = data[rows.start * source_row : rows.stop * source_row]
        values = dequantize_rows(part, source, rows.stop - first, n_cols)
        return _encode_rows(values, target, importance, encoded[rows], first)

    sums = list(run(encode_rows, range(0, n_rows, step)))
    return Encoded(
        encoded.reshape(-1).data, sum(error for error, _ in sums), sum(s for _, s in sums)
    )


class Quantizer:
    """`encode` on several threads.

    Args:
        n_threads: None: what CPU affinity and cgroup quota allow.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(n_threads or default_threads())

    def __enter__(self) -> Quantizer:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(
        self, data: memoryview, source: int, target: int, n_cols: int, importance: Floats | None
    ) -> Encoded:
        """See `pymixtral.formats.quantize.Encoder`."""
        return encode(data, source, target, n_cols, importance, self._threads.map)


def _encode_rows(
    values: Floats, target: int, importance: Floats | None, out: NDArray[np.uint8], first: int
) -> Sums:
    """Fills `out`. `first` is the number of the first row, for messages."""
    if target in FLOAT_TYPES:
        out[:] = np.frombuffer(quantize(values, target), np.uint8).reshape(out.shape)
        back = dequantize_rows(out.reshape(-1).data, target, *values.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            return float(((values - back) ** 2).sum()), float((values**2).sum())
    return quantize_rows(values, target, importance, out, first)
