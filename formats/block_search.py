"""The searches for the codes and scales of quantized blocks, in numpy.

This is the reference of the engine's `cengine/quantize/`, where the searches are explained: each
float32 operation is done here in the same order, so that the results are equal to the last bit.

Arrays are (n_blocks, n_sub, n_columns), or without the last dimension where there is one value for
each sub-block, and (n_blocks, 1) where there is one for each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Guesses:
    """Of a sub-block's scale: its extreme value becomes code `n_max + first + k * step`."""

    first: float
    step: float
    n: int

    def beyond(self, k: int) -> np.float32:
        return np.float32(np.float32(self.first) + np.float32(k) * np.float32(self.step))


@dataclass(frozen=True, slots=True)
class Weighting:
    """How much an error of a value x matters.

    Attributes:
        rms: without an importance: |x| + rms * root mean square of the sub-block.
        spread: with one: importance * sqrt(spread * mean square of the block + x^2), or the
            importance alone where it is None.
    """

    rms: float
    spread: float | None


@dataclass(frozen=True, slots=True)
class AffineFormat:
    """x ~ scale * q - offset, with q in 0 ... n_max and offset >= 0."""

    n_max: int
    scale_max: int  # the largest integer scale and offset
    n_columns: int  # of a sub-block
    n_sub: int  # sub-blocks of a block
    guesses: Guesses
    n_rounds: int
    by: Weighting


@dataclass(frozen=True, slots=True)
class ScaledFormat:
    """x ~ scale * q, with q in low ... high, or one of `points`, which ascend."""

    low: int
    high: int
    scale_low: int  # integer scales; both 1: the block has d alone
    scale_high: int
    n_columns: int
    n_sub: int
    guesses: Guesses
    n_rounds: int
    by: Weighting
    points: tuple[int, ...] | None = None


class AffineCodes(NamedTuple):
    """Values are d * scale * q - dmin * offset; all are whole numbers, but for d and dmin."""

    d: Floats  # (n_blocks, 1), as float16 holds them
    dmin: Floats
    scale: Floats  # (n_blocks, n_sub)
    offset: Floats
    q: Floats  # (n_blocks, n_sub, n_columns)


class ScaledCodes(NamedTuple):
    """Values are d * scale * q."""

    d: Floats
    scale: Floats
    q: Floats


class _Blocks(NamedTuple):
    x: Floats
    w: Floats  # how much an error matters


def search_affine(x: Floats, importance: Floats | None, f: AffineFormat) -> AffineCodes:
    """The codes of blocks x; importance of each value, in the same shape."""
    blocks = _Blocks(x, _weights(x, importance, f.by))
    scale, offset = _fit_affine(blocks, f)
    d, dmin = (np.fmax(v.max(axis=1, keepdims=True), 0) / f.scale_max for v in (scale, offset))
    best = np.full_like(d, np.inf)
    found: tuple[Floats, ...] = (d * 0, d * 0, scale * 0, scale * 0)
    for _ in range(f.n_rounds):
        d, dmin = _as_half(d), _as_half(dmin)
        error, s, m = _choose_integers(blocks, f, (d, dmin), scale, offset)
        total = _sum(error)[:, None]
        better = total < best
        best = np.where(better, total, best)
        found = _chosen(better, (d, dmin, s, m), found)
        d, dmin = _refit_affine(blocks, f, d, dmin, s, m)
    d, dmin, s, m = found
    return AffineCodes(d, dmin, s, m, _affine_code(x, _ratio(1, d * s), dmin * m, f))


def search_scaled(x: Floats, importance: Floats | None, f: ScaledFormat) -> ScaledCodes:
    """The codes of blocks x; importance of each value, in the same shape."""
    blocks = _Blocks(x, _weights(x, importance, f.by))
    scale = _fit_scaled(blocks, f)
    d: Floats = _largest(scale)[:, None] / np.float32(f.scale_low)
    best = np.full_like(d, np.inf)
    found: tuple[Floats, ...] = (d * 0, scale * 0)
    for _ in range(f.n_rounds):
        d = _as_half(d)
        error, s = _choose_scale(blocks, f, d, scale)
        total = _sum(error)[:, None]
        better = total < best
        best = np.where(better, total, best)
        found = _chosen(better, (d, s), found)
        d = _refit_scaled(blocks, f, d, s)
    d, s = found
    return ScaledCodes(d, s, _nearest_point(x * _reciprocal(d * s)[..., None], f))


