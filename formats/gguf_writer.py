"""Writing GGUF files, one tensor (or a part of one) at a time.

The final path holds the old file, or the whole new one, whatever happens in between: the bytes go
to a temporary file beside it, which is flushed to the disk, checked, and renamed over it. See
`partial` for what a later run can take over from one that was killed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .blocks import TYPES, row_bytes
from .bounded import checked_product, padded
from .errors import FormatError
from .gguf import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_DIMS,
    MAX_KEY_BYTES,
    MAX_TENSOR_NAME_BYTES,
    NUMPY_TYPES,
    SCALAR_LAYOUTS,
    VERSIONS,
    TensorInfo,
    ValueType,
    element_type,
)
from .partial import PartialFile


class GGUFWriter:
    """Writes one GGUF file; a context manager that puts the file in place when it ends well.

    First `add` the metadata and `declare` the tensors; then `write` the tensors' bytes in the order
    they were declared. An exception inside the `with` block leaves no trace.

    Args:
        path: the file to write; one that exists is replaced at the end.
        version: 2 or 3 (the layouts are the same).
        alignment: of the tensors' data, in bytes: a multiple of 8.
        check: called with the temporary file once it is complete, before it is renamed; what it
            raises is raised.
        job: names the input and the options. With it, what is written can be taken over by a
            writer of the same job if this process is killed.
        resume: take over what an earlier writer of this `job` has finished, and leave what this one
            has finished if an exception ends it. `begin` tells how much was taken over.

    Raises (all methods):
        ValueError: the call would make a malformed file, or is out of order.
        OSError: the disk is full, or the like.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        version: int = VERSIONS[-1],
        alignment: int = DEFAULT_ALIGNMENT,
        check: Callable[[Path], object] | None = None,
        job: str | None = None,
        resume: bool = False,
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"version {version} is not one of {VERSIONS}")
        if alignment <= 0 or alignment % 8 or alignment > MAX_ALIGNMENT:
            raise ValueError(f"alignment {alignment} is no multiple of 8 up to {MAX_ALIGNMENT}")
        self.path = Path(path)
        self._version = version
        self._alignment = alignment
        self._check = check
        self._partial = PartialFile(self.path, job, resume=resume)
        self._records: dict[str, bytes] = {}  # key to its whole metadata record
        self._infos: list[TensorInfo] = []  # with offsets relative to the data
        self._names: set[str] = set()
        self._data_end = 0  # of the last declared tensor
        self._data_offset = 0  # set with the header
        self._n_finished = 0  # tensors
        self._n_written = 0  # bytes of the tensor being written
        self._crc = 0  # of these bytes
        if alignment != DEFAULT_ALIGNMENT:
            self.add("general.alignment", alignment, ValueType.UINT32)

    def __enter__(self) -> GGUFWriter:
        self._file = self._partial.open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._name_file(error)
            with self._partial:
                if error is None:
                    self._finish()
                    self._check_result()
                    os.replace(self._partial.path, self.path)
            if error is None:
                _sync_folder(self.path.parent)
        except OSError as failure:
            self._name_file(failure)
            raise
        finally:
            self._partial.discard(failed=error is not None)

    def add(self, key: str, value: Any, kind: ValueType) -> None:
        """Add a metadata key.

        Args:
            value: int, float, bool or str; for ARRAY a list of str, or a numpy array, whose dtype
                becomes the elements' type.
        """
        if self._data_offset:
            raise ValueError(f"{key}: metadata come before the tensors are written")
        if not (key and key.isascii() and key.isprintable() and len(key) <= MAX_KEY_BYTES):
            raise ValueError(f"{key!r}: a key is 1 to {MAX_KEY_BYTES} printable ASCII characters")
        if key in self._records:
            raise ValueError(f"{key}: added twice")
        try:
            packed = _pack_value(value, kind)
        except (struct.error, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{key}: {value!r} is no {kind.name} ({error})") from None
        self._records[key] = _pack_string(key) + struct.pack("<I", kind) + packed

    def declare(self, name: str, type_id: int, shape: Sequence[int]) -> TensorInfo:
        """Announce a tensor of `shape` (numpy order). Its offset is relative to the data."""
        if self._data_offset:
            raise ValueError(f"{name}: tensors are declared before the first is written")
        if name in self._names or not 1 <= len(_encode(name)) <= MAX_TENSOR_NAME_BYTES:
            raise ValueError(f"{name!r}: a name of 1 to {MAX_TENSOR_NAME_BYTES} bytes, used once")
        if type_id not in TYPES:
            raise ValueError(f"{name}: there is no tensor type {type_id}")
        if not 1 <= len(shape) <= MAX_DIMS or min(shape) < 1:
            raise ValueError(f"{name}: shape {tuple(shape)}: 1 to {MAX_DIMS} dimensions above 0")
        n_bytes = checked_product([*shape[:-1], row_bytes(type_id, shape[-1])])
        if n_bytes is None:
            raise ValueError(f"{name}: shape {tuple(shape)} overflows 64 bits")
        offset = padded(self._data_end, self._alignment)
        info = TensorInfo(name, type_id, tuple(shape), offset, n_bytes)
        self._infos.append(info)
        self._names.add(name)
        self._data_end = offset + n_bytes
        return info

    def begin(self) -> int:
        """End the declarations. Returns how many tensors, the first declared, are complete.

        They are those that were taken over; `write` goes on with the next.
        """
        if not self._data_offset:
            header = self._pack_header()
            self._data_offset = padded(len(header), self._alignment)
            spans = [(self._data_offset + info.offset, info.n_bytes) for info in self._infos]
            self._n_finished = self._partial.begin(header, spans)
        return self._n_finished

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Append bytes to tensor `name`, the first declared that is not complete yet."""
        self.begin()
        info = self._infos[self._n_finished] if self._n_finished < len(self._infos) else None
        if info is None or info.name != name:
            expected = "no more tensors" if info is None else info.name
            raise ValueError(f"{name}: {expected} expected here")
        view = memoryview(data)
        if self._n_written + view.nbytes > info.n_bytes:
            raise ValueError(f"{name}: more than its {info.n_bytes} bytes")
        if self._n_written == 0:
            self._pad_to(self._data_offset + info.offset)
        self._file.write(view)
        self._n_written += view.nbytes
        self._crc = zlib.crc32(view, self._crc)
        if self._n_written == info.n_bytes:
            self._partial.note_finished(self._crc)
            self._n_finished += 1
            self._n_written = self._crc = 0

    def _check_result(self) -> None:
        try:
            if self._check is not None:
                self._check(self._partial.path)
        except FormatError as error:  # names the temporary file, which will be gone
            raise FormatError(self.path, error.field, f"{error.what}; not written") from None

    def _name_file(self, error: BaseException | None) -> None:
        """A disk that is full does not say which file it had no room for."""
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(self.path)

    def _pack_header(self) -> bytes:
        counts = struct.pack("<IQQ", self._version, len(self._infos), len(self._records))
        return b"".join(
            [MAGIC, counts, *self._records.values(), *map(_pack_tensor_info, self._infos)]
        )

    def _finish(self) -> None:
        self.begin()
        if self._n_finished < len(self._infos):
            raise ValueError(f"{self._infos[self._n_finished].name}: is not complete")
        self._pad_to(self._data_offset + padded(self._data_end, self._alignment))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _pad_to(self, offset: int) -> None:
        self._file.write(bytes(offset - self._file.tell()))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _pack_string(text: str) -> bytes:
    encoded = _encode(text)
    return struct.pack("<Q", len(encoded)) + encoded


def _pack_value(value: Any, kind: ValueType) -> bytes:
    if kind is ValueType.STRING:
        return _pack_string(value)
    if kind is ValueType.BOOL:
        return struct.pack("<?", value)
    if kind is not ValueType.ARRAY:
        return SCALAR_LAYOUTS[kind].pack(value)
    element = element_type(value)
    packed = (
        b"".join(map(_pack_string, value))
        if element is ValueType.STRING
        else np.asarray(value, NUMPY_TYPES[element]).tobytes()
    )
    return struct.pack("<IQ", element, len(value)) + packed


def _pack_tensor_info(info: TensorInfo) -> bytes:
    n_dims = len(info.ne)
    layout = struct.Struct(f"<I{n_dims}QIQ")
    return _pack_string(info.name) + layout.pack(n_dims, *info.ne, info.type, info.offset)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a loss of power; not every system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
