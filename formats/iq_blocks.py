"""Decoders of the IQ types of GGML, whose quants are not evenly spaced numbers.

IQ4 quants index a table of 16 numbers; the others name points of a grid (iq_grids.py), 4 or 8
values at once. The layouts follow ggml-common.h of https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .iq_grids import grid

Blocks = npt.NDArray[Any]  # (n_blocks,) of the type's layout
Integers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

# d is a float16 scale, scales are integers that multiply it, qs name numbers or points, qh holds
# the high bits of their indices. The sub-blocks of IQ2_XXS and IQ3_XXS end with a word of signs
# and scale.
LAYOUTS: dict[str, np.dtype[Any]] = {
    "IQ4_NL": np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    "IQ4_XS": np.dtype(
        [("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)]
    ),
    "IQ3_XXS": np.dtype([("d", "<f2"), ("qs", "u1", 64), ("words", "<u4", 8)]),
    "IQ3_S": np.dtype(
        [("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)]
    ),
    "IQ2_XXS": np.dtype([("d", "<f2"), ("sub", [("qs", "u1", 4), ("word", "<u4")], 8)]),
    "IQ2_XS": np.dtype([("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)]),
    "IQ2_S": np.dtype(
        [("d", "<f2"), ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)]
    ),
    "IQ1_S": np.dtype([("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)]),
    "IQ1_M": np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4)]),
}

IQ4_NUMBERS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)


def _fields(packed: Integers, width: int, n_fields: int) -> Integers:
    """The lowest `n_fields` fields of `width` bits of each number, along the last axis."""
    shifts = np.arange(0, width * n_fields, width, dtype=packed.dtype)
    split: Integers = (packed[..., None] >> shifts) & packed.dtype.type((1 << width) - 1)
    return split.reshape(*packed.shape[:-1], -1)


def _scaled(d: npt.NDArray[Any], factors: Integers, values: Integers) -> Floats:
    """(d * factor) * value, where each of a block's factors has as many of its values as another.

    d: (n_blocks,) float16; factors: (n_blocks, n_factors); values: (n_blocks, ...).
    """
    scales: Floats = d.astype(np.float32)[:, None] * factors.astype(np.float32)
    shape = *scales.shape, -1
    return scales[:, :, None] * values.reshape(shape).astype(np.float32)


def _odd(scales: Integers) -> Integers:
    return 2 * scales.astype(np.float32) + 1


def _signed(points: Integers, signs: Integers) -> Integers:
    """Points (..., n) with bytes of signs: bit i of a byte negates the i-th of 8 values."""
    values = points.reshape(*signs.shape, 8)
    return np.where(_fields(signs[..., None], 1, 8) != 0, -values, values)


def _even_signs(indices: Integers) -> Integers:
    """The byte of signs that 7 bits mean: the eighth makes the number of negations even."""
    low: Integers = indices.astype(np.uint8)
    parity = np.bitwise_xor.reduce(_fields(low[..., None], 1, 7), axis=-1)
    signs: Integers = low | parity << np.uint8(7)
    return signs


def _decode_iq4_nl(blocks: Blocks) -> Floats:
    """d * number[q]; the low nibbles are values 0-15, the high ones 16-31."""
    q = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    return _scaled(blocks["d"], np.ones((len(blocks), 1)), IQ4_NUMBERS[q])


def _decode_iq4_xs(blocks: Blocks) -> Floats:
    """d * (scale - 32) * number[q]; a 6-bit scale and 16 bytes of qs for each 32 values."""
    qs = blocks["qs"].reshape(-1, 8, 16)
    q = np.concatenate([qs & 15, qs >> 4], axis=2)
    low, high = _fields(blocks["scales_l"], 4, 2), _fields(blocks["scales_h"][:, None], 2, 8)
    scales = (low | high << 4).astype(np.int8) - 32
    return _scaled(blocks["d"], scales, IQ4_NUMBERS[q])


def _decode_iq3_xxs(blocks: Blocks) -> Floats:
    """d / 4 * (2 * scale + 1) * point; words hold four indices of signs and, on top, the scale."""
    signs = _even_signs(_fields(blocks["words"], 7, 4))
    values = _signed(grid("IQ3_XXS")[blocks["qs"]], signs)
    return _scaled(blocks["d"], _odd(blocks["words"] >> 28) / 4, values)


def _decode_iq3_s(blocks: Blocks) -> Floats:
    """d * (2 * scale + 1) * point; a ninth bit of each index in qh, a scale for each 32 values."""
    index = blocks["qs"] | _fields(blocks["qh"], 1, 8).astype(np.uint16) << 8
    values = _signed(grid("IQ3_S")[index], blocks["signs"])
    return _scaled(blocks["d"], _odd(_fields(blocks["scales"], 4, 2)), values)


def _decode_iq2_xxs(blocks: Blocks) -> Floats:
    """d / 8 * (2 * scale + 1) * point; words as in IQ3_XXS."""
    sub = blocks["sub"]
    values = _signed(grid("IQ2_XXS")[sub["qs"]], _even_signs(_fields(sub["word"], 7, 4)))
    return _scaled(blocks["d"], _odd(sub["word"] >> 28) / 8, values)


def _decode_iq2_xs(blocks: Blocks) -> Floats:
    """d / 8 * (2 * scale + 1) * point; the signs' indices above 9 bits, a scale for 16 values."""
    qs = blocks["qs"]
    values = _signed(grid("IQ2_XS")[qs & 511], _even_signs(qs >> 9))
    return _scaled(blocks["d"], _odd(_fields(blocks["scales"], 4, 2)) / 8, values)


