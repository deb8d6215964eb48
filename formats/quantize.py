"""Quantizing a GGUF file: the plan, and the streaming pipeline.

No more than a slice of one matrix is in memory at a time. The work on a slice is done by a
callable, so that nothing here needs the C engine: `encode_with_numpy` is the reference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .blocks import TYPES, TypeId, dequantize, quantize, row_bytes
from .errors import FormatError
from .gguf import GGUFFile, TensorInfo, ValueType
from .gguf_shards import open_model_file
from .gguf_writer import GGUFWriter
from .hparams import HParams, read_hparams
from .imatrix import ImportanceMatrix
from .metadata_edits import NO_EDITS, MetadataEdits, edited_metadata
from .output import check_room, free_bytes, job_name, writing_model
from .quantizers import QUANTIZED_TYPES, quantize_blocks
from .recipes import FLOAT_TYPES, Recipe

Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]

SLICE_VALUES = 1 << 24  # 64 MB of float32

_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_REPLACED_KEYS = {"general.file_type", "general.quantization_version", "general.alignment"}


class Encoded(NamedTuple):
    """Rows in their new type, and the sums of (value - new value)^2 and value^2."""

    data: bytes | memoryview
    error: float
    square: float


class Encoder(Protocol):
    def __call__(
        self, data: memoryview, source: int, target: int, n_cols: int, importance: Floats | None
    ) -> Encoded:
        """Turn whole rows of `n_cols` values from type `source` into `target`.

        Args:
            importance: (n_cols,), how much an error in each column matters; None: not known.

        Raises:
            ValueError: a value cannot be encoded.
        """


def encode_with_numpy(
    data: memoryview, source: int, target: int, n_cols: int, importance: Floats | None
) -> Encoded:
    """The reference, slow and without C."""
    n_rows = data.nbytes // row_bytes(source, n_cols)
    values = dequantize(data, source, (n_rows, n_cols))
    if target in QUANTIZED_TYPES:
        encoded = quantize_blocks(values, TypeId(target), importance)
    else:
        encoded = quantize(values, target)
    exact = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # float types may hold what is no number
        error = exact - dequantize(encoded, target, values.shape)
        return Encoded(encoded, float((error**2).sum()), float((exact**2).sum()))


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the source, and the type it gets; its own one: it is copied."""

    source: TensorInfo
    type: TypeId | int

    @property
    def n_bytes(self) -> int:
        return (
            self.source.n_bytes
            // row_bytes(self.source.type, self.source.shape[-1])
            * row_bytes(self.type, self.source.shape[-1])
        )

    @property
    def is_copied(self) -> bool:
        return self.type == self.source.type


@dataclass(frozen=True, slots=True)
class TensorResult:
    """What quantizing did to a tensor; the error is the root of the relative mean square."""

    name: str
    type: str
    n_bytes: int
    relative_error: float


class QuantizeSummary(NamedTuple):
    """What `quantize_gguf` did: the tensors that this run did not just copy, and how many it took
    over from an earlier one."""

    tensors: list[TensorResult]
    n_resumed: int


def plan(
    gguf: GGUFFile, hparams: HParams, recipe: Recipe, *, allow_requantize: bool = False
) -> list[PlannedTensor]:
    """What `quantize_gguf` would do with each tensor, in the file's order.

    Raises:
        FormatError: a tensor is quantized already and `allow_requantize` is not set.
    """
    planned = []
    for info in gguf.tensors.values():
        kind = recipe.type_of(info.name, info.shape, hparams)
        if kind is None or kind == info.type:
            planned.append(PlannedTensor(info, info.type))
            continue
        if info.type not in FLOAT_TYPES and not allow_requantize:
            what = f"is {TYPES[info.type].name} already; quantizing it again loses twice"
            raise FormatError(gguf.path, info.name, f"{what} (--allow-requantize does it anyway)")
        planned.append(PlannedTensor(info, kind))
    return planned


