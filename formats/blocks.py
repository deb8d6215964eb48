"""The GGML tensor types: their sizes, and a numpy reference for decoding and encoding them.

A tensor's rows are cut into blocks of `block_size` values that take `type_size` bytes each. The
layouts below follow ggml-common.h of https://github.com/ggml-org/ggml; the order of the float32
operations is that of the PyPI package `gguf`, to which the results are bit-equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import iq_blocks

Blocks = npt.NDArray[Any]  # (n_blocks,) of the type's layout
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class GGMLType(NamedTuple):
    name: str
    block_size: int  # values in a block
    type_size: int  # bytes of a block


TYPES: dict[int, GGMLType] = {
    0: GGMLType("F32", 1, 4),
    1: GGMLType("F16", 1, 2),
    2: GGMLType("Q4_0", 32, 18),
    3: GGMLType("Q4_1", 32, 20),
    6: GGMLType("Q5_0", 32, 22),
    7: GGMLType("Q5_1", 32, 24),
    8: GGMLType("Q8_0", 32, 34),
    9: GGMLType("Q8_1", 32, 40),
    10: GGMLType("Q2_K", 256, 84),
    11: GGMLType("Q3_K", 256, 110),
    12: GGMLType("Q4_K", 256, 144),
    13: GGMLType("Q5_K", 256, 176),
    14: GGMLType("Q6_K", 256, 210),
    15: GGMLType("Q8_K", 256, 292),
    16: GGMLType("IQ2_XXS", 256, 66),
    17: GGMLType("IQ2_XS", 256, 74),
    18: GGMLType("IQ3_XXS", 256, 98),
    19: GGMLType("IQ1_S", 256, 50),
    20: GGMLType("IQ4_NL", 32, 18),
    21: GGMLType("IQ3_S", 256, 110),
    22: GGMLType("IQ2_S", 256, 82),
    23: GGMLType("IQ4_XS", 256, 136),
    24: GGMLType("I8", 1, 1),
    25: GGMLType("I16", 1, 2),
    26: GGMLType("I32", 1, 4),
    27: GGMLType("I64", 1, 8),
    28: GGMLType("F64", 1, 8),
    29: GGMLType("IQ1_M", 256, 56),
    30: GGMLType("BF16", 1, 2),
    34: GGMLType("TQ1_0", 256, 54),
    35: GGMLType("TQ2_0", 256, 66),
    39: GGMLType("MXFP4", 32, 17),
    40: GGMLType("NVFP4", 64, 36),
    41: GGMLType("Q1_0", 128, 18),
}

RETIRED_TYPES: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


class TypeId(IntEnum):
    """The types that we decode."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    IQ1_M = 29
    BF16 = 30