def _decode_iq2_s(blocks: Blocks) -> Floats:
    """As IQ2_XS, with two more bits of each index in qh, and signs as they are."""
    index = blocks["qs"] | _fields(blocks["qh"], 2, 4).astype(np.uint16) << 8
    values = _signed(grid("IQ2_S")[index], blocks["signs"])
    return _scaled(blocks["d"], _odd(_fields(blocks["scales"], 4, 2)) / 8, values)


def _shifted(points: Integers, down: Integers) -> Integers:
    """8 * point + 1, or 8 * point - 1 where `down`: eighths of a point's values."""
    values: Integers = 8 * points + np.where(down, np.int8(-1), np.int8(1))
    return values


def _decode_iq1_s(blocks: Blocks) -> Floats:
    """d * (2 * scale + 1) * (point +- 1/8).

    For each 32 values a word of qh: three bits for each of four indices, a scale, and the sign.
    """
    index = blocks["qs"] | _fields(blocks["qh"], 3, 4) << 8
    points = grid("IQ1")[index].reshape(-1, 8, 32)
    values = _shifted(points, (blocks["qh"] >> 15 != 0)[:, :, None])
    return _scaled(blocks["d"], _odd(blocks["qh"] >> 12 & 7) / 8, values)


def _decode_iq1_m(blocks: Blocks) -> Floats:
    """As IQ1_S, with a scale for each 16 values and a sign for each 8.

    The words of scales hold four of 3 bits each and, on top, a nibble of d, the lowest first.
    """
    nibbles = _fields(blocks["qh"], 4, 2)
    index = blocks["qs"] | (nibbles & 7).astype(np.uint16) << 8
    values = _shifted(grid("IQ1")[index], (nibbles >> 3 != 0)[:, :, None])
    d = np.bitwise_or.reduce(
        blocks["scales"] >> 12 << np.arange(0, 16, 4, dtype=np.uint16), axis=1, dtype=np.uint16
    )
    return _scaled(d.view(np.float16), _odd(_fields(blocks["scales"], 3, 4)) / 8, values)


DECODERS: dict[str, Callable[[Blocks], Floats]] = {
    "IQ4_NL": _decode_iq4_nl,
    "IQ4_XS": _decode_iq4_xs,
    "IQ3_XXS": _decode_iq3_xxs,
    "IQ3_S": _decode_iq3_s,
    "IQ2_XXS": _decode_iq2_xxs,
    "IQ2_XS": _decode_iq2_xs,
    "IQ2_S": _decode_iq2_s,
    "IQ1_S": _decode_iq1_s,
    "IQ1_M": _decode_iq1_m,
}
