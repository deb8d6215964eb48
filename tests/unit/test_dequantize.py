"""Dequantization in C has the bits of the PyPI package gguf, on random blocks."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as QuantizationType
from gguf.quants import dequantize
from pymixtral._cengine import ffi, lib

from pymixtral.engine import TENSOR_TYPES

TYPES = list(TENSOR_TYPES)


def dequantize_in_c(qtype: QuantizationType, data: np.ndarray, n_cols: int) -> np.ndarray:
    """A row of `n_cols` elements as float32; `data` holds its bytes."""
    out = np.empty(n_cols, dtype=np.float32)
    src = ffi.from_buffer(data)
    dst = ffi.from_buffer("float[]", out, require_writable=True)
    error = ffi.new("ce_error *")
    assert lib.ce_dequantize(qtype, src, dst, n_cols, error) == lib.CE_OK, error.message
    return out


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits; of NaNs only that both are (gguf keeps signalling ones, F16C quietens them)."""
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], want.view(np.uint32)[~nan])


def as_element_type(qtype: QuantizationType, data: np.ndarray) -> np.ndarray:
    """The bytes as the dtype that gguf expects: half and single floats are not blocks to it."""
    dtypes = {QuantizationType.F32: np.float32, QuantizationType.F16: np.float16}
    return data.view(dtypes.get(qtype, np.uint8))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random halves include NaN and infinity
@pytest.mark.parametrize("name", TYPES)
def test_random_blocks(name: str) -> None:
    qtype = QuantizationType[name]
    block_cols, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
    rng = np.random.default_rng(qtype)
    data = rng.integers(0, 256, size=4000 * block_bytes, dtype=np.uint8)
    want = dequantize(as_element_type(qtype, data), qtype).astype(np.float32).ravel()
    got = dequantize_in_c(qtype, data, 4000 * block_cols)
    assert_same_bits(got, want)
    assert np.isfinite(got).mean() > 0.5  # the comparison was not one of NaNs


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0"])
def test_quantized_by_gguf(name: str) -> None:
    """Real data: what gguf quantizes, C reads back as gguf does, close to the original."""
    qtype = QuantizationType[name]
    x = np.random.default_rng(1).normal(size=(8, 256)).astype(np.float32)
    data = gguf.quants.quantize(x, qtype)
    got = dequantize_in_c(qtype, data.ravel(), x.size)
    assert_same_bits(got, dequantize(data, qtype).ravel())
    assert np.abs(got - x.ravel()).max() < (0.6 if name == "Q4_0" else 0.03)


def test_every_half() -> None:
    halves = np.arange(65536, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        want = halves.view(np.float16).astype(np.float32)
    got = dequantize_in_c(QuantizationType.F16, halves.view(np.uint8), halves.size)
    assert_same_bits(got, want)


@pytest.mark.parametrize("name", TYPES)
def test_row_bytes(name: str) -> None:
    qtype = QuantizationType[name]
    block_cols, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
    assert lib.ce_row_bytes(qtype, 3 * block_cols) == 3 * block_bytes
    if block_cols > 1:
        assert lib.ce_row_bytes(qtype, 3 * block_cols + 1) == 0


@pytest.mark.parametrize(
    ("ggml_type", "n_cols"),
    [(QuantizationType.TQ1_0, 256), (-1, 32), (31, 32), (2**31 - 1, 32), (12, 255), (8, -32)],
)
def test_refused(ggml_type: int, n_cols: int) -> None:
    assert lib.ce_row_bytes(ggml_type, n_cols) == 0
    error = ffi.new("ce_error *")
    assert lib.ce_dequantize(ggml_type, ffi.NULL, ffi.NULL, n_cols, error) == lib.CE_ERR_ARGUMENT
    assert f"type {ggml_type}" in ffi.string(error.message).decode()


def test_row_bytes_do_not_wrap() -> None:
    assert lib.ce_row_bytes(QuantizationType.F32, 2**62 - 1) == 2**64 - 4
    assert lib.ce_row_bytes(QuantizationType.F32, 2**62) == 0
