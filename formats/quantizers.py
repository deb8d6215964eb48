"""Quantizers in numpy: the reference of the engine's, to whose bytes theirs are equal.

Q8_0 and the types before the K-quants have one formula, unless an importance says which errors
matter; all others are searched for, see `block_search`. Parameters are those of cengine/quantize/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .block_search import (
    AffineCodes,
    AffineFormat,
    Floats,
    Guesses,
    ScaledCodes,
    ScaledFormat,
    Weighting,
    search_affine,
    search_scaled,
)
from .blocks import LAYOUTS, TypeId
from .iq_blocks import IQ4_NUMBERS

Blocks = npt.NDArray[Any]  # (n_blocks,) of the type's layout
Bytes = npt.NDArray[Any]  # (n_blocks, ...), uint8

MAX_MAGNITUDE = 65504  # of half precision, which the scales have

_IQ4_POINTS = tuple(map(int, IQ4_NUMBERS))

# Positions are those of the fields: codes, integer scales, columns, sub-blocks, ...
_FORMATS: dict[TypeId, AffineFormat | ScaledFormat] = {
    TypeId.Q2_K: AffineFormat(3, 15, 16, 16, Guesses(-0.8, 0.1, 18), 7, Weighting(0, 1)),
    TypeId.Q4_K: AffineFormat(15, 63, 32, 8, Guesses(-0.8, 0.2, 12), 2, Weighting(0.25, 2)),
    TypeId.Q5_K: AffineFormat(31, 63, 32, 8, Guesses(-0.8, 0.2, 12), 2, Weighting(1, 2)),
    TypeId.Q3_K: ScaledFormat(
        -4, 3, -32, 31, 16, 16, Guesses(-0.8, 0.15, 12), 3, Weighting(0.25, 2)
    ),
    TypeId.Q6_K: ScaledFormat(
        -32, 31, -128, 127, 16, 16, Guesses(-0.8, 0.2, 8), 2, Weighting(0.25, None)
    ),
    TypeId.IQ4_NL: ScaledFormat(
        -127, 113, 1, 1, 32, 1, Guesses(-24, 6, 8), 3, Weighting(0.25, 2), _IQ4_POINTS
    ),
    TypeId.IQ4_XS: ScaledFormat(
        -127, 113, -32, 31, 32, 8, Guesses(-24, 6, 8), 2, Weighting(0.25, 2), _IQ4_POINTS
    ),
    TypeId.Q4_0: ScaledFormat(-8, 7, 1, 1, 32, 1, Guesses(-0.8, 0.2, 12), 3, Weighting(0.25, 1)),
    TypeId.Q5_0: ScaledFormat(-16, 15, 1, 1, 32, 1, Guesses(-0.8, 0.2, 12), 3, Weighting(0.25, 1)),
    TypeId.Q4_1: AffineFormat(15, 1, 32, 1, Guesses(-0.9, 0.1, 24), 3, Weighting(0.25, 2)),
    TypeId.Q5_1: AffineFormat(31, 1, 32, 1, Guesses(-0.9, 0.1, 24), 3, Weighting(0.25, 2)),
}


def quantize_blocks(values: Floats, type_id: TypeId, importance: Floats | None = None) -> bytes:
    """Encode float32 `values`, whose last dimension is a row, as Q4_0 ... Q6_K, IQ4_NL or IQ4_XS.

    Args:
        importance: (n_cols,), how much an error in each column matters; None: not known.

    Raises:
        KeyError: there is no quantizer of this type.
        ValueError: a value is not finite, or too large for a float16 scale.
    """
    if not (np.abs(values) <= MAX_MAGNITUDE).all():
        raise ValueError("a value is not finite, or too large for a float16 scale")
    if importance is None and type_id in _FORMULAS:
        return _FORMULAS[type_id](values.reshape(-1, 32)).tobytes()
    f = _FORMATS[type_id]
    shape = -1, f.n_sub, f.n_columns
    x = values.reshape(shape)
    w = None if importance is None else np.broadcast_to(importance, values.shape).reshape(shape)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if isinstance(f, AffineFormat):
            return _PACK_AFFINE[type_id](search_affine(x, w, f)).tobytes()
        return _PACK_SCALED[type_id](search_scaled(x, w, f)).tobytes()


QUANTIZED_TYPES = frozenset(_FORMATS)


# ---- One formula ----


def _around_zero(x: Floats, half: int) -> tuple[Floats, Bytes]:
    """d = largest / -half, q = x / d + half"""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-half)
    return d[:, 0], _truncated(x * _inverse(d) + np.float32(half + 0.5), 2 * half - 1)


def _from_min(x: Floats, n_max: int) -> tuple[Floats, Floats, Bytes]:
    """d = (max - min) / n_max, q = (x - min) / d"""
    low = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - low) / np.float32(n_max)
    q = _truncated((x - low) * _inverse(d) + np.float32(0.5), n_max)
    return d[:, 0], low[:, 0], q


def _inverse(d: Floats) -> Floats:
    return np.where(d == 0, np.float32(0), np.float32(1) / np.where(d == 0, np.float32(1), d))


def _truncated(v: Floats, n_max: int) -> Bytes:
    return np.minimum(v.astype(np.int32), n_max).astype(np.uint8)


def _formula_around_zero(type_id: TypeId, half: int) -> Callable[[Floats], Blocks]:
    def encode(x: Floats) -> Blocks:
        d, q = _around_zero(x, half)
        return _pack_legacy(type_id, q, d=d)

    return encode


def _formula_from_min(type_id: TypeId, n_max: int) -> Callable[[Floats], Blocks]:
    def encode(x: Floats) -> Blocks:
        d, low, q = _from_min(x, n_max)
        return _pack_legacy(type_id, q, d=d, m=low)

    return encode


_FORMULAS: dict[TypeId, Callable[[Floats], Blocks]] = {
    TypeId.Q4_0: _formula_around_zero(TypeId.Q4_0, 8),
    TypeId.Q5_0: _formula_around_zero(TypeId.Q5_0, 16),
    TypeId.Q4_1: _formula_from_min(TypeId.Q4_1, 15),
    TypeId.Q5_1: _formula_from_min(TypeId.Q5_1, 31),
}


# ---- Packing; the decoders of `blocks` and `iq_blocks` say where each bit is ----


def _packed(type_id: TypeId, **fields: npt.NDArray[Any]) -> Blocks:
    blocks = np.zeros(len(next(iter(fields.values()))), LAYOUTS[type_id])
    for name, values in fields.items():
        blocks[name] = values
    return blocks


def _nibbles(q: Bytes) -> Bytes:
    """(..., 2, n): the first half is low, the second high."""
    return (q[..., 0, :] & 15) | (q[..., 1, :] & 15) << 4


def _pairs_of_bits(q: Bytes) -> Bytes:
    """(n_blocks, 256): in each half, four runs of 32 share 32 bytes."""
    runs = (q & 3).reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(runs, axis=2).reshape(-1, 64)
    return packed


def _gathered(bits: Bytes, axis: int) -> Bytes:
    """Bit i from index i along an axis of 8."""
    return np.packbits(bits, axis=axis, bitorder="little").squeeze(axis)


def _pack_legacy(type_id: TypeId, q: Bytes, **scales: Floats) -> Blocks:
    """q: (n_blocks, 32)"""
    fields: dict[str, npt.NDArray[Any]] = {"qs": _nibbles(q.reshape(-1, 2, 16)), **scales}
    if "qh" in (LAYOUTS[type_id].names or ()):
        fields["qh"] = np.packbits(q >> 4, axis=1, bitorder="little").view("<u4")[:, 0]
    return _packed(type_id, **fields)


def _pack_around_zero(type_id: TypeId, half: int) -> Callable[[ScaledCodes], Blocks]:
    def pack(codes: ScaledCodes) -> Blocks:
        q = (codes.q[:, 0] + half).astype(np.uint8)
        return _pack_legacy(type_id, q, d=codes.d[:, 0])

    return pack


def _pack_from_min(type_id: TypeId) -> Callable[[AffineCodes], Blocks]:
    def pack(codes: AffineCodes) -> Blocks:
        d, m = codes.d * codes.scale, -codes.dmin * codes.offset
        return _pack_legacy(type_id, codes.q[:, 0].astype(np.uint8), d=d[:, 0], m=m[:, 0])

    return pack


def _pack_scales_and_mins(scale: Bytes, offset: Bytes) -> Bytes:
    """Eight of six bits each to (n_blocks, 12)."""
    high_scale, high_offset = scale[:, 4:], offset[:, 4:]
    return np.concatenate(
        [
            scale[:, :4] | (high_scale >> 4) << 6,
            offset[:, :4] | (high_offset >> 4) << 6,
            (high_scale & 15) | (high_offset & 15) << 4,
        ],
        axis=1,
    )


def _pack_q2_k(codes: AffineCodes) -> Blocks:
    q, scale, offset = (v.astype(np.uint8) for v in (codes.q, codes.scale, codes.offset))
    return _packed(
        TypeId.Q2_K,
        scales=scale | offset << 4,
        qs=_pairs_of_bits(q.reshape(-1, 256)),
        d=codes.d[:, 0],
        dmin=codes.dmin[:, 0],
    )


def _pack_q4_k(codes: AffineCodes, type_id: TypeId = TypeId.Q4_K) -> Blocks:
    q, scale, offset = (v.astype(np.uint8) for v in (codes.q, codes.scale, codes.offset))
    return _packed(
        type_id,
        scales=_pack_scales_and_mins(scale, offset),
        qs=_nibbles(q.reshape(-1, 4, 2, 32)).reshape(-1, 128),
        d=codes.d[:, 0],
        dmin=codes.dmin[:, 0],
    )


def _pack_q5_k(codes: AffineCodes) -> Blocks:
    blocks = _pack_q4_k(codes, TypeId.Q5_K)
    blocks["qh"] = _gathered(codes.q.astype(np.uint8) >> 4, axis=1)
    return blocks


def _pack_q3_k(codes: ScaledCodes) -> Blocks:
    q = (codes.q + 4).astype(np.uint8).reshape(-1, 256)
    scale = (codes.scale + 32).astype(np.uint8)
    high = (scale >> 4).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    return _packed(
        TypeId.Q3_K,
        hmask=_gathered((q >> 2).reshape(-1, 8, 32), axis=1),
        qs=_pairs_of_bits(q),
        scales=np.concatenate(
            [_nibbles(scale.reshape(-1, 2, 8)), np.bitwise_or.reduce(high, axis=1)], axis=1
        ),
        d=codes.d[:, 0],
    )


def _pack_q6_k(codes: ScaledCodes) -> Blocks:
    q = (codes.q + 32).astype(np.uint8).reshape(-1, 256)
    return _packed(
        TypeId.Q6_K,
        ql=_nibbles(q.reshape(-1, 2, 2, 64)).reshape(-1, 128),
        qh=_pairs_of_bits(q >> 4),
        scales=codes.scale.astype(np.int8),
        d=codes.d[:, 0],
    )


def _iq4_nibbles(q: Floats) -> Bytes:
    """(n_blocks, n_sub, 32) points to their indices."""
    indices = np.searchsorted(IQ4_NUMBERS, q).astype(np.uint8)
    return _nibbles(indices.reshape(len(q), -1, 2, 16)).reshape(len(q), -1)


def _pack_iq4_nl(codes: ScaledCodes) -> Blocks:
    return _packed(TypeId.IQ4_NL, d=codes.d[:, 0], qs=_iq4_nibbles(codes.q))


def _pack_iq4_xs(codes: ScaledCodes) -> Blocks:
    scale = (codes.scale + 32).astype(np.uint8)
    high = (scale >> 4).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16)
    return _packed(
        TypeId.IQ4_XS,
        d=codes.d[:, 0],
        scales_h=np.bitwise_or.reduce(high, axis=1),
        scales_l=_nibbles(scale.reshape(-1, 4, 2).swapaxes(1, 2)),
        qs=_iq4_nibbles(codes.q),
    )


_PACK_AFFINE: dict[TypeId, Callable[[AffineCodes], Blocks]] = {
    TypeId.Q2_K: _pack_q2_k,
    TypeId.Q4_K: _pack_q4_k,
    TypeId.Q5_K: _pack_q5_k,
    TypeId.Q4_1: _pack_from_min(TypeId.Q4_1),
    TypeId.Q5_1: _pack_from_min(TypeId.Q5_1),
}
_PACK_SCALED: dict[TypeId, Callable[[ScaledCodes], Blocks]] = {
    TypeId.Q3_K: _pack_q3_k,
    TypeId.Q6_K: _pack_q6_k,
    TypeId.IQ4_NL: _pack_iq4_nl,
    TypeId.IQ4_XS: _pack_iq4_xs,
    TypeId.Q4_0: _pack_around_zero(TypeId.Q4_0, 8),
    TypeId.Q5_0: _pack_around_zero(TypeId.Q5_0, 16),
}