def _weights(x: Floats, importance: Floats | None, by: Weighting) -> Floats:
    squares, n_columns = _sum(x * x), x.shape[-1]
    if importance is None:
        floor = np.float32(by.rms) * np.sqrt(squares / np.float32(n_columns))
        magnitudes: Floats = np.abs(x) + floor[..., None]
        return magnitudes
    if by.spread is None:
        return importance
    factor = np.float32(by.spread) / np.float32(x.shape[1] * n_columns)
    mean: Floats = _sum(squares)[:, None, None] * factor
    weights: Floats = importance * np.sqrt(mean + x * x)
    return weights


# ---- Scale and offset ----


def _fit_affine(b: _Blocks, f: AffineFormat) -> tuple[Floats, Floats]:
    low, high = np.fmin(b.x.min(axis=-1), 0), b.x.max(axis=-1)
    span = high - low
    scale, offset = span / np.float32(f.n_max), -low
    best = np.full_like(scale, -np.inf)
    for k in range(f.guesses.n + 2):
        if k < f.guesses.n:
            target = np.float32(f.n_max) + np.float32(f.guesses.first)
            target = target + np.float32(k) * np.float32(f.guesses.step)
            sums = _affine_sums(b, _ratio(target, span), -low, f)
        else:  # polish what was found
            sums = _affine_sums(b, _ratio(1, scale), offset, f)
        gain, a, c = _solve_affine(*sums)
        better = gain > best
        best = np.where(better, gain, best)
        scale, offset = _chosen(better, (a, c), (scale, offset))
    return scale, offset


def _affine_code(x: Floats, inverse: Floats, offset: Floats, f: AffineFormat) -> Floats:
    return _nearest((x + offset[..., None]) * inverse[..., None], 0, f.n_max)


