"""Writing GGUF files, one tensor (or a part of one) at a time.

The final path holds the old file, or the whole new one, whatever happens in between: the bytes go
to a temporary file beside it, which is flushed to the disk, checked, and renamed over it.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .blocks import TYPES, row_bytes
from .bounded import checked_product, padded
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
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"version {version} is not one of {VERSIONS}")
        if alignment <= 0 or alignment % 8 or alignment > MAX_ALIGNMENT:
            raise ValueError(f"alignment {alignment} is no multiple of 8 up to {MAX_ALIGNMENT}")
        self.path = Path(path)
        self._version = version
        self._alignment = alignment
        self._check = check
        self._records: dict[str, bytes] = {}  # key to its whole metadata record
        self._infos: list[TensorInfo] = []  # with offsets relative to the data
        self._names: set[str] = set()
        self._data_end = 0  # of the last declared tensor
        self._data_offset = 0  # set with the header
        self._n_finished = 0  # tensors
        self._n_written = 0  # bytes of the tensor being written
        if alignment != DEFAULT_ALIGNMENT:
            self.add("general.alignment", alignment, ValueType.UINT32)

    def __enter__(self) -> GGUFWriter:
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        self._file = open(self._temporary, "xb")  # noqa: SIM115 - __exit__ closes it
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._file:
                if error is None:
                    self._finish()
            if error is None:
                if self._check is not None:
                    self._check(self._temporary)
                os.replace(self._temporary, self.path)
                _sync_folder(self.path.parent)
        finally:
            self._temporary.unlink(missing_ok=True)

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

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Append bytes to tensor `name`, the first declared that is not complete yet."""
        self._write_header_once()
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
        if self._n_written == info.n_bytes:
            self._n_finished += 1
            self._n_written = 0

    def _write_header_once(self) -> None:
        if self._data_offset:
            return
        self._file.write(MAGIC)
        self._file.write(struct.pack("<IQQ", self._version, len(self._infos), len(self._records)))
        for record in self._records.values():
            self._file.write(record)
        for info in self._infos:
            self._file.write(_pack_tensor_info(info))
        self._data_offset = padded(self._file.tell(), self._alignment)

    def _finish(self) -> None:
        self._write_header_once()
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
