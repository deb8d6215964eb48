"""Models in several GGUF files: shards, as llama.cpp's gguf-split writes them.

Each shard is a GGUF file, named ``NAME-00001-of-00003.gguf`` and numbered by the keys ``split.*``.
The first holds the metadata, and all of them some of the tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from .errors import FormatError
from .gguf import INTEGER_TYPES, GGUFFile, TensorInfo, open_gguf

NO_KEY = "split.no"  # from 0
COUNT_KEY = "split.count"
TENSORS_COUNT_KEY = "split.tensors.count"  # of all shards together
SPLIT_KEYS = frozenset({NO_KEY, COUNT_KEY, TENSORS_COUNT_KEY})

MAX_SHARDS = 65_535  # split.count has 16 bits

_OWN_KEYS = SPLIT_KEYS | {"general.alignment"}  # which each shard has for itself
_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


def shard_path(prefix: Path, index: int, count: int) -> Path:
    """``PREFIX-00001-of-00003.gguf`` for index 0 of 3."""
    return prefix.with_name(f"{prefix.name}-{index + 1:05d}-of-{count:05d}.gguf")


class ShardedGGUF(GGUFFile):
    """The shards of a model as if they were one file.

    Its metadata are those of the first shard, without ``split.*``. Offsets count from the start of
    the shard that holds the tensor; `data_offset` is the first shard's.
    """

    def __init__(self, shards: list[GGUFFile]) -> None:
        first = shards[0]
        self._shards = shards
        self.path, self.version, self.alignment = first.path, first.version, first.alignment
        self.data_offset = first.data_offset
        self.paths = tuple(path for shard in shards for path in shard.paths)
        self.metadata = {k: v for k, v in first.metadata.items() if k not in SPLIT_KEYS}
        self.types = {k: v for k, v in first.types.items() if k not in SPLIT_KEYS}
        self.tensors: dict[str, TensorInfo] = {}
        self._owners: dict[str, GGUFFile] = {}
        for shard in shards:
            _check_metadata(shard, first)
            for name, info in shard.tensors.items():
                if name in self.tensors:
                    what = f"is in {self._owners[name].path.name}, too"
                    raise shard.error(f"tensor {name}", what)
                self.tensors[name] = info
                self._owners[name] = shard
        _check_tensor_count(first, len(self.tensors))

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    @property
    def header(self) -> memoryview:
        """Those of all shards, one after another."""
        return memoryview(b"".join(shard.header for shard in self._shards))

    def data(self, name: str) -> memoryview:
        return self._owners[name].data(name)

    def part(self, name: str, start: int, n_bytes: int) -> memoryview:
        return self._owners[name].part(name, start, n_bytes)

    def release(self, name: str) -> None:
        self._owners[name].release(name)

    def path_of(self, name: str) -> Path:
        return self._owners[name].path_of(name)

    def error(self, field: str, what: str, index: int | None = None) -> FormatError:
        owner = self._owners.get(field.removeprefix("tensor "), self._shards[0])
        return owner.error(field, what, index)


def open_model_file(path: str | os.PathLike[str], *, use_mmap: bool = True) -> GGUFFile:
    """Open a model that is one GGUF file, byte splits of one, or shards.

    Args:
        path: the file, or the first of several.
        use_mmap: as in `open_gguf`.

    Raises:
        FormatError: a file is malformed or missing, is not the first, or contradicts the others.
        OSError: a file cannot be opened or read.
    """
    with ExitStack() as stack:
        first = stack.enter_context(open_gguf(path, use_mmap=use_mmap))
        count = _integer(first, COUNT_KEY)
        if count <= 1:
            stack.pop_all()
            return first
        shards = [first]
        for path in _further_paths(first, count):
            shards.append(stack.enter_context(open_gguf(path, use_mmap=use_mmap)))
        for index, shard in enumerate(shards):
            _check_number(shard, index, count)
        sharded = ShardedGGUF(shards)
        stack.pop_all()
        return sharded


def _further_paths(first: GGUFFile, count: int) -> Iterator[Path]:
    """The second shard and those after it, which are all there."""
    match = _NAME.fullmatch(first.path.name)
    if match is None or int(match["count"]) != count:
        what = f"is {count}: the file must be named like NAME-00001-of-{count:05d}.gguf"
        raise first.error(COUNT_KEY, what)
    prefix = first.path.with_name(match["prefix"])
    number = _integer(first, NO_KEY)
    if number or int(match["number"]) != 1:
        what = f"is {number}: a later shard; name the first, {shard_path(prefix, 0, count).name}"
        raise first.error(NO_KEY, what)
    for index in range(1, count):
        path = shard_path(prefix, index, count)
        if not path.exists():
            raise first.error(COUNT_KEY, f"is {count}, but {path.name} is missing")
        yield path


def _check_number(shard: GGUFFile, index: int, count: int) -> None:
    for key, expected in ((NO_KEY, index), (COUNT_KEY, count)):
        found = _integer(shard, key)
        if found != expected:
            raise shard.error(key, f"is {found}, must be {expected} by the file's name")


def _check_metadata(shard: GGUFFile, first: GGUFFile) -> None:
    """Metadata are the first shard's; another may repeat them."""
    for key, value in shard.metadata.items():
        if key in _OWN_KEYS:
            continue
        if key not in first.metadata or not np.array_equal(value, first.metadata[key]):
            raise shard.error(key, f"contradicts {first.path.name}, which has the metadata")


def _check_tensor_count(first: GGUFFile, found: int) -> None:
    expected = _integer(first, TENSORS_COUNT_KEY, default=found)
    if found != expected:
        raise first.error(TENSORS_COUNT_KEY, f"is {expected}, the shards have {found} tensors")


def _integer(gguf: GGUFFile, key: str, default: int = 0) -> int:
    """A key of ``split.*``."""
    if key not in gguf.metadata:
        return default
    if gguf.types[key] not in INTEGER_TYPES:
        raise gguf.error(key, f"has type {gguf.types[key].name}, must be an integer")
    return int(gguf.metadata[key])
