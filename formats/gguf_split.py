"""Writing a model's tensors anew: into one file, or into shards.

No tensor changes; at most one is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from .bounded import padded
from .errors import FormatError
from .expert_layout import ArrangedTensor, ExpertLayout, Span, arrange
from .gguf import GGUFFile, TensorInfo, ValueType, open_gguf
from .gguf_shards import (
    COUNT_KEY,
    MAX_SHARDS,
    NO_KEY,
    SPLIT_KEYS,
    TENSORS_COUNT_KEY,
    open_model_file,
    shard_path,
)
from .gguf_writer import GGUFWriter
from .hparams import read_hparams
from .output import check_model, check_room, free_bytes

Progress = Callable[[str, int, int], None]

CHUNK_BYTES = 16 << 20

_REPLACED_KEYS = SPLIT_KEYS | {"general.alignment"}  # which the writer adds

# Of a shard, besides the first one's metadata: magic, counts, the keys of split.*, alignment.
_SHARD_HEADER_BYTES = 256
_TENSOR_RECORD_BYTES = 8 + 4 + 4 + 8  # length of the name, n_dims, type, offset


def merge_gguf(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layout: ExpertLayout = ExpertLayout.MERGED,
    progress: Progress | None = None,
) -> int:
    """Write the model in `src` to the one file `out`. Returns the number of tensors.

    Args:
        src: a file, or the first of several: shards or byte splits.
        layout: of the experts.
        progress: called with a tensor's name and the bytes written of all.

    Raises:
        FormatError: a source is malformed, or is `out` itself; experts that were to be merged
            differ in type.
        OSError: a file cannot be read or written, or the disk lacks the room.
    """
    out = Path(out)
    with open_model_file(src) as gguf:
        _check_not_a_source(out, gguf)
        tensors = arrange(gguf, read_hparams(gguf), layout)
        copier = _Copier(gguf, sum(tensor.n_bytes for tensor in tensors), progress)
        check_room(out, copier.n_bytes, free_bytes(out))
        with _writer(out, gguf, check=check_model) as writer:
            copier.add_metadata(writer)
            copier.write(writer, tensors)
    return len(tensors)


def split_gguf(
    src: str | os.PathLike[str],
    prefix: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    max_tensors: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write the model in `src` to shards ``PREFIX-00001-of-00003.gguf``. Returns their paths.

    Each is written to a temporary file and renamed when it is whole. The first comes last, so that
    whoever can open it finds the others.

    Args:
        src: a file, or the first of several.
        max_bytes, max_tensors: of a shard, at most; the first, with the metadata, may be without
            tensors.
        progress: as in `merge_gguf`.

    Raises:
        FormatError: a source is malformed or would be overwritten; a tensor alone is larger than
            `max_bytes`.
        OSError: as in `merge_gguf`.
    """
    with open_model_file(src) as gguf:
        read_hparams(gguf)
        shards = plan_shards(gguf, max_bytes=max_bytes, max_tensors=max_tensors)
        paths = [shard_path(Path(prefix), i, len(shards)) for i in range(len(shards))]
        for path in paths:
            _check_not_a_source(path, gguf)
        copier = _Copier(gguf, sum(info.n_bytes for info in gguf.tensors.values()), progress)
        check_room(paths[0], copier.n_bytes, free_bytes(paths[0]))
        for index, infos in reversed(list(enumerate(shards))):
            with _writer(paths[index], gguf, check=_check_shard) as writer:
                if index == 0:
                    copier.add_metadata(writer)
                writer.add(NO_KEY, index, ValueType.UINT16)
                writer.add(COUNT_KEY, len(shards), ValueType.UINT16)
                writer.add(TENSORS_COUNT_KEY, len(gguf.tensors), ValueType.INT32)
                copier.write(writer, map(_unchanged, infos))
    return paths


def plan_shards(
    gguf: GGUFFile, *, max_bytes: int | None = None, max_tensors: int | None = None
) -> list[list[TensorInfo]]:
    """The tensors of each shard, in the file's order; see `split_gguf`."""
    shards: list[list[TensorInfo]] = [[]]
    header = _SHARD_HEADER_BYTES + gguf.alignment
    n_bytes = header + gguf.data_offset  # the metadata, and some records of tensors
    limit = max_bytes if max_bytes is not None else float("inf")
    if n_bytes > limit:
        raise gguf.error("metadata", f"take {n_bytes:,} bytes, a shard may have {limit:,}")
    for info in gguf.tensors.values():
        record = _TENSOR_RECORD_BYTES + len(os.fsencode(info.name)) + 8 * len(info.shape)
        needed = record + padded(info.n_bytes, gguf.alignment)
        if header + needed > limit:
            what = f"takes {header + needed:,} bytes alone, a shard may have {limit:,}"
            raise gguf.error(f"tensor {info.name}", what)
        if n_bytes + needed > limit or len(shards[-1]) == max_tensors:
            shards.append([])
            n_bytes = header
        shards[-1].append(info)
        n_bytes += needed
    if len(shards) > MAX_SHARDS:
        raise gguf.error("tensors", f"would need {len(shards)} shards, at most {MAX_SHARDS} go")
    return shards


class _Copier:
    """Copies parts of one source to writers, and tells how far all of it is.

    Attributes:
        n_bytes: that will be written in all, but for headers.
    """

    def __init__(self, gguf: GGUFFile, n_bytes: int, progress: Progress | None) -> None:
        self.n_bytes = n_bytes
        self._gguf = gguf
        self._progress = progress
        self._n_written = 0

    def add_metadata(self, writer: GGUFWriter) -> None:
        for key, value in self._gguf.metadata.items():
            if key not in _REPLACED_KEYS:
                writer.add(key, value, self._gguf.types[key])

    def write(self, writer: GGUFWriter, tensors: Iterable[ArrangedTensor]) -> None:
        tensors = list(tensors)
        for tensor in tensors:
            writer.declare(tensor.name, tensor.type, tensor.shape)
        for tensor in tensors:
            for chunk in self._chunks(tensor.spans):
                writer.write(tensor.name, chunk)
                self._n_written += len(chunk)
                if self._progress is not None:
                    self._progress(tensor.name, self._n_written, self.n_bytes)

    def _chunks(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        for span in spans:
            data = self._gguf.data(span.name)[span.start : span.start + span.n_bytes]
            for start in range(0, len(data), CHUNK_BYTES):
                yield data[start : start + CHUNK_BYTES]
            self._gguf.release(span.name)


def _unchanged(info: TensorInfo) -> ArrangedTensor:
    return ArrangedTensor(info.name, info.type, info.shape, (Span(info.name, 0, info.n_bytes),))


def _writer(path: Path, gguf: GGUFFile, check: Callable[[Path], object]) -> GGUFWriter:
    return GGUFWriter(path, version=gguf.version, alignment=gguf.alignment, check=check)


def _check_shard(path: Path) -> None:
    open_gguf(path).close()


def _check_not_a_source(out: Path, gguf: GGUFFile) -> None:
    if out.exists() and any(map(out.samefile, gguf.paths)):
        raise FormatError(out, "file", "is a source itself; write elsewhere")
