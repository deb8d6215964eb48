"""Reading safetensors files.

Source: the format section of https://github.com/huggingface/safetensors. As there, the tensors'
spans must tile the data exactly: no hole, no overlap, nothing after the last.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocks import TypeId, dequantize
from .bounded import INT64_MAX, Cursor, checked_product
from .errors import FormatError
from .mapping import FileView

MAX_HEADER_BYTES = 100_000_000  # as in the reference implementation
MAX_DIMS = 8

DTYPE_BITS: dict[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}

FLOAT_TYPES: dict[str, TypeId] = {
    "F32": TypeId.F32,
    "F16": TypeId.F16,
    "BF16": TypeId.BF16,
}

FLOAT_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16
}


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """Where a tensor's bytes are."""

    name: str
    dtype: str  # a key of DTYPE_BITS
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    n_bytes: int


class SafetensorsFile:
    """One open file; use it as a context manager, or `close()` it.

    Attributes:
        path: the file.
        metadata: the header's ``__metadata__``.
        tensors: in the order of their data.

    Raises:
        FormatError: the file is malformed.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = FileView(path)
        self.path = self._file.path
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, SafeTensor] = {}
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def stored(self, name: str) -> tuple[npt.NDArray[Any], TypeId]:
        """Tensor `name` as a view of the map, of uint16 where its type is BF16.

        Raises:
            FormatError: the tensor is not of a type that we decode.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in FLOAT_TYPES:
            raise self.error(
                name, f"has type {tensor.dtype}, must be one of {', '.join(FLOAT_TYPES)}"
            )
        data = self._file.read(tensor.offset, tensor.n_bytes)
        values = np.frombuffer(data, FLOAT_DTYPES[tensor.dtype]).reshape(tensor.shape)
        return values, FLOAT_TYPES[tensor.dtype]

    def array(self, name: str) -> npt.NDArray[np.float32]:
        """Tensor `name` as float32."""
        values, type_id = self.stored(name)
        return dequantize(values.data, type_id, values.shape)

    def release(self, name: str) -> None:
        """Let go of the memory of a tensor that is not needed again soon."""
        self._file.release(self.tensors[name].offset, self.tensors[name].n_bytes)

    def error(self, name: str, what: str) -> FormatError:
        return FormatError(self.path, f"tensor {name}", what, self.tensors[name].offset)

    def _read_header(self) -> None:
        cursor = Cursor(self.path, self._file.view, self._file.size)
        n_bytes = cursor.u64("header length")
        if not 2 <= n_bytes <= min(MAX_HEADER_BYTES, cursor.remaining):
            raise cursor.error(
                "header length",
                f"is {n_bytes}; {cursor.remaining} bytes follow, at most {MAX_HEADER_BYTES} count",
                0,
            )
        header = parse_json_object(self.path, "header", bytes(cursor.take(n_bytes, "header")))
        self.metadata = self._read_metadata(header.pop("__metadata__", {}))
        tensors = [self._read_tensor(name, entry, cursor.pos) for name, entry in header.items()]
        tensors.sort(key=lambda tensor: (tensor.offset, tensor.n_bytes))
        end = cursor.pos
        for tensor in tensors:
            if tensor.offset != end:
                what = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole"
                raise FormatError(
                    self.path, f"tensor {tensor.name}", f"data_offsets {what}", tensor.offset
                )
            end += tensor.n_bytes
        if end != self._file.size:
            raise FormatError(
                self.path,
                "data",
                f"the tensors end at {end}, the file at {self._file.size}: bytes "
                + ("are missing" if end > self._file.size else "are left over"),
                min(end, self._file.size),
            )
        self.tensors = {tensor.name: tensor for tensor in tensors}

    def _read_metadata(self, found: object) -> dict[str, str]:
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise FormatError(self.path, "__metadata__", "must map strings to strings", 8)
        return found

    def _read_tensor(self, name: str, entry: object, data_offset: int) -> SafeTensor:
        def refuse(what: str) -> FormatError:
            return FormatError(self.path, f"tensor {name}", what, 8)

        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise refuse("must have exactly dtype, shape and data_offsets")
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
            raise refuse(f"unknown dtype {dtype!r}")
        if not _is_natural_list(shape) or len(shape) > MAX_DIMS:
            raise refuse(f"shape {shape!r} must be up to {MAX_DIMS} numbers of 0 or more")
        if not _is_natural_list(span) or len(span) != 2 or span[0] > span[1]:
            raise refuse(f"data_offsets {span!r} must be a begin and an end")
        n_bits = checked_product([*shape, DTYPE_BITS[dtype]])
        if n_bits != 8 * (span[1] - span[0]):
            raise refuse(f"{dtype} of shape {shape} does not take {span[1] - span[0]} bytes")
        return SafeTensor(name, dtype, tuple(shape), data_offset + span[0], span[1] - span[0])


def parse_json_object(path: Path, field: str, text: bytes) -> dict[str, Any]:
    """Parse a JSON object from a hostile file: unique keys, and no Python error but ours."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key appears twice")
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise FormatError(path, field, "is nested too deeply") from None
    except ValueError as error:  # bad UTF-8, bad JSON, numbers of thousands of digits
        raise FormatError(path, field, f"is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError(path, field, "must be a JSON object")
    return found


def read_json_file(path: Path, max_bytes: int) -> dict[str, Any]:
    """The JSON object in the file at `path`, which may take `max_bytes`."""
    with open(path, "rb") as file:
        text = file.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise FormatError(path, "file", f"is longer than {max_bytes} bytes", max_bytes)
    return parse_json_object(path, "file", text)


def _is_natural_list(found: object) -> bool:
    return isinstance(found, list) and all(
        type(n) is int and 0 <= n <= INT64_MAX
        for n in found  # bool is an int, and not a length
    )
