"""The tensors of a checkpoint, whatever files they are spread over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .blocks import TypeId
from .errors import FormatError
from .safetensors import read_json_file

MAX_INDEX_BYTES = 100_000_000
SUFFIXES = (".safetensors", ".bin")


class TensorFile(Protocol):
    """`safetensors.SafetensorsFile`, or `torch_checkpoint.TorchFile`."""

    path: Path

    @property
    def tensors(self) -> dict[str, Any]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def stored(self, name: str) -> tuple[npt.NDArray[Any], TypeId]: ...
    def release(self, name: str) -> None: ...
    def error(self, name: str, what: str) -> FormatError: ...
    def close(self) -> None: ...


class Shards:
    """Tensors by name, from the files that hold them; it closes the files.

    Args:
        folder: that an error about a missing tensor names.
        files: opened.
        index: a Hugging Face index, which must agree with the files. Without one, a tensor may be
            in several files, if they agree.

    Raises:
        FormatError: files disagree with one another, or with the index.
    """

    def __init__(
        self, folder: Path, files: Iterable[TensorFile], index: Path | None = None
    ) -> None:
        self.folder = folder
        self._files = list(files)
        self._owners: dict[str, TensorFile] = {}
        for file in self._files:
            for name in file.tensors:
                self._add(name, file, must_be_new=index is not None)
        if index is not None:
            self._check_index(index)

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name in self._owners

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self._files]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._owners[name].shape(name)

    def stored(self, name: str) -> tuple[npt.NDArray[Any], TypeId]:
        """A tensor as it is stored, of uint16 where its type is BF16; usually a view of a map."""
        return self._owners[name].stored(name)

    def release(self, name: str) -> None:
        self._owners[name].release(name)

    def error(self, name: str, what: str) -> FormatError:
        """An error about a tensor, or about one that is missing."""
        if name not in self._owners:
            return FormatError(self.folder, f"tensor {name}", what)
        return self._owners[name].error(name, what)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _add(self, name: str, file: TensorFile, *, must_be_new: bool) -> None:
        owner = self._owners.setdefault(name, file)
        if owner is not file and (must_be_new or not _are_equal(name, owner, file)):
            raise file.error(name, "is in an earlier shard, too")

    def _check_index(self, index: Path) -> None:
        weight_map = read_weight_map(index)
        for name, shard in weight_map.items():
            if name not in self._owners or self._owners[name].path.name != shard:
                raise FormatError(index, "weight_map", f"{name} is not in {shard}")
        for name, owner in self._owners.items():
            if name not in weight_map:
                raise FormatError(index, "weight_map", f"lacks {name} of {owner.path.name}")


def open_indexed(index: Path, open_file: Callable[[Path], TensorFile]) -> Shards:
    """The tensors of the files that a Hugging Face index lists."""
    files: list[TensorFile] = []
    try:
        for shard in sorted(set(read_weight_map(index).values())):
            files.append(open_file(index.parent / shard))
        return Shards(index.parent, files, index)
    except BaseException:
        for file in files:
            file.close()
        raise


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name to file name, from a Hugging Face index."""
    weight_map = read_json_file(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(index, "weight_map", "must map tensor names to file names")
    for shard in weight_map.values():
        if not _is_plain_name(shard):
            raise FormatError(index, "weight_map", f"{shard!r} is not a file name in this folder")
    return weight_map


def _is_plain_name(name: object) -> bool:
    """Whether `name` can only mean a file beside the index, on any system."""
    return (
        isinstance(name, str)
        and PurePosixPath(name).name == name
        and not set(name) & set("\\:\0")
        and name.endswith(SUFFIXES)
    )


def _are_equal(name: str, first: TensorFile, second: TensorFile) -> bool:
    """Whether two files hold the same tensor `name`."""
    if first.shape(name) != second.shape(name):
        return False
    (a, a_type), (b, b_type) = first.stored(name), second.stored(name)
    return a_type == b_type and np.array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))
