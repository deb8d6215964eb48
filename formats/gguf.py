"""Reading GGUF files, versions 2 and 3, little-endian.

Source: the specification, docs/gguf.md of https://github.com/ggml-org/ggml. Files are taken to be
hostile: every count and length is bounded before it is used, so that a bad file costs no more than
its own size in memory, and ends in one `FormatError`. Only the header is read here; the tensors'
bytes stay in the file, mapped, until somebody looks at them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocks import RETIRED_TYPES, TYPES, dequantize
from .bounded import Cursor, checked_product, padded
from .byte_splits import JoinedView, open_view
from .errors import FormatError
from .mapping import FileView

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_KEY_BYTES = 65535
MAX_TENSOR_NAME_BYTES = 64

# Bounds of ours. Real files stay far below them; they keep a hostile one cheap to refuse.
MAX_HEADER_BYTES = 128 << 20
MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 16
MAX_STRINGS_IN_ARRAY = 1 << 20
MAX_ALIGNMENT = 1 << 24

_FILE_FIELD_BYTES = 24  # magic, version, tensor_count, metadata_kv_count
_MIN_KEY_RECORD_BYTES = 8 + 1 + 4 + 1  # key length, key, value type, value
_MIN_TENSOR_RECORD_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name, n_dims, one dim, type, offset


class ValueType(IntEnum):
    """gguf_metadata_value_type of the specification."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


