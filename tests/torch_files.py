"""PyTorch checkpoints for tests, put together by hand, so that they can be wrong."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def text(value: str) -> bytes:
    """Opcode BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """Opcode BININT, or LONG1 where it is too small for the value."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(9, "little", signed=True)
    raw = raw[:8] if value < 2**63 else raw
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: tuple[int, ...]) -> bytes:
    """A tuple."""
    return b"(" + b"".join(map(number, values)) + b"t"


def global_(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


EMPTY_ORDERED_DICT = global_("collections.OrderedDict") + b")R"


def tensor(
    key: str,
    n_values: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    offset: int = 0,
    dtype: str = "F32",
) -> bytes:
    """The opcodes of a tensor, which may lie."""
    storage = (
        text("storage") + global_(f"torch.{STORAGES[dtype]}") + text(key) + text("cpu")
        + number(n_values)
    )  # fmt: skip
    arguments = (
        b"(" + b"(" + storage + b"tQ" + number(offset) + numbers(shape) + numbers(strides)
        + b"\x89" + EMPTY_ORDERED_DICT + b"t"
    )  # fmt: skip
    return global_("torch._utils._rebuild_tensor_v2") + arguments + b"R"


def pickle_of(items: Mapping[str, bytes]) -> bytes:
    """The pickle of a dict, its values given as opcodes."""
    body = b"".join(text(name) + opcodes for name, opcodes in items.items())
    return b"\x80\x02}q\x00(" + body + b"u."


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for n in shape[:0:-1]:
        strides.insert(0, strides[0] * n)
    return tuple(strides[: len(shape)])


def archive(
    pickle: bytes, storages: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """The zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/byteorder", b"little")
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
    return out.getvalue()


def checkpoint(arrays: Mapping[str, npt.NDArray[Any]], dtype: str = "BF16") -> bytes:
    """A state dict; BF16 keeps the upper half of each float32."""
    encode = {
        "F32": lambda a: a.astype("<f4"),
        "F16": lambda a: a.astype("<f2"),
        "BF16": lambda a: (np.ascontiguousarray(a).view(np.uint32) >> 16).astype("<u2"),
    }[dtype]
    items, storages = {}, {}
    for i, (name, array) in enumerate(arrays.items()):
        shape = array.shape
        items[name] = tensor(str(i), array.size, shape, contiguous(shape), dtype=dtype)
        storages[str(i)] = encode(array).tobytes()
    return archive(pickle_of(items), storages)


def write_splits(path: Path, content: bytes, n: int) -> None:
    """PATH-split0 ... of `content`, cut at odd places."""
    size = len(content) // n + 1
    for i in range(n):
        path.with_name(f"{path.name}-split{i}").write_bytes(content[i * size : (i + 1) * size])
