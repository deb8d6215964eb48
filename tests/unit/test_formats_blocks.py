"""Block types against the PyPI package `gguf`."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from pymixtral.formats.blocks import (
    RETIRED_TYPES,
    TYPES,
    TypeId,
    dequantize,
    quantize,
    row_bytes,
)
from pymixtral.formats.iq_grids import grid

ENCODED = [TypeId.F32, TypeId.F16, TypeId.BF16, TypeId.Q8_0]


def test_sizes_are_those_of_gguf() -> None:
    theirs = {int(t): (t.name, *sizes) for t, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: tuple(kind) for number, kind in TYPES.items()} == theirs
    assert not set(RETIRED_TYPES) & set(TYPES)


@pytest.mark.parametrize("type_id", TypeId, ids=lambda t: t.name)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_dequantize_is_bit_equal_on_random_blocks(type_id: TypeId) -> None:
    """Random bytes: scales of every kind, infinities and NaNs included."""
    rng = np.random.default_rng(type_id)
    n_blocks = 4000 // TYPES[type_id].block_size + 16
    raw = rng.integers(0, 256, (8, n_blocks * TYPES[type_id].type_size), np.uint8)
    theirs = gguf.quants.dequantize(raw, GGMLQuantizationType(type_id))
    ours = dequantize(raw.tobytes(), type_id, theirs.shape)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    assert np.isfinite(ours).any()


@pytest.mark.parametrize("name", ["IQ1", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_grids_are_those_of_gguf(name: str) -> None:
    theirs = gguf.quants._type_traits[GGMLQuantizationType["IQ1_S" if name == "IQ1" else name]]
    theirs.init_grid()
    np.testing.assert_array_equal(grid(name), theirs.grid[0, 0])


@pytest.mark.parametrize("type_id", ENCODED, ids=lambda t: t.name)
def test_quantize_is_byte_equal(type_id: TypeId) -> None:
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.integers(-30, 4, (500, 1))
    values = (rng.standard_normal((500, 256)) * scales).astype(np.float32)
    values[0] = 0
    values[1] = np.arange(256) / 2  # halves, whose rounding must go away from zero
    values[2] = -values[1]
    theirs = gguf.quants.quantize(values, GGMLQuantizationType(type_id))
    assert quantize(values, type_id) == theirs.tobytes()


def test_bf16_of_every_kind_of_number() -> None:
    """Ties, carries into the exponent, subnormals, infinities and NaNs."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 1 << 16, np.uint32)
    bits[:6] = [0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x3F808000, 0x3F818000]
    values = bits.view(np.float32).reshape(256, 256)
    theirs = gguf.quants.quantize(values, GGMLQuantizationType.BF16)
    assert quantize(values, TypeId.BF16) == theirs.tobytes()
    decoded = dequantize(quantize(values, TypeId.BF16), TypeId.BF16, values.shape)
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(values))


def test_q8_0_of_values_too_small_for_its_scale() -> None:
    values = np.full((1, 32), 1e-40, np.float32)
    assert not dequantize(quantize(values, TypeId.Q8_0), TypeId.Q8_0, (32,)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e9])
def test_q8_0_refuses_what_it_cannot_scale(bad: float) -> None:
    values = np.ones((2, 32), np.float32)
    values[1, 7] = bad
    with pytest.raises(ValueError, match="not finite, or too large"):
        quantize(values, TypeId.Q8_0)


def test_f16_refuses_overflow_and_keeps_infinity() -> None:
    with pytest.raises(ValueError, match="too large"):
        quantize(np.full(4, 1e5, np.float32), TypeId.F16)
    encoded = quantize(np.array([np.inf, np.nan], np.float32), TypeId.F16)
    decoded = dequantize(encoded, TypeId.F16, (2,))
    assert np.isinf(decoded[0])
    assert np.isnan(decoded[1])


def test_types_without_a_codec_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="TQ1_0"):
        dequantize(bytes(54), 34, (256,))
    with pytest.raises(ValueError, match="Q4_K"):
        quantize(np.zeros(256, np.float32), TypeId.Q4_K)


def test_rows_must_fill_blocks() -> None:
    assert row_bytes(TypeId.Q4_K, 512) == 288
    with pytest.raises(ValueError, match="does not fill Q8_0 blocks"):
        row_bytes(TypeId.Q8_0, 48)
    with pytest.raises(ValueError, match="does not fill Q8_0 blocks"):
        quantize(np.zeros((2, 48), np.float32), TypeId.Q8_0)
