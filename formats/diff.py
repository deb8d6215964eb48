"""Comparing two models tensor by tensor, a few rows of each in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .blocks import dequantize, row_bytes
from .gguf import GGUFFile, TensorInfo

Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]
Decoder = Callable[[memoryview, int, int, int], Floats]  # data, type, n_rows, n_cols

_SLICE_VALUES = 1 << 20


def decode_with_numpy(data: memoryview, type_id: int, n_rows: int, n_cols: int) -> Floats:
    """The reference decoder."""
    return dequantize(data, type_id, (n_rows, n_cols))


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How far tensor `name` of B is from that of A.

    Attributes:
        relative_error: root mean square of A - B, over that of A; None where A is all zero.
        cosine: of the angle between them; None where one is all zero.
    """

    name: str
    type_a: str
    type_b: str
    relative_error: float | None
    cosine: float | None


@dataclass(slots=True)
class FileDifference:
    """What tells two files apart.

    Attributes:
        tensors: those that both have in one shape, in A's order.
        shapes: name -> shapes in A and B, where they differ.
        only_in_a, only_in_b: names of tensors.
    """

    tensors: list[TensorDifference] = field(default_factory=list)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    only_in_a: list[str] = field(default_factory=list)
    only_in_b: list[str] = field(default_factory=list)


def compare(
    a: GGUFFile,
    b: GGUFFile,
    decode: Decoder = decode_with_numpy,
    progress: Progress | None = None,
    *,
    threads: int = 1,
) -> FileDifference:
    """Compare the tensors of two open files by name.

    Args:
        progress: called with a tensor's name and the bytes of A that are done, and of all.
        threads: that decode. The result does not depend on them.

    Raises:
        FormatError: a tensor has a type without decoder.
    """
    result = FileDifference(
        only_in_a=[name for name in a.tensors if name not in b.tensors],
        only_in_b=[name for name in b.tensors if name not in a.tensors],
    )
    common = [info for info in a.tensors.values() if info.name in b.tensors]
    done, total = 0, sum(info.n_bytes for info in common)
    with ThreadPoolExecutor(threads) as pool:
        for info in common:
            other = b.tensors[info.name]
            if info.shape == other.shape:
                sums = _Sums(a, b, info.name, decode)
                result.tensors.append(
                    _difference(info, other, sum(pool.map(sums, sums.slices()), np.zeros(4)))
                )
                a.release(info.name)
                b.release(info.name)
            else:
                result.shapes[info.name] = info.shape, other.shape
            done += info.n_bytes
            if progress is not None:
                progress(info.name, done, total)
    return result


class _Sums:
    """Called with a slice of a tensor's rows: (sum A^2, sum B^2, sum A B, sum (A - B)^2)."""

    def __init__(self, a: GGUFFile, b: GGUFFile, name: str, decode: Decoder) -> None:
        self._files = a, b
        self._name = name
        self._decode = decode
        *rows, self._n_cols = a.tensors[name].shape
        self._n_rows = math.prod(rows)

    def slices(self) -> Iterator[slice]:
        step = max(1, _SLICE_VALUES // self._n_cols)
        for start in range(0, self._n_rows, step):
            yield slice(start, min(start + step, self._n_rows))

    def __call__(self, rows: slice) -> npt.NDArray[np.float64]:
        a, b = (self._values(file, rows) for file in self._files)
        return np.array([a @ a, b @ b, a @ b, (a - b) @ (a - b)])

    def _values(self, file: GGUFFile, rows: slice) -> npt.NDArray[np.float64]:
        kind = file.tensors[self._name].type
        n_bytes = row_bytes(kind, self._n_cols)
        data = file.data(self._name)[rows.start * n_bytes : rows.stop * n_bytes]
        try:
            values = self._decode(data, kind, rows.stop - rows.start, self._n_cols)
        except ValueError as error:
            raise file.error(f"tensor {self._name}", str(error)) from None
        return values.astype(np.float64).ravel()


def _difference(a: TensorInfo, b: TensorInfo, sums: npt.NDArray[np.float64]) -> TensorDifference:
    aa, bb, ab, dd = map(float, sums)
    return TensorDifference(
        name=a.name,
        type_a=a.type_name,
        type_b=b.type_name,
        relative_error=math.sqrt(dd / aa) if aa else None,
        cosine=ab / math.sqrt(aa * bb) if aa and bb else None,
    )
