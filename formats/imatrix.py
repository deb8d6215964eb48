"""Importance matrices: how much an error in each column of a matrix matters.

It is the mean square of the matrix's inputs over a calibration text, for each expert on its own.
Two layouts of llama.cpp's `imatrix` tool are read: the GGUF file (tensors ``NAME.in_sum2`` and
``NAME.counts``) and the older ``.dat``, whose first files have an entry for each expert. The GGUF
one is written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .blocks import TypeId
from .errors import FormatError
from .gguf import MAGIC, MAX_TENSOR_NAME_BYTES, MAX_TENSORS, GGUFFile, ValueType, open_gguf
from .gguf_writer import GGUFWriter
from .hparams import HParams
from .names import TensorRole, expert_of, merged_name, parse_name

Floats = npt.NDArray[np.float32]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_SOURCE_KEY = "pymixtral.imatrix.source"


class TensorSums(NamedTuple):
    """Of one tensor, what the rows that went into its matrices add up to."""

    squares: Floats  # (n_matrices, n_cols); n_matrices is the number of experts, or 1
    counts: Floats  # (n_matrices, 1), how many rows


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration text has shown, as the GGUF layout keeps it.

    Attributes:
        tensors: sums by tensor name.
        datasets: names of the texts.
        n_chunks: chunks of text that are summed up.
        chunk_size: tokens of each.
        source: names model and text, so that only the same calibration is gone on with; empty in
            files of other programs.
    """

    tensors: dict[str, TensorSums] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    n_chunks: int = 0
    chunk_size: int = 0
    source: str = ""


@dataclass(slots=True)
class ImportanceMatrix:
    """Importance by tensor name.

    Attributes:
        columns: (n_matrices, n_cols) each, of mean 1; n_matrices is the number of experts, or 1.
        unseen: "NAME, expert E" of the matrices that the calibration text never used, which have
            the mean of the tensor's others; "NAME" where it used none, and `columns` has nothing.
        path: that errors name.
    """

    columns: dict[str, Floats] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    path: str | os.PathLike[str] = "importance matrix"

    def of(self, name: str, shape: Sequence[int]) -> Floats | None:
        """Of tensor `name` of `shape` (numpy order): (n_matrices, n_cols), or None: not known.

        That of one expert, in the layout of December 2023, is a row of the merged tensor's.

        Raises:
            FormatError: the importance is that of another shape.
        """
        columns, expert = self.columns.get(merged_name(name)), expert_of(name)
        if columns is not None and expert is not None:
            columns = columns[expert : expert + 1]
        wanted = (shape[0] if len(shape) == 3 else 1, shape[-1])
        if columns is not None and columns.shape != wanted:
            what = f"has shape {columns.shape}, must have {wanted}; is it of another model?"
            raise FormatError(self.path, name, what)
        return columns

    def lacks(self, hparams: HParams) -> list[str]:
        """The matrices of a model's layers, routers left out, that it knows nothing of.

        Those in `unseen` are not among them.
        """
        known = self.columns.keys() | set(self.unseen)
        matrices = (name for name, shape in hparams.tensor_shapes() if len(shape) > 1)
        return [name for name in matrices if name not in known and _is_measured(name)]

    def digest(self) -> str:
        """Of all values, in hexadecimal."""
        digest = hashlib.sha256()
        for name, columns in sorted(self.columns.items()):
            digest.update(f"{name} {columns.shape}\n".encode(errors="surrogateescape"))
            digest.update(columns.tobytes())
        return digest.hexdigest()

    def _add(self, name: str, sums: npt.NDArray[Any], counts: npt.NDArray[Any]) -> None:
        """sums: (n_matrices, n_cols); counts: (n_matrices, 1), how many rows were summed."""
        seen = (counts[:, 0] > 0) & (sums.sum(axis=1) > 0)
        if not seen.any():
            self.unseen.append(name)
            return
        mean_squares = sums / np.where(seen, counts[:, 0], 1)[:, None]
        for expert in np.flatnonzero(~seen):
            mean_squares[expert] = mean_squares[seen].mean(axis=0)
            self.unseen.append(f"{name}, expert {expert}")
        scaled = mean_squares / mean_squares.mean(axis=1, keepdims=True)
        self.columns[name] = scaled.astype(np.float32)


def _is_measured(name: str) -> bool:
    """Whether the inputs of this matrix are looked at in a calibration."""
    role, layer = parse_name(name) or (None, None)
    return layer is not None and role is not TensorRole.FFN_GATE_INP


def read_imatrix(path: str | os.PathLike[str], n_experts: int = 0) -> ImportanceMatrix:
    """Read an importance matrix, whichever layout it has.

    Args:
        n_experts: of the model: in a ``.dat`` file the experts' columns follow one another.

    Raises:
        FormatError: the file is malformed.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        is_gguf = file.read(len(MAGIC)) == MAGIC
    if not is_gguf:
        return _read_dat(Path(path), n_experts)
    with open_gguf(path) as gguf:
        return _read_gguf(gguf)


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read the sums of an importance matrix in the GGUF layout.

    Raises:
        FormatError: the file is malformed.
        OSError: it cannot be read.
    """
    with open_gguf(path) as gguf:
        tensors = dict(_gguf_sums(gguf))

        def value(key: str, kind: type, default: Any) -> Any:
            found = gguf.metadata.get(key, default)
            if not isinstance(found, kind):
                raise gguf.error(key, f"is {found!r:.40}, must be of type {kind.__name__}")
            return found

        return Calibration(
            tensors,
            datasets=value("imatrix.datasets", list, []),
            n_chunks=value("imatrix.chunk_count", int, 0),
            chunk_size=value("imatrix.chunk_size", int, 0),
            source=value(_SOURCE_KEY, str, ""),
        )


