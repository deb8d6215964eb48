"""Writing a model's tensors anew: into one file, or into shards.

No tensor changes; at most one is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
from .metadata_edits import NO_EDITS, MetadataEdits, edited_metadata
from .output import check_model, check_not_a_source, check_room, free_bytes, job_name
from .partial import find_partials

Progress = Callable[[str, int, int], None]

CHUNK_BYTES = 16 << 20

_REPLACED_KEYS = SPLIT_KEYS | {"general.alignment"}  # which the writer adds

# Of a shard, besides the first one's metadata: magic, counts, the keys of split.*, alignment.
_SHARD_HEADER_BYTES = 256
_TENSOR_RECORD_BYTES = 8 + 4 + 4 + 8  # length of the name, n_dims, type, offset


class Merged(NamedTuple):
    """What `merge_gguf` did."""

    n_tensors: int
    n_resumed: int  # of them, that an earlier run had written


def merge_gguf(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layout: ExpertLayout = ExpertLayout.MERGED,
    progress: Progress | None = None,
    *,
    edits: MetadataEdits = NO_EDITS,
    resume: bool = False,
) -> Merged:
    """Write the model in `src` to the one file `out`.

    Args:
        src: a file, or the first of several: shards or byte splits.
        layout: of the experts.
        progress: called with a tensor's name and the bytes written of all.
        edits: of the metadata.
        resume: go on from the last whole tensor of a run that was killed, and keep what there is if
            this one is stopped.

    Raises:
        FormatError: a source is malformed, or is `out` itself; experts that were to be merged
            differ in type; the edits cannot be made.
        OSError: a file cannot be read or written, or the disk lacks the room.
    """
    out = Path(out)
    with open_model_file(src) as gguf:
        check_not_a_source(out, gguf)
        tensors = arrange(gguf, read_hparams(gguf), layout)
        copier = _Copier(gguf, sum(tensor.n_bytes for tensor in tensors), progress)
        job = job_name(gguf.paths, [*tensors, edits])
        with _writer(out, gguf, check_model, job, resume=resume) as writer:
            for key, value, kind in edited_metadata(gguf, edits, _REPLACED_KEYS):
                writer.add(key, value, kind)
            return Merged(len(tensors), copier.write(writer, tensors))


def split_gguf(
    src: str | os.PathLike[str],
    prefix: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    max_tensors: int | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> list[Path]:
    """Write the model in `src` to shards ``PREFIX-00001-of-00003.gguf``. Returns their paths.

    Each is written to a temporary file and renamed when it is whole. The first comes last, so that
    whoever can open it finds the others.

    Args:
        src: a file, or the first of several.
        max_bytes, max_tensors: of a shard, at most; the first, with the metadata, may be without
            tensors.
        progress: as in `merge_gguf`.
        resume: as in `merge_gguf`; shards that are there already are compared, not written.

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
            check_not_a_source(path, gguf)
        copier = _Copier(gguf, sum(info.n_bytes for info in gguf.tensors.values()), progress)
        check_room(paths[0], copier.n_bytes - _bytes_there(paths, resume), free_bytes(paths[0]))
        for index, infos in reversed(list(enumerate(shards))):
            metadata = list(_shard_metadata(gguf, index, len(shards)))
            if resume and _is_written(paths[index], gguf, metadata, infos):
                copier.skip(infos)
                continue
            job = job_name(gguf.paths, [index, len(shards), *infos])
            with _writer(paths[index], gguf, _check_shard, job, resume=resume) as writer:
                for key, value, kind in metadata:
                    writer.add(key, value, kind)
                copier.write(writer, list(map(_unchanged, infos)))
    return paths


def planned_shards(
    src: str | os.PathLike[str],
    prefix: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    max_tensors: int | None = None,
) -> list[Path]:
    """The paths that `split_gguf` would write."""
    with open_model_file(src) as gguf:
        n_shards = len(plan_shards(gguf, max_bytes=max_bytes, max_tensors=max_tensors))
    return [shard_path(Path(prefix), i, n_shards) for i in range(n_shards)]


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


