"""Rows of weights, by the C kernels: a block type to float32 and back, or repacked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pymixtral._cengine import ffi, lib

REPACKED_ROWS = 16  # rows that the repacked layout interleaves, and so has whole groups of


def dequantize_rows(data: memoryview, source: int, n_rows: int, n_cols: int) -> NDArray[np.float32]:
    """Rows of GGML type `source` as float32 (n_rows, n_cols).

    Raises:
        ValueError: there is no decoder for the type.
    """
    if source == lib.CE_TYPE_F32:
        return np.frombuffer(data, np.float32).reshape(n_rows, n_cols)
    values = np.empty((n_rows, n_cols), np.float32)
    error = ffi.new("ce_error *")
    src, dst = ffi.from_buffer(data), ffi.from_buffer("float[]", values)
    _check_rows(lib.ce_dequantize(source, src, dst, values.size, error), error)
    return values


def quantize_rows(
    values: NDArray[np.float32],
    target: int,
    importance: NDArray[np.float32] | None,
    out: NDArray[np.uint8],
    first: int = 0,
) -> tuple[float, float]:
    """Fill `out` with the rows `values` (n_rows, n_cols) as GGML type `target`.

    Args:
        importance: (n_cols,), how much an error in a column matters.
        first: the number of the first row, for messages.

    Returns: the sums of (value - quantized value)^2 and value^2.

    Raises:
        ValueError: a value, or an importance, cannot be used; there is no quantizer for the type.
    """
    sums, error = ffi.new("ce_quantize_error *"), ffi.new("ce_error *")
    src, dst = ffi.from_buffer("float[]", values), ffi.from_buffer(out)
    weights = ffi.NULL if importance is None else ffi.from_buffer("float[]", importance)
    code = lib.ce_quantize(target, src, *values.shape, weights, dst, sums, error)
    _check_rows(code, error, first)
    return sums.error, sums.square


def repack_rows(data: memoryview, type: int, n_cols: int, out: NDArray[np.uint8]) -> None:
    """Write rows of GGML type `type` to `out` in the repacked layout, in as many bytes.

    Args:
        data: whole groups of `REPACKED_ROWS` rows of `n_cols`, which is a multiple of 256.

    Raises:
        ValueError: the type, or the size of `data` or `out`, is none that can be repacked.
    """
    group = REPACKED_ROWS * int(lib.ce_row_bytes(type, n_cols))
    if group == 0 or data.nbytes % group or out.nbytes != data.nbytes:
        raise ValueError(f"{data.nbytes} bytes to {out.nbytes} are no groups of {group}")
    error = ffi.new("ce_error *")
    src, dst = ffi.from_buffer(data), ffi.from_buffer(out)
    n_rows = REPACKED_ROWS * (data.nbytes // group)
    _check_rows(lib.ce_repack_rows(type, src, n_rows, n_cols, dst, error), error)


def _check_rows(code: int, error: Any, first: int = 0) -> None:
    if code != lib.CE_OK:
        where = f" (rows are counted from {first})" if first else ""
        raise ValueError(ffi.string(error.message).decode() + where)