def quantize_gguf(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe,
    encode: Encoder = encode_with_numpy,
    *,
    imatrix: ImportanceMatrix | None = None,
    edits: MetadataEdits = NO_EDITS,
    allow_requantize: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> QuantizeSummary:
    """Write the model in `src` to `out` with the types of `recipe`.

    The same arguments give the same bytes. `out` holds its old file, or the whole new one, whatever
    happens.

    Args:
        edits: of the metadata.
        resume: go on from the last whole tensor of a run that was killed, and keep what there is if
            this one is stopped.
        progress: called with a tensor's name, and the source's bytes done of all.

    Raises:
        FormatError: the source is malformed, is `out` itself, is quantized already, or has a value
            that the type cannot hold; or `imatrix` does not fit the model.
        OSError: a file cannot be read or written, or the disk lacks the room.
    """
    src, out = Path(src), Path(out)
    with open_model_file(src) as gguf:
        if out.exists() and any(map(out.samefile, gguf.paths)):
            raise FormatError(out, "file", "is the source itself; write elsewhere")
        hparams = read_hparams(gguf)
        planned = plan(gguf, hparams, recipe, allow_requantize=allow_requantize)
        total = sum(tensor.source.n_bytes for tensor in planned)
        results = []
        options = [*planned, recipe.file_type, imatrix and imatrix.digest(), edits]
        job = job_name(gguf.paths, options)
        with writing_model(out, job, resume=resume) as writer:
            _copy_metadata(writer, gguf, edits, recipe)
            for tensor in planned:
                writer.declare(tensor.source.name, tensor.type, tensor.source.shape)
            n_resumed = writer.begin()
            left = planned[n_resumed:]
            check_room(out, sum(tensor.n_bytes for tensor in left), free_bytes(out))
            done = total - sum(tensor.source.n_bytes for tensor in left)
            for tensor in left:
                error = square = 0.0
                for piece in _slices(gguf, tensor, imatrix):
                    encoded = _encode(gguf, tensor, piece, encode)
                    writer.write(tensor.source.name, encoded.data)
                    error, square = error + encoded.error, square + encoded.square
                    done += piece.data.nbytes
                    if progress is not None:
                        progress(tensor.source.name, done, total)
                gguf.release(tensor.source.name)
                if not tensor.is_copied:
                    results.append(_result(tensor, error, square))
    return QuantizeSummary(results, n_resumed)


class _Slice(NamedTuple):
    data: memoryview  # whole rows of one matrix
    importance: Floats | None


def _slices(
    gguf: GGUFFile, tensor: PlannedTensor, imatrix: ImportanceMatrix | None
) -> Iterator[_Slice]:
    info = tensor.source
    data = gguf.data(info.name)
    n_matrices = info.shape[0] if len(info.shape) == 3 else 1
    importance = None
    if imatrix is not None and not tensor.is_copied:
        importance = imatrix.of(info.name, info.shape)
    matrix_bytes = info.n_bytes // n_matrices
    bytes_per_row = row_bytes(info.type, info.shape[-1])
    step = max(1, SLICE_VALUES // info.shape[-1]) * bytes_per_row
    for matrix in range(n_matrices):
        columns = None if importance is None else importance[matrix]
        end = (matrix + 1) * matrix_bytes
        for start in range(matrix * matrix_bytes, end, step):
            yield _Slice(data[start : min(start + step, end)], columns)


def _encode(gguf: GGUFFile, tensor: PlannedTensor, piece: _Slice, encode: Encoder) -> Encoded:
    if tensor.is_copied:
        return Encoded(piece.data, 0, 0)
    info = tensor.source
    try:
        return encode(piece.data, info.type, tensor.type, info.shape[-1], piece.importance)
    except ValueError as error:
        what = f"{error} (wanted {TYPES[tensor.type].name})"
        raise FormatError(gguf.path, info.name, what) from None


def _result(tensor: PlannedTensor, error: float, square: float) -> TensorResult:
    relative = (error / square) ** 0.5 if square else 0.0
    name = tensor.source.name
    return TensorResult(name, TYPES[tensor.type].name, tensor.n_bytes, relative)


def _copy_metadata(
    writer: GGUFWriter, gguf: GGUFFile, edits: MetadataEdits, recipe: Recipe
) -> None:
    for key, value, kind in edited_metadata(gguf, edits, _REPLACED_KEYS):
        writer.add(key, value, kind)
    writer.add("general.file_type", recipe.file_type, ValueType.UINT32)
    writer.add("general.quantization_version", _QUANTIZATION_VERSION, ValueType.UINT32)