# d is a float16 scale, m and dmin are for minima; qs, ql, qh, hmask are packed quants; see the
# decoder of each.
LAYOUTS: dict[TypeId, np.dtype[Any]] = {
    TypeId.F32: np.dtype("<f4"),
    TypeId.F16: np.dtype("<f2"),
    TypeId.BF16: np.dtype("<u2"),
    TypeId.Q4_0: np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    TypeId.Q4_1: np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]),
    TypeId.Q5_0: np.dtype([("d", "<f2"), ("qh", "<u4"), ("qs", "u1", 16)]),
    TypeId.Q5_1: np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "<u4"), ("qs", "u1", 16)]),
    TypeId.Q8_0: np.dtype([("d", "<f2"), ("qs", "i1", 32)]),
    TypeId.Q2_K: np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")]),
    TypeId.Q3_K: np.dtype(
        [("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")]
    ),
    TypeId.Q4_K: np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)]),
    TypeId.Q5_K: np.dtype(
        [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)]
    ),
    TypeId.Q6_K: np.dtype(
        [("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]
    ),
    **{TypeId[name]: layout for name, layout in iq_blocks.LAYOUTS.items()},
}


def scales(data: memoryview | bytes, type_id: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The float16 scales in a tensor's bytes by field, or all values where it has no blocks.

    BF16 values are given as float32.

    Raises:
        ValueError: the type's layout is not known here.
    """
    if type_id not in LAYOUTS:
        raise ValueError(f"the layout of type {TYPES[type_id].name} is not known")
    layout = LAYOUTS[TypeId(type_id)]
    blocks = np.frombuffer(data, layout)
    if layout.names is None:
        yield "values", _decode_bf16(blocks) if type_id == TypeId.BF16 else blocks
        return
    for name in layout.names:
        if layout[name] == np.dtype("<f2"):
            yield name, blocks[name]


def row_bytes(type_id: int, n_values: int) -> int:
    """Bytes of a row of `n_values`, which must be a multiple of the type's block size."""
    kind = TYPES[type_id]
    if n_values % kind.block_size:
        raise ValueError(f"a row of {n_values} does not fill {kind.name} blocks")
    return n_values // kind.block_size * kind.type_size


def dequantize(data: memoryview | bytes, type_id: int, shape: Sequence[int]) -> Floats:
    """Decode the bytes of a tensor of `shape` (numpy order) to float32.

    Raises:
        ValueError: the type has no decoder here, or `data` does not fit `shape`.
    """
    if type_id not in _DECODERS:
        raise ValueError(f"type {TYPES[type_id].name} cannot be decoded yet")
    blocks = np.frombuffer(data, LAYOUTS[TypeId(type_id)])
    with np.errstate(invalid="ignore"):  # a NaN scale makes NaN values, silently
        return _DECODERS[type_id](blocks).reshape(shape)


def quantize(values: Floats, type_id: int) -> bytes:
    """Encode float32 `values`, whose last dimension is a row, as F32, F16, BF16 or Q8_0.

    Raises:
        ValueError: the type has no encoder here; a row does not fill its blocks; a value is too
            large for F16, or no finite number for Q8_0.
    """
    if type_id not in _ENCODERS:
        raise ValueError(f"type {TYPES[type_id].name} cannot be encoded yet")
    row_bytes(type_id, values.shape[-1])
    return _ENCODERS[type_id](np.ascontiguousarray(values, np.float32)).tobytes()


def _column(scales: npt.NDArray[Any]) -> Floats:
    """A float16 scale for each block, as a float32 column."""
    return scales.astype(np.float32)[:, None]


def _decode_float(blocks: Blocks) -> Floats:
    return blocks.astype(np.float32)


def _decode_bf16(blocks: Blocks) -> Floats:
    return (blocks.astype(np.uint32) << 16).view(np.float32)


def _nibbles(blocks: Blocks) -> Floats:
    """The low nibbles of qs are values 0-15, the high ones 16-31."""
    qs: Bytes = blocks["qs"]
    q: Floats = np.concatenate([qs & 15, qs >> 4], axis=1).astype(np.float32)
    return q


def _with_fifth_bit(blocks: Blocks) -> Floats:
    """Nibbles, and bit i of qh as the fifth of value i."""
    fifth = blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
    return _nibbles(blocks) + 16 * fifth.astype(np.float32)


def _decode_q4_0(blocks: Blocks) -> Floats:
    """d * (q - 8)"""
    return _column(blocks["d"]) * (_nibbles(blocks) - 8)


def _decode_q4_1(blocks: Blocks) -> Floats:
    """d * q + m"""
    return _column(blocks["d"]) * _nibbles(blocks) + _column(blocks["m"])


def _decode_q5_0(blocks: Blocks) -> Floats:
    """d * (q - 16)"""
    return _column(blocks["d"]) * (_with_fifth_bit(blocks) - 16)


def _decode_q5_1(blocks: Blocks) -> Floats:
    """d * q + m"""
    return _column(blocks["d"]) * _with_fifth_bit(blocks) + _column(blocks["m"])


def _decode_q8_0(blocks: Blocks) -> Floats:
    """d * q"""
    return blocks["qs"].astype(np.float32) * _column(blocks["d"])


def _pairs_of_bits(qs: Bytes) -> Bytes:
    """(n_blocks, 64) to (n_blocks, 16, 16): 32 bytes are four runs of 32, low bits first."""
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    pairs: Bytes = (qs.reshape(-1, 2, 1, 32) >> shifts) & np.uint8(3)
    return pairs.reshape(-1, 16, 16)


def _decode_q2_k(blocks: Blocks) -> Floats:
    """d * scale * q - dmin * min; for each 16 values a byte of scale (low nibble) and min."""
    q = _pairs_of_bits(blocks["qs"]).astype(np.float32)
    scales = _column(blocks["d"]) * (blocks["scales"] & 15).astype(np.float32)
    mins = _column(blocks["dmin"]) * (blocks["scales"] >> 4).astype(np.float32)
    return scales[:, :, None] * q - mins[:, :, None]


def _q3_k_scales(packed: Bytes) -> Floats:
    """Unpack 16 scales of 6 bits, less 32, from 12 bytes: (n_blocks, 16).

    Bytes 0-7 hold the low 4 bits of scales 0-7, and above them those of 8-15; bytes 8-11 the high
    2 bits of scales 0-3, and above them those of 4-7, 8-11 and 12-15.
    """
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = np.concatenate([packed[:, 8:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales: Floats = (low | high << 4).astype(np.float32) - 32
    return scales


def _decode_q3_k(blocks: Blocks) -> Floats:
    """d * scale * (q - 4), a scale for each 16 values; bit j of hmask[i] is bit 2 of q, of value i
    in the j-th run of 32."""
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high = (blocks["hmask"][:, None, :] >> shifts & np.uint8(1)).reshape(-1, 16, 16)
    q: Floats = (_pairs_of_bits(blocks["qs"]) + 4 * high).astype(np.float32) - 4
    scales = _column(blocks["d"]) * _q3_k_scales(blocks["scales"])
    return scales[:, :, None] * q


def _scales_and_mins(packed: Bytes) -> tuple[Floats, Floats]:
    """Unpack the 6-bit scales and mins of 8 sub-blocks from 12 bytes: (n_blocks, 8, 1) each.

    Bytes 0-3 and 4-7 hold scales and mins 0-3 in their low 6 bits, and in their top 2 bits those of
    scales and mins 4-7, whose low 4 bits are the low and high nibbles of bytes 8-11.
    """
    low, mid, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    mins = np.concatenate([mid & 63, (high >> 4) | (mid >> 6 << 4)], axis=1)
    return scales.astype(np.float32)[:, :, None], mins.astype(np.float32)[:, :, None]


def _k_nibbles(qs: Bytes) -> Bytes:
    """(n_blocks, 128) to (n_blocks, 8, 32): 32 bytes are two sub-blocks, low nibbles first."""
    groups = qs.reshape(-1, 4, 1, 32)
    nibbles: Bytes = np.concatenate([groups & 15, groups >> 4], axis=2)
    return nibbles.reshape(-1, 8, 32)


def _decode_with_mins(blocks: Blocks, q: Bytes) -> Floats:
    """d * scale * q - dmin * min, over sub-blocks of 32."""
    scales, mins = _scales_and_mins(blocks["scales"])
    scales = _column(blocks["d"])[:, :, None] * scales
    mins = _column(blocks["dmin"])[:, :, None] * mins
    return scales * q.astype(np.float32) - mins


def _decode_q4_k(blocks: Blocks) -> Floats:
    return _decode_with_mins(blocks, _k_nibbles(blocks["qs"]))


def _decode_q5_k(blocks: Blocks) -> Floats:
    """As Q4_K, with a fifth bit: bit j of qh[i] belongs to value i of sub-block j."""
    bits = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth: Bytes = (blocks["qh"][:, None, :] >> bits) & np.uint8(1)
    return _decode_with_mins(blocks, _k_nibbles(blocks["qs"]) + 16 * fifth)


def _decode_q6_k(blocks: Blocks) -> Floats:
    """d * scale * (q - 32), a scale for each 16 values.

    Each half of 128 values takes 64 bytes of ql (low nibbles, then high) and 32 of qh (2 bits for
    each of 4 runs of 32).
    """
    ql = blocks["ql"].reshape(-1, 2, 1, 64)
    low = np.concatenate([ql & 15, ql >> 4], axis=2).reshape(-1, 16, 16)
    high = _pairs_of_bits(blocks["qh"])
    q: Floats = (low + 16 * high).astype(np.float32) - 32
    scales = _column(blocks["d"]) * blocks["scales"].astype(np.float32)
    return scales[:, :, None] * q


_DECODERS: dict[int, Callable[[Blocks], Floats]] = {
    TypeId.F32: _decode_float,
    TypeId.F16: _decode_float,
    TypeId.BF16: _decode_bf16,
    TypeId.Q4_0: _decode_q4_0,
    TypeId.Q4_1: _decode_q4_1,
    TypeId.Q5_0: _decode_q5_0,
    TypeId.Q5_1: _decode_q5_1,
    TypeId.Q8_0: _decode_q8_0,
    TypeId.Q2_K: _decode_q2_k,
    TypeId.Q3_K: _decode_q3_k,
    TypeId.Q4_K: _decode_q4_k,
    TypeId.Q5_K: _decode_q5_k,
    TypeId.Q6_K: _decode_q6_k,
    **{TypeId[name]: decoder for name, decoder in iq_blocks.DECODERS.items()},
}


def _encode_f32(values: Floats) -> npt.NDArray[Any]:
    return values


def _encode_f16(values: Floats) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    is_infinite = halves.view("<u2") & 0x7FFF == 0x7C00
    if is_infinite.any() and np.isfinite(values[is_infinite]).any():
        raise ValueError("a value is too large for F16")
    return halves


def _encode_bf16(values: Floats) -> npt.NDArray[Any]:
    """Round to nearest even; a NaN stays one, made quiet."""
    bits = values.view(np.uint32)
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(is_nan, (bits >> 16) | 0x40, rounded).astype("<u2")


def _encode_q8_0(values: Floats) -> npt.NDArray[Any]:
    """d = max |x| / 127; q = x / d, halves rounded away from zero."""
    x = values.reshape(-1, 32)
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    blocks = np.empty(len(x), LAYOUTS[TypeId.Q8_0])
    with np.errstate(over="ignore"):
        blocks["d"] = d[:, 0]
    if not np.isfinite(blocks["d"]).all():
        raise ValueError("a value is not finite, or too large for Q8_0")
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / d
    inverse[~np.isfinite(inverse)] = 0  # d is 0, or so small that float16 makes it 0
    scaled = x * inverse
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    blocks["qs"] = np.copysign(whole + (magnitude - whole >= 0.5), scaled)
    return blocks


_ENCODERS: dict[int, Callable[[Floats], npt.NDArray[Any]]] = {
    TypeId.F32: _encode_f32,
    TypeId.F16: _encode_f16,
    TypeId.BF16: _encode_bf16,
    TypeId.Q8_0: _encode_q8_0,
}