def _shard_metadata(
    gguf: GGUFFile, index: int, n_shards: int
) -> Iterator[tuple[str, Any, ValueType]]:
    if index == 0:
        yield from edited_metadata(gguf, NO_EDITS, _REPLACED_KEYS)
    yield NO_KEY, index, ValueType.UINT16
    yield COUNT_KEY, n_shards, ValueType.UINT16
    yield TENSORS_COUNT_KEY, len(gguf.tensors), ValueType.INT32


def _bytes_there(paths: Iterable[Path], resume: bool) -> int:
    """Of shards, whole or in part, whose room a resumed run can take over."""
    if not resume:
        return 0
    files = (file for path in paths for file in (path, *find_partials(path)) if file.exists())
    return sum(file.stat().st_size for file in files)


def _is_written(
    path: Path,
    gguf: GGUFFile,
    metadata: Iterable[tuple[str, Any, ValueType]],
    infos: Iterable[TensorInfo],
) -> bool:
    """Whether the shard is there, byte for byte: one of another model may have the same name."""
    try:
        shard = open_gguf(path)
    except (FormatError, FileNotFoundError):
        return False
    wanted = {info.name: (info.type, info.shape) for info in infos}
    with shard:
        found = {info.name: (info.type, info.shape) for info in shard.tensors.values()}
        values = {key: value for key, value, _ in metadata}
        return (
            list(found.items()) == list(wanted.items())
            and shard.metadata.keys() - {"general.alignment"} == values.keys()
            and all(np.array_equal(shard.metadata[key], values[key]) for key in values)
            and all(_equal(shard.data(name), gguf.data(name)) for name in wanted)
        )


def _equal(a: memoryview, b: memoryview) -> bool:
    return all(
        np.array_equal(a[start : start + CHUNK_BYTES], b[start : start + CHUNK_BYTES])
        for start in range(0, len(a), CHUNK_BYTES)
    )


class _Copier:
    """Copies parts of one source to writers, and tells how far all of it is.

    Attributes:
        n_bytes: that will be written in all, but for headers.
    """

    def __init__(self, gguf: GGUFFile, n_bytes: int, progress: Progress | None) -> None:
        self.n_bytes = n_bytes
        self._gguf = gguf
        self._progress = progress
        self._n_done = 0

    def write(self, writer: GGUFWriter, tensors: Sequence[ArrangedTensor]) -> int:
        """Returns how many tensors the writer had taken over from an earlier run."""
        for tensor in tensors:
            writer.declare(tensor.name, tensor.type, tensor.shape)
        n_resumed = writer.begin()
        self.skip(tensors[:n_resumed])
        left = tensors[n_resumed:]
        check_room(writer.path, sum(tensor.n_bytes for tensor in left), free_bytes(writer.path))
        for tensor in left:
            for chunk in self._chunks(tensor.spans):
                writer.write(tensor.name, chunk)
                self._n_done += len(chunk)
                if self._progress is not None:
                    self._progress(tensor.name, self._n_done, self.n_bytes)
        return n_resumed

    def skip(self, tensors: Iterable[ArrangedTensor | TensorInfo]) -> None:
        self._n_done += sum(tensor.n_bytes for tensor in tensors)

    def _chunks(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        for span in spans:
            data = self._gguf.data(span.name)[span.start : span.start + span.n_bytes]
            for start in range(0, len(data), CHUNK_BYTES):
                yield data[start : start + CHUNK_BYTES]
            self._gguf.release(span.name)


def _unchanged(info: TensorInfo) -> ArrangedTensor:
    return ArrangedTensor(info.name, info.type, info.shape, (Span(info.name, 0, info.n_bytes),))


def _writer(
    path: Path, gguf: GGUFFile, check: Callable[[Path], object], job: str, *, resume: bool
) -> GGUFWriter:
    version, alignment = gguf.version, gguf.alignment
    return GGUFWriter(
        path, version=version, alignment=alignment, check=check, job=job, resume=resume
    )


def _check_shard(path: Path) -> None:
    open_gguf(path).close()