def _affine_sums(
    b: _Blocks, inverse: Floats, offset: Floats, f: AffineFormat
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Sums over columns of w, w x, w q, w q^2 and w q x."""
    q = _affine_code(b.x, inverse, offset, f)
    wq = b.w * q
    return _sum(b.w), _sum(b.w * b.x), _sum(wq), _sum(wq * q), _sum(wq * b.x)


def _solve_affine(
    w: Floats, x: Floats, q: Floats, qq: Floats, xq: Floats
) -> tuple[Floats, Floats, Floats]:
    """The gain, scale and offset of least squares."""
    det = w * qq - q * q
    a = _ratio(w * xq - q * x, det)
    b = _ratio(a * q - x, w)
    through_zero = (b < 0) | (det <= 0)
    a = np.where(through_zero, _ratio(xq, qq), a)
    b = np.where(through_zero, np.float32(0), b)
    b = np.where(qq <= 0, np.fmax(_ratio(-x, w), 0), b)
    scale: Floats = np.fmax(a, 0)
    return scale * xq - b * x, scale, b


def _choose_integers(
    b: _Blocks, f: AffineFormat, units: tuple[Floats, Floats], scale: Floats, offset: Floats
) -> tuple[Floats, Floats, Floats]:
    """The error, and the integers around the optimum that have it, for given units d and dmin."""
    d, dmin = units
    mean_code = _ratio(_ratio(_sum(b.w * b.x), _sum(b.w)) + offset, scale)
    nearest_scale = _nearest(_ratio(scale, d), 0, f.scale_max)
    best, s, m = np.full_like(scale, np.inf), scale * 0, scale * 0
    for i in (-1, 0, 1):
        trial = np.clip(nearest_scale + np.float32(i), 0, f.scale_max)
        wanted = offset + (d * trial - scale) * mean_code
        nearest_offset = _nearest(_ratio(wanted, dmin), 0, f.scale_max)
        for k in (-1, 0, 1):
            other = np.clip(nearest_offset + np.float32(k), 0, f.scale_max)
            error = _affine_error(b, d * trial, dmin * other, f)
            better = error < best
            best = np.where(better, error, best)
            s, m = _chosen(better, (trial, other), (s, m))
    return best, s, m


def _affine_error(b: _Blocks, scale: Floats, offset: Floats, f: AffineFormat) -> Floats:
    q = _affine_code(b.x, _ratio(1, scale), offset, f)
    e = scale[..., None] * q - offset[..., None] - b.x
    return _sum(b.w * e * e)


def _refit_affine(
    b: _Blocks, f: AffineFormat, d: Floats, dmin: Floats, s: Floats, m: Floats
) -> tuple[Floats, Floats]:
    w, x, q, qq, xq = _affine_sums(b, _ratio(1, d * s), dmin * m, f)
    aa, ab, bb, xa, xb = (
        _sum(v)[:, None] for v in (s * s * qq, s * m * q, m * m * w, s * xq, m * x)
    )
    det = aa * bb - ab * ab
    new_d, new_dmin = _ratio(xa * bb - xb * ab, det), _ratio(xa * ab - xb * aa, det)
    valid = (new_d > 0) & (new_dmin > 0)
    alone = np.where(new_d > 0, d, _ratio(xa, aa))
    return np.where(valid, new_d, alone), np.where(valid, new_dmin, dmin)


# ---- Scale alone ----


def _fit_scaled(b: _Blocks, f: ScaledFormat) -> Floats:
    largest = _largest(b.x)
    per_value = _reciprocal(largest)
    scale, best = largest / np.float32(f.low), np.full_like(largest, -1)
    for k in range(2 * f.guesses.n + 2):
        beyond = f.guesses.beyond(k // 2)
        target = np.float32(f.low) - beyond if k % 2 == 0 else np.float32(f.high) + beyond
        inverse = per_value * target if k < 2 * f.guesses.n else _reciprocal(scale)
        qq, xq = _scaled_sums(b, inverse, f)
        fitted = _ratio(xq, qq)
        better = fitted * xq > best
        best = np.where(better, fitted * xq, best)
        scale = np.where(better, fitted, scale)
    return scale


def _scaled_sums(b: _Blocks, inverse: Floats, f: ScaledFormat) -> tuple[Floats, Floats]:
    """Sums over columns of w q^2 and w q x."""
    q = _nearest_point(b.x * inverse[..., None], f)
    wq = b.w * q
    return _sum(wq * q), _sum(wq * b.x)


def _choose_scale(b: _Blocks, f: ScaledFormat, d: Floats, scale: Floats) -> tuple[Floats, Floats]:
    around = _nearest(scale * _reciprocal(d), f.scale_low, f.scale_high)
    best, s = np.full_like(scale, np.inf), scale * 0
    for i in (-1, 0, 1) if f.scale_low < f.scale_high else (0,):
        trial = np.clip(around + np.float32(i), f.scale_low, f.scale_high)
        q = _nearest_point(b.x * _reciprocal(d * trial)[..., None], f)
        e = (d * trial)[..., None] * q - b.x
        error = _sum(b.w * e * e)
        better = error < best
        best = np.where(better, error, best)
        s = np.where(better, trial, s)
    return best, s


def _refit_scaled(b: _Blocks, f: ScaledFormat, d: Floats, s: Floats) -> Floats:
    qq, xq = _scaled_sums(b, _reciprocal(d * s), f)
    aa, xa = _sum(s * s * qq)[:, None], _sum(s * xq)[:, None]
    return np.where(aa > 0, _ratio(xa, aa), d)


def _nearest_point(v: Floats, f: ScaledFormat) -> Floats:
    if f.points is None:
        return _nearest(v, f.low, f.high)
    edges = np.array([(a + b) / 2 for a, b in zip(f.points, f.points[1:], strict=False)])
    points: Floats = np.array(f.points, np.float32)[np.searchsorted(edges.astype(np.float32), v)]
    return points


# ---- Arithmetic ----


def _sum(v: Floats) -> Floats:
    """Over the last dimension, one after another."""
    total = np.zeros(v.shape[:-1], np.float32)
    for i in range(v.shape[-1]):
        total += v[..., i]
    return total


def _ratio(a: Floats | np.float32 | float, b: Floats) -> Floats:
    """a / b, or 0 where b is no positive number."""
    return np.where(b > 0, np.float32(1) * a / np.where(b > 0, b, np.float32(1)), np.float32(0))


def _reciprocal(v: Floats) -> Floats:
    """1 / v, or 0 for 0."""
    result: Floats = np.where(
        v != 0, np.float32(1) / np.where(v != 0, v, np.float32(1)), np.float32(0)
    )
    return result


def _nearest(v: Floats, low: int, high: int) -> Floats:
    """The nearest integer in the range, halves to even; `low` for NaN."""
    return np.asarray(np.rint(np.fmin(np.fmax(v, np.float32(low)), np.float32(high))), np.float32)


def _as_half(v: Floats) -> Floats:
    return v.astype(np.float16).astype(np.float32)


def _largest(v: Floats) -> Floats:
    """By magnitude along the last dimension; of several the first."""
    at = np.abs(v).argmax(axis=-1, keepdims=True)
    return np.take_along_axis(v, at, axis=-1)[..., 0]


def _chosen(better: Mask, new: tuple[Floats, ...], old: tuple[Floats, ...]) -> tuple[Floats, ...]:
    return tuple(np.where(better, a, b) for a, b in zip(new, old, strict=True))
