"""The pickle in a PyTorch checkpoint, read by a machine that knows tensors and nothing else.

A pickle is a program, and `pickle` runs it. This machine has the opcodes that torch.save writes for
a dict of tensors (protocol 2), and for each name that they may refer to an entry in a table: it
imports nothing, calls nothing that a file names, and has no fallback. What it does not know, it
refuses. Source: pickletools of the standard library, torch.serialization.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bounded import INT64_MAX, Cursor, checked_product
from .errors import FormatError

# Bounds of ours. A tensor takes 35 opcodes, and a storage has few tensors; so a short archive has a
# short pickle, which keeps a hostile one cheap to refuse.
MAX_PICKLE_BYTES = 8 << 20
MAX_OPCODES = 1 << 17
_OPCODES_OF_ANY = 1 << 12
_OPCODES_OF_STORAGE = 1 << 9
MAX_DEPTH = 1 << 12  # of the stack
MAX_TEXT_BYTES = 1 << 12
MAX_DIMS = 8

_PROTOCOL = 2

# torch's storage classes: the dtypes in safetensors' words.
_STORAGES = {
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch DoubleStorage": "F64",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of `n_values` in the archive's entry ``data/KEY``."""

    dtype: str
    key: str
    n_values: int


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A tensor in a storage; offset and strides count values, and stay inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle refers to: a key of `_STORAGES` or `_CALLABLES`."""

    name: str


_MARK = object()


def read_torch_pickle(path: Path, data: memoryview, n_storages: int) -> dict[str, TorchTensor]:
    """The tensors of the dict that `data`, an archive's data.pkl, describes.

    Args:
        n_storages: of the archive.

    Raises:
        FormatError: the pickle is malformed, or does anything else than to describe tensors.
            Offsets count from its start.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise FormatError(path, "data.pkl", f"is longer than {MAX_PICKLE_BYTES} bytes")
    max_opcodes = min(_OPCODES_OF_ANY + _OPCODES_OF_STORAGE * n_storages, MAX_OPCODES)
    found = _Machine(path, data).run(max_opcodes)
    if not isinstance(found, dict):
        raise FormatError(path, "data.pkl", "does not hold a dict of tensors")
    for name, value in found.items():
        if not isinstance(value, TorchTensor):
            raise FormatError(path, f"data.pkl[{name}]", "is not a tensor")
    return found