NUMPY_TYPES: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("u1"),
    ValueType.INT8: np.dtype("i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}

_TYPES_OF_NUMPY = {dtype: kind for kind, dtype in NUMPY_TYPES.items()}

SCALAR_LAYOUTS: dict[ValueType, struct.Struct] = {
    # A bool is read as the byte it is, so that a value other than 0 and 1 can be refused.
    kind: struct.Struct("<B" if kind is ValueType.BOOL else f"<{dtype.char}")
    for kind, dtype in NUMPY_TYPES.items()
    if dtype.itemsize < 8
} | {
    ValueType.UINT64: struct.Struct("<Q"),
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}


INTEGER_TYPES = frozenset(kind for kind, dtype in NUMPY_TYPES.items() if dtype.kind in "iu")
FLOAT_TYPES = frozenset({ValueType.FLOAT32, ValueType.FLOAT64})


def element_type(values: list[str] | npt.NDArray[Any]) -> ValueType:
    """The GGUF type of an array's elements, as `GGUFFile.metadata` holds the array."""
    if isinstance(values, list):
        return ValueType.STRING
    kind = _TYPES_OF_NUMPY.get(values.dtype.newbyteorder("<"))
    if kind is None:
        raise ValueError(f"GGUF has no arrays of {values.dtype}")
    return kind


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor's bytes are, and how to read them."""

    name: str
    type: int  # GGML type id, a key of blocks.TYPES
    shape: tuple[int, ...]  # numpy order: (rows, cols), (experts, rows, cols)
    offset: int  # bytes from the start of the file
    n_bytes: int

    @property
    def ne(self) -> tuple[int, ...]:
        """The shape in GGML's order: the contiguous dimension first."""
        return self.shape[::-1]

    @property
    def type_name(self) -> str:
        return TYPES[self.type].name


class GGUFFile:
    """An open GGUF file; `open_gguf` makes it. Use it as a context manager, or `close()` it.

    Attributes:
        path: the file.
        paths: the file, or all the files that hold a part of it.
        version: 2 or 3.
        alignment: `general.alignment`, in bytes.
        metadata: the keys in file order. Scalars are int, float, bool or str; arrays of numbers are
            numpy arrays, arrays of strings are lists. Bytes that are not UTF-8 are kept as
            surrogate escapes (PEP 383).
        types: the value type of each key; `element_type` tells that of an array's elements.
        tensors: the tensors in file order.
        data_offset: where the tensors' bytes begin, from the start of the file.
    """

    def __init__(self, file: FileView | JoinedView) -> None:
        header = file.read(0, min(file.size, MAX_HEADER_BYTES))
        cursor = Cursor(file.path, header, len(header))
        self.path: Path = file.path
        self.paths: tuple[Path, ...] = file.paths
        self._file = file
        self._offsets: dict[str, int] = {}
        self.version, n_tensors, n_keys = _read_file_fields(cursor)
        self.metadata: dict[str, Any] = {}
        self.types: dict[str, ValueType] = {}
        self._read_metadata(cursor, n_keys)
        self.alignment = self._read_alignment()
        self.tensors: dict[str, TensorInfo] = {}
        relative_infos = self._read_tensor_infos(cursor, n_tensors)
        self.data_offset = padded(cursor.pos, self.alignment)
        self._place_tensors(relative_infos)

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Views that `data` handed out stay valid as long as they are held."""
        self._file.close()

    @property
    def header(self) -> memoryview:
        """The bytes before the tensors' own: the metadata, and what the tensors are."""
        return self._file.read(0, self.data_offset)

    def data(self, name: str) -> memoryview:
        """The bytes of tensor `name`: read-only, exactly `n_bytes`, and no copy of the map.

        Only a tensor that crosses from one byte split to the next is copied.
        """
        info = self.tensors[name]
        data = self._file.read(info.offset, info.n_bytes)
        if len(data) < info.n_bytes:
            raise ValueError(f"{self.path} is closed")
        return data

    def part(self, name: str, start: int, n_bytes: int) -> memoryview:
        """Bytes of tensor `name` from its byte `start` on; of a large one, instead of `data`."""
        info = self.tensors[name]
        return self._file.read(info.offset + start, min(n_bytes, max(info.n_bytes - start, 0)))

    def release(self, name: str) -> None:
        """Let go of the memory of a tensor that is not needed again soon."""
        info = self.tensors[name]
        self._file.release(info.offset, info.n_bytes)

    def path_of(self, name: str) -> Path:
        """The file that tensor `name` is in, or begins in."""
        return self.path

    def array(self, name: str) -> npt.NDArray[np.float32]:
        """Tensor `name` as float32 of its shape, decoded by numpy: for tests and small tools.

        Raises:
            FormatError: its type has no decoder.
        """
        info = self.tensors[name]
        try:
            return dequantize(self.data(name), info.type, info.shape)
        except ValueError as error:
            raise self.error(f"tensor {name}", str(error)) from None

    def error(self, field: str, what: str, index: int | None = None) -> FormatError:
        """An error about a metadata key, or about ``tensor NAME``, with its place in the file.

        A field that the file lacks is placed at the start of the metadata. `index` is that of the
        entry at fault, where the field is an array.
        """
        offset = self._offsets.get(field, _FILE_FIELD_BYTES)
        return FormatError(self.path, field if index is None else f"{field}[{index}]", what, offset)

    def _read_metadata(self, cursor: Cursor, n_keys: int) -> None:
        for i in range(n_keys):
            start = cursor.pos
            key = _read_key(cursor, f"metadata[{i}].key")
            if key in self.metadata:
                raise cursor.error(key, "the key appears twice", start)
            kind = _read_value_type(cursor, key)
            read = _read_array if kind is ValueType.ARRAY else _scalar_reader(kind)
            self._offsets[key] = start
            self.types[key] = kind
            self.metadata[key] = read(cursor, key)

    def _read_alignment(self) -> int:
        key = "general.alignment"
        if key not in self.metadata:
            return DEFAULT_ALIGNMENT
        if self.types[key] is not ValueType.UINT32:
            raise self.error(key, f"has type {self.types[key].name}, must be UINT32")
        alignment = int(self.metadata[key])
        if alignment == 0 or alignment % 8 or alignment > MAX_ALIGNMENT:
            raise self.error(
                key, f"is {alignment}, must be a multiple of 8 of at most {MAX_ALIGNMENT}"
            )
        return alignment

    def _read_tensor_infos(self, cursor: Cursor, n_tensors: int) -> list[TensorInfo]:
        """The tensors as described: with offsets relative to the start of the data."""
        infos: dict[str, TensorInfo] = {}
        for i in range(n_tensors):
            start = cursor.pos
            name = cursor.string(f"tensors[{i}].name", MAX_TENSOR_NAME_BYTES)
            if not name:
                raise cursor.error(f"tensors[{i}].name", "is empty", start)
            field = f"tensor {name}"
            if name in infos:
                raise cursor.error(field, "the name appears twice", start)
            self._offsets[field] = start
            infos[name] = _read_tensor_info(cursor, name, field)
        return list(infos.values())

    def _place_tensors(self, relative_infos: list[TensorInfo]) -> None:
        """Fill `tensors` with offsets in the file; refuse the misaligned, outside or shared."""
        end_of_previous, previous = self.data_offset, "the header"
        placed = {}
        for info in sorted(relative_infos, key=lambda info: info.offset):
            field = f"tensor {info.name}"
            if info.offset % self.alignment:
                raise self.error(
                    field, f"its data offset {info.offset} is no multiple of {self.alignment}"
                )
            offset = self.data_offset + info.offset
            if offset + info.n_bytes > self._file.size:
                raise self.error(
                    field,
                    f"its data ends at {offset + info.n_bytes}, "
                    f"past the end of the file at {self._file.size}",
                )
            if offset < end_of_previous:
                raise self.error(field, f"its data at {offset} overlaps {previous}")
            end_of_previous, previous = offset + info.n_bytes, field
            placed[info.name] = TensorInfo(info.name, info.type, info.shape, offset, info.n_bytes)
        self.tensors = {info.name: placed[info.name] for info in relative_infos}


def open_gguf(path: str | os.PathLike[str], *, use_mmap: bool = True) -> GGUFFile:
    """Open a GGUF file and read its header.

    A model in several files of their own right is opened by `gguf_shards.open_model_file`.

    Args:
        path: the file, or the first of the pieces that it was cut into at any byte.
        use_mmap: map the tensors' bytes; otherwise read the whole file into RAM, once its header
            has been found good.

    Raises:
        FormatError: the file is malformed.
        OSError: the file cannot be opened or read.
    """
    file = open_view(Path(path))
    try:
        gguf = GGUFFile(file)
        if not use_mmap:
            file.load()
    except BaseException:
        file.close()
        raise
    return gguf


def _read_file_fields(cursor: Cursor) -> tuple[int, int, int]:
    """Version, number of tensors, number of metadata keys."""
    magic = bytes(cursor.take(len(MAGIC), "magic"))
    if magic != MAGIC:
        raise cursor.error("magic", f"is {magic!r}, a GGUF file begins with {MAGIC!r}", 0)
    version = cursor.u32("version")
    if version not in VERSIONS:
        raise cursor.error("version", _why_version_is_refused(version), len(MAGIC))
    n_tensors = cursor.count("tensor_count", min_record=_MIN_TENSOR_RECORD_BYTES, limit=MAX_TENSORS)
    n_keys = cursor.count("metadata_kv_count", min_record=_MIN_KEY_RECORD_BYTES, limit=MAX_KEYS)
    return version, n_tensors, n_keys


def _why_version_is_refused(version: int) -> str:
    if version & 0xFFFF == 0:
        return "is written big-endian; only little-endian files are supported"
    if version == 1:
        return "is 1, of August 2023; convert the model again to get version 3"
    return f"is {version}, only {' and '.join(map(str, VERSIONS))} are supported"


def _read_key(cursor: Cursor, field: str) -> str:
    start = cursor.pos
    key = cursor.string(field, MAX_KEY_BYTES)
    if not (key and key.isascii() and key.isprintable()):
        raise cursor.error(field, f"{key!r} is not a printable ASCII string", start)
    return key


def _read_value_type(cursor: Cursor, field: str) -> ValueType:
    start = cursor.pos
    value = cursor.u32(field)
    try:
        return ValueType(value)
    except ValueError:
        raise cursor.error(field, f"unknown value type {value}", start) from None


def _scalar_reader(kind: ValueType) -> Callable[[Cursor, str], Any]:
    if kind is ValueType.STRING:
        return Cursor.string
    if kind is ValueType.BOOL:
        return _read_bool
    return lambda cursor, field: cursor.unpack(SCALAR_LAYOUTS[kind], field)


def _read_bool(cursor: Cursor, field: str) -> bool:
    value = cursor.unpack(SCALAR_LAYOUTS[ValueType.BOOL], field)
    if value > 1:
        raise cursor.error(field, f"a bool is 0 or 1, not {value}", cursor.pos - 1)
    return bool(value)


def _read_array(cursor: Cursor, field: str) -> list[str] | npt.NDArray[Any]:
    start = cursor.pos
    kind = _read_value_type(cursor, field)
    if kind is ValueType.ARRAY:
        raise cursor.error(field, "arrays inside arrays are not supported", start)
    if kind is ValueType.STRING:
        n = cursor.count(field, min_record=8, limit=MAX_STRINGS_IN_ARRAY)
        return cursor.strings(n, field)
    dtype = NUMPY_TYPES[kind]
    n = cursor.count(field, min_record=dtype.itemsize, limit=MAX_HEADER_BYTES)
    raw = np.frombuffer(cursor.take(n * dtype.itemsize, field), np.uint8)
    if kind is ValueType.BOOL and (raw > 1).any():
        raise cursor.error(field, "a bool is 0 or 1", start)
    return raw.view(dtype).copy()  # a copy, so that no array keeps the file mapped


def _read_tensor_info(cursor: Cursor, name: str, field: str) -> TensorInfo:
    start = cursor.pos
    n_dims = cursor.u32(field)
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.error(field, f"has {n_dims} dimensions, must have 1 to {MAX_DIMS}", start)
    start = cursor.pos
    ne = [cursor.u64(field) for _ in range(n_dims)]
    if 0 in ne:
        raise cursor.error(field, f"has a dimension of 0 in {ne}", start)
    type_start = cursor.pos
    type_id = cursor.u32(field)
    if type_id not in TYPES:
        raise cursor.error(field, _why_type_is_refused(type_id), type_start)
    kind = TYPES[type_id]
    if ne[0] % kind.block_size:
        raise cursor.error(
            field, f"rows of {ne[0]} do not fill {kind.name} blocks of {kind.block_size}", start
        )
    n_bytes = checked_product([*ne[1:], ne[0] // kind.block_size, kind.type_size])
    if n_bytes is None:
        raise cursor.error(field, f"dimensions {ne} overflow 64 bits", start)
    offset = cursor.u64(field)
    return TensorInfo(name, type_id, tuple(reversed(ne)), offset, n_bytes)


def _why_type_is_refused(type_id: int) -> str:
    if type_id in RETIRED_TYPES:
        return f"type {type_id} ({RETIRED_TYPES[type_id]}) was removed from GGUF"
    return f"unknown tensor type {type_id}"