def write_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Write the GGUF layout. `path` holds its old file, or the whole new one, whatever happens.

    Raises:
        OSError: the file cannot be written.
    """
    with GGUFWriter(path) as writer:
        writer.add("general.type", "imatrix", ValueType.STRING)
        writer.add("imatrix.datasets", calibration.datasets, ValueType.ARRAY)
        writer.add("imatrix.chunk_count", calibration.n_chunks, ValueType.UINT32)
        writer.add("imatrix.chunk_size", calibration.chunk_size, ValueType.UINT32)
        writer.add(_SOURCE_KEY, calibration.source, ValueType.STRING)
        parts = [
            (name + suffix, array.astype("<f4"))
            for name, sums in calibration.tensors.items()
            for suffix, array in zip((_SUMS, _COUNTS), sums, strict=True)
        ]
        for name, array in parts:
            writer.declare(name, TypeId.F32, array.shape)
        for name, array in parts:
            writer.write(name, array.tobytes())


def _read_gguf(gguf: GGUFFile) -> ImportanceMatrix:
    result = ImportanceMatrix(path=gguf.path)
    for name, (squares, counts) in _gguf_sums(gguf):
        result._add(name, squares.astype(np.float64), counts.astype(np.float64))
    return result


def _gguf_sums(gguf: GGUFFile) -> Iterator[tuple[str, TensorSums]]:
    found = False
    for name, info in gguf.tensors.items():
        if not name.endswith(_SUMS):
            continue
        found = True
        tensor = name.removesuffix(_SUMS)
        counts = gguf.tensors.get(tensor + _COUNTS)
        if counts is None or info.type != TypeId.F32 or counts.type != TypeId.F32:
            raise FormatError(gguf.path, name, f"needs {tensor}{_COUNTS} beside it, both F32")
        sums = gguf.array(name).reshape(-1, info.shape[-1])
        n = gguf.array(counts.name).reshape(-1, 1)
        if len(n) != len(sums):
            raise FormatError(gguf.path, name, f"has {len(sums)} matrices, but {len(n)} counts")
        _check_values(gguf.path, name, sums, n)
        yield tensor, TensorSums(sums, n)
    if not found:
        raise FormatError(gguf.path, "tensors", "hold no importance matrix")


def _read_dat(path: Path, n_experts: int) -> ImportanceMatrix:
    result = ImportanceMatrix(path=path)
    for name, rows in _dat_tensors(path, n_experts):
        with np.errstate(invalid="ignore"):  # of a signalling NaN, which is refused below
            sums = rows.astype(np.float64)
        counts = np.ones((len(sums), 1))  # columns of mean 1 do not depend on them
        _check_values(path, name, sums, counts)
        result._add(name, sums, counts)
    return result


def _dat_tensors(path: Path, n_experts: int) -> Iterator[tuple[str, Floats]]:
    """Name and sums (n_matrices, n_cols), those of a tensor's experts put together."""
    apart: dict[str, dict[int, Floats]] = {}  # tensor to expert to sums
    for name, values in _dat_entries(path):
        expert = expert_of(name)
        if expert is not None:
            apart.setdefault(merged_name(name), {})[expert] = values
            continue
        n_matrices = n_experts if "_exps." in name and n_experts else 1
        if len(values) % n_matrices:
            raise FormatError(path, name, f"{len(values)} values are not of {n_matrices} experts")
        yield name, values.reshape(n_matrices, -1)
    for name, experts in apart.items():
        rows = [experts[expert] for expert in sorted(experts)]
        if max(experts) >= len(experts) or len({*map(len, rows)}) > 1:
            raise FormatError(path, name, "an expert is missing, or has another number of values")
        yield name, np.stack(rows)


def _dat_entries(path: Path) -> Iterator[tuple[str, Floats]]:
    """int32 n_entries; each: int32 length, name, int32 n_calls, int32 n_values, float32 values."""
    data = path.read_bytes()
    at = 0

    def take(n: int, what: str) -> bytes:
        nonlocal at
        if n < 0 or n > len(data) - at:
            raise FormatError(path, what, f"{n} bytes wanted, {len(data) - at} left", at)
        at += n
        return data[at - n : at]

    def integer(what: str, limit: int) -> int:
        value = int.from_bytes(take(4, what), "little", signed=True)
        if not 0 <= value <= limit:
            raise FormatError(path, what, f"is {value}, must be 0 to {limit}", at - 4)
        return value

    for _ in range(integer("n_entries", MAX_TENSORS)):
        name = take(integer("name length", MAX_TENSOR_NAME_BYTES), "name")
        integer("n_calls", 2**31 - 1)
        values = take(4 * integer("n_values", len(data) // 4), "values")
        yield name.decode("utf-8", "surrogateescape"), np.frombuffer(values, "<f4")


def _check_values(path: Path, name: str, sums: npt.NDArray[Any], counts: npt.NDArray[Any]) -> None:
    if not (np.isfinite(sums).all() and np.isfinite(counts).all()):
        raise FormatError(path, name, "has values that are no finite numbers")
    if (sums < 0).any() or (counts < 0).any():
        raise FormatError(path, name, "has negative values; sums of squares cannot be")