class _Machine:
    """The stack machine. Values are None, bool, int, str, tuple, list, dict and those above."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self._cursor = Cursor(path, data, len(data))
        self._start = 0  # of the opcode being run
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, max_opcodes: int) -> Any:
        for _ in range(max_opcodes):
            self._start = self._cursor.pos
            code = self._cursor.take(1, "data.pkl")[0]
            if code == _STOP:
                return self._pop()
            if code not in _BY_CODE:
                raise self._error(f"opcode {bytes([code])!r} is not allowed")
            _BY_CODE[code](self)
            if len(self._stack) > MAX_DEPTH:
                raise self._error(f"more than {MAX_DEPTH} values are stacked")
        raise self._error(f"has more than {max_opcodes} opcodes")

    def _error(self, what: str) -> FormatError:
        return self._cursor.error("data.pkl", what, self._start)

    # ---- Arguments and stack ----

    def _argument(self, layout: str) -> int:
        return int(self._cursor.unpack(struct.Struct(layout), "data.pkl"))

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._error("the stack is empty")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                values = self._stack[i + 1 :]
                del self._stack[i:]
                return values
        raise self._error("there is no mark")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _line(self) -> str:
        """Bytes up to a newline."""
        raw = bytearray()
        while (byte := bytes(self._cursor.take(1, "data.pkl"))) != b"\n":
            raw += byte
            if len(raw) > MAX_TEXT_BYTES:
                raise self._error("a name is too long")
        return raw.decode("ascii", "replace")

    # ---- Opcodes ----

    def proto(self) -> None:
        version = self._argument("<B")
        if version != _PROTOCOL or self._start != 0:
            raise self._error(f"protocol {version}; torch.save writes {_PROTOCOL}")

    def binunicode(self) -> None:
        n_bytes = self._argument("<I")
        if n_bytes > MAX_TEXT_BYTES:
            raise self._error(f"a text of {n_bytes} bytes is too long")
        try:
            self._push(str(self._cursor.take(n_bytes, "data.pkl"), "utf-8"))
        except UnicodeDecodeError:
            raise self._error("a text is not UTF-8") from None

    def long1(self) -> None:
        n_bytes = self._argument("<B")
        if n_bytes > 8:
            raise self._error("a number takes more than 64 bits")
        raw = self._cursor.take(n_bytes, "data.pkl")
        self._push(int.from_bytes(raw, "little", signed=True))

    def global_(self) -> None:
        name = f"{self._line()} {self._line()}"
        if name not in _STORAGES and name not in _CALLABLES:
            raise self._error(f"refers to {name.replace(' ', '.')}, which is not allowed")
        self._push(_Global(name))

    def tuple_(self, n: int | None = None) -> None:
        values = self._pop_to_mark() if n is None else [self._pop() for _ in range(n)][::-1]
        self._push(tuple(values))

    def put(self, layout: str) -> None:
        number = self._argument(layout)
        self._push(value := self._pop())
        self._memo[number] = value

    def get(self, layout: str) -> None:
        number = self._argument(layout)
        if number not in self._memo:
            raise self._error(f"nothing was noted as number {number}")
        self._push(self._memo[number])

    def append(self, values: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise self._error("appends to what is no list")
        target.extend(values)
        self._push(target)

    def set_items(self, values: list[Any]) -> None:
        target = self._pop()
        keys = values[::2]
        # Only texts are keys: to hash a nest of shared tuples can take for ever.
        if not isinstance(target, dict) or len(values) % 2 or not _all_are(str, keys):
            raise self._error("sets items that are no dict's, or have no text as a key")
        for key, value in zip(keys, values[1::2], strict=True):
            if key in target:
                raise self._error(f"{key!r} is set twice")
            target[key] = value
        self._push(target)

    def set_item(self) -> None:
        value = self._pop()
        self.set_items([self._pop(), value])

    def build(self) -> None:
        """State_dict's remark about its modules' versions, which says nothing about tensors."""
        state, target = self._pop(), self._pop()
        if not (isinstance(target, dict) and isinstance(state, dict) and set(state) <= {_REMARK}):
            raise self._error("gives state to an object, which is not allowed")
        self._push(target)

    def persistent_id(self) -> None:
        """("storage", class, key, location, number of values)"""
        match self._pop():
            case ("storage", _Global(name), str(key), str(), int(n_values)) if (
                name in _STORAGES and 0 <= n_values <= INT64_MAX and type(n_values) is int
            ):
                self._push(Storage(_STORAGES[name], key, n_values))
            case _:
                raise self._error("a persistent id describes no storage")

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or function.name not in _CALLABLES:
            raise self._error("calls what is not allowed")
        if not isinstance(arguments, tuple):
            raise self._error("calls with what is no tuple")
        self._push(_CALLABLES[function.name](self, arguments))

    # ---- What may be called ----

    def ordered_dict(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if arguments:
            raise self._error("an OrderedDict begins empty")
        return {}

    def rebuild_tensor(self, arguments: tuple[Any, ...]) -> TorchTensor:
        """storage, offset, size, stride, requires_grad, backward_hooks"""
        match arguments:
            case (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()):
                pass
            case _:
                raise self._error("a tensor is described by other values than torch's")
        numbers = [offset, *shape, *strides]
        if not all(type(n) is int and 0 <= n <= INT64_MAX for n in numbers):
            raise self._error("an offset, size or stride is no number of 0 or more")
        if len(shape) != len(strides) or len(shape) > MAX_DIMS:
            raise self._error(f"{len(shape)} sizes and {len(strides)} strides")
        n_values = checked_product(shape)
        steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
        last = offset + sum(steps)  # the position of the last value
        if n_values is None or n_values and (last >= storage.n_values):
            raise self._error(f"a tensor of shape {shape} runs past its storage")
        if n_values > storage.n_values:
            raise self._error(f"a tensor of shape {shape} uses values more than once")
        return TorchTensor(storage, offset, tuple(shape), tuple(strides))

    def rebuild_parameter(self, arguments: tuple[Any, ...]) -> TorchTensor:
        """tensor, requires_grad, backward_hooks"""
        match arguments:
            case (TorchTensor() as tensor, bool(), dict()):
                return tensor
        raise self._error("a parameter is described by other values than torch's")


_REMARK = "_metadata"


def _all_are(kind: type, values: list[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


_CALLABLES: dict[str, Callable[[_Machine, tuple[Any, ...]], Any]] = {
    "collections OrderedDict": _Machine.ordered_dict,
    "torch._utils _rebuild_tensor_v2": _Machine.rebuild_tensor,
    "torch._utils _rebuild_parameter": _Machine.rebuild_parameter,
}

_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.proto,
    b"(": lambda m: m._push(_MARK),
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"J": lambda m: m._push(m._argument("<i")),
    b"K": lambda m: m._push(m._argument("<B")),
    b"M": lambda m: m._push(m._argument("<H")),
    b"\x8a": _Machine.long1,
    b"X": _Machine.binunicode,
    b"c": _Machine.global_,
    b")": lambda m: m._push(()),
    b"\x85": lambda m: m.tuple_(1),
    b"\x86": lambda m: m.tuple_(2),
    b"\x87": lambda m: m.tuple_(3),
    b"t": _Machine.tuple_,
    b"]": lambda m: m._push([]),
    b"a": lambda m: m.append([m._pop()]),
    b"e": lambda m: m.append(m._pop_to_mark()),
    b"}": lambda m: m._push({}),
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m._pop_to_mark()),
    b"q": lambda m: m.put("<B"),
    b"r": lambda m: m.put("<I"),
    b"h": lambda m: m.get("<B"),
    b"j": lambda m: m.get("<I"),
    b"Q": _Machine.persistent_id,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}

_STOP = ord(".")
_BY_CODE = {code[0]: run for code, run in _OPCODES.items()}
