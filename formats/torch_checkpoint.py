"""Reading PyTorch checkpoints: zip archives as torch.save writes them since version 1.6.

The tensors' bytes are used where they lie in the file, mapped; see `stored_zip` and `torch_pickle`.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import stored_zip
from .blocks import TypeId
from .byte_splits import JoinedView
from .errors import FormatError
from .mapping import FileView
from .safetensors import DTYPE_BITS, FLOAT_DTYPES, FLOAT_TYPES
from .stored_zip import Bytes, Entry, read_directory
from .torch_pickle import MAX_PICKLE_BYTES, TorchTensor, read_torch_pickle

MAGIC = stored_zip.MAGIC
LEGACY_MAGIC = b"\x80\x02"  # a pickle of protocol 2, bare

_PICKLE_NAME = "data.pkl"


class TorchFile:
    """One open checkpoint, of one file or of its byte splits.

    Attributes:
        path: the file, or the first split.
        tensors: in the order of the checkpoint.

    Raises:
        FormatError: the file is malformed, or its pickle does more than describe tensors.
        OSError: it cannot be opened.
    """

    def __init__(self, *paths: Path) -> None:
        self._file: Bytes = FileView(paths[0]) if len(paths) == 1 else JoinedView(list(paths))
        self.path = self._file.path
        try:
            if bytes(self._file.read(0, 2)) == LEGACY_MAGIC:
                raise FormatError(
                    self.path,
                    "file",
                    "is a bare pickle of PyTorch before 1.6, which is not read; load it in "
                    "PyTorch and save it again",
                    0,
                )
            self._entries = read_directory(self._file)
            self._folder = self._find_folder()
            pickle = self._read_small(_PICKLE_NAME)
            self.tensors = read_torch_pickle(self.path, pickle, len(self._entries))
            self._check_byte_order()
            for name, tensor in self.tensors.items():
                self._check_storage(name, tensor)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def stored(self, name: str) -> tuple[npt.NDArray[Any], TypeId]:
        """Tensor `name` as it is stored: a view of the map, or a copy where splits cut it."""
        tensor = self.tensors[name]
        dtype = tensor.storage.dtype
        if dtype not in FLOAT_TYPES:
            raise self.error(name, f"has type {dtype}, must be one of {', '.join(FLOAT_TYPES)}")
        entry = self._entry(tensor)
        values = np.frombuffer(self._file.read(entry.offset, entry.n_bytes), FLOAT_DTYPES[dtype])
        steps = [stride * values.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(
            values[tensor.offset :], tensor.shape, steps, writeable=False
        )
        return view, FLOAT_TYPES[dtype]

    def release(self, name: str) -> None:
        """Let go of the memory of a tensor that is not needed again soon."""
        entry = self._entry(self.tensors[name])
        self._file.release(entry.offset, entry.n_bytes)

    def error(self, name: str, what: str) -> FormatError:
        return FormatError(
            self.path, f"tensor {name}", what, self._entry(self.tensors[name]).offset
        )

    def _find_folder(self) -> str:
        """The one folder of the archive that everything is in, with its slash."""
        found = [name for name in self._entries if name.endswith(f"/{_PICKLE_NAME}")]
        if len(found) != 1 or found[0].count("/") != 1:
            raise FormatError(self.path, _PICKLE_NAME, "the archive has none, or several")
        return found[0].removesuffix(_PICKLE_NAME)

    def _read_small(self, name: str) -> memoryview:
        entry = self._entries[self._folder + name]
        if entry.n_bytes > MAX_PICKLE_BYTES:
            raise FormatError(self.path, name, f"is {entry.n_bytes} bytes long", entry.offset)
        data = self._file.read(entry.offset, entry.n_bytes)
        if zlib.crc32(data) != entry.crc:
            raise FormatError(self.path, name, "is damaged: its CRC differs", entry.offset)
        return data

    def _check_byte_order(self) -> None:
        name = "byteorder"
        if self._folder + name in self._entries and bytes(self._read_small(name)) != b"little":
            raise FormatError(self.path, name, "only little-endian checkpoints are read")

    def _check_storage(self, name: str, tensor: TorchTensor) -> None:
        storage = tensor.storage
        key = f"{self._folder}data/{storage.key}"
        if key not in self._entries:
            raise FormatError(self.path, f"tensor {name}", f"the archive has no {key}")
        n_bytes = self._entries[key].n_bytes
        if storage.n_values * DTYPE_BITS[storage.dtype] != 8 * n_bytes:
            raise self.error(
                name, f"{storage.n_values} values of {storage.dtype} do not take {n_bytes} bytes"
            )

    def _entry(self, tensor: TorchTensor) -> Entry:
        return self._entries[f"{self._folder}data/{tensor.storage.key}"]
