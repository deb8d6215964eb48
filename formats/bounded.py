"""Reading hostile bytes: bound first, then compute, then look.

Python's integers do not wrap, so checked arithmetic is a comparison here. It has to be made before
a number read from a file becomes an index, an allocation, or an argument of numpy or of the engine.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import FormatError

INT64_MAX = 2**63 - 1

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def checked_product(factors: Iterable[int], limit: int = INT64_MAX) -> int | None:
    """The product of `factors`, or None where it exceeds `limit`."""
    product = math.prod(factors)
    return product if product <= limit else None


def padded(offset: int, alignment: int) -> int:
    """`offset` rounded up to a multiple of `alignment`."""
    return offset + -offset % alignment


class Cursor:
    """Reads little-endian fields one after another, never past `end`.

    Every method takes the `field` that an error shall name, and reports the offset of that field.
    """

    def __init__(self, path: Path, view: memoryview, end: int) -> None:
        self.path = path
        self.pos = 0
        self._view = view
        self._end = end

    @property
    def remaining(self) -> int:
        return self._end - self.pos

    def error(self, field: str, what: str, offset: int | None = None) -> FormatError:
        return FormatError(self.path, field, what, self.pos if offset is None else offset)

    def take(self, n_bytes: int, field: str) -> memoryview:
        """The next `n_bytes`, as a view."""
        start = self._pass(n_bytes, field)
        return self._view[start : self.pos]

    def unpack(self, layout: struct.Struct, field: str) -> Any:
        """The next value of a one-value `layout`."""
        return layout.unpack_from(self._view, self._pass(layout.size, field))[0]

    def u32(self, field: str) -> int:
        value: int = self.unpack(_U32, field)
        return value

    def u64(self, field: str) -> int:
        value: int = self.unpack(_U64, field)
        return value

    def count(self, field: str, *, min_record: int, limit: int) -> int:
        """A u64 count of records that each take at least `min_record` bytes."""
        start = self.pos
        n = self.u64(field)
        if n > limit:
            raise self.error(field, f"{n} is more than the {limit} that we accept", start)
        if n > self.remaining // min_record:
            raise self.error(field, f"{n} records do not fit into {self.remaining} bytes", start)
        return n

    def string(self, field: str, max_bytes: int | None = None) -> str:
        """A u64 length and that many bytes of UTF-8.

        Bytes that are not UTF-8 become surrogate escapes, so that any string survives a round trip.
        """
        start = self.pos
        n_bytes = self.u64(field)
        if max_bytes is not None and n_bytes > max_bytes:
            raise self.error(field, f"is {n_bytes} bytes long, at most {max_bytes} allowed", start)
        return str(self.take(n_bytes, field), "utf-8", "surrogateescape")

    def strings(self, n: int, field: str) -> list[str]:
        """`n` strings. Unrolled from `string`, since a vocabulary has tens of thousands."""
        view, pos, end = self._view, self.pos, self._end
        found = []
        for i in range(n):
            start = pos + _U64.size
            n_bytes = _U64.unpack_from(view, pos)[0] if start <= end else INT64_MAX
            pos = start + n_bytes
            if pos > end:
                raise self.error(
                    f"{field}[{i}]",
                    f"string runs past the end: {max(end - start, 0)} bytes are left",
                    start - _U64.size,
                )
            found.append(str(view[start:pos], "utf-8", "surrogateescape"))
        self.pos = pos
        return found

    def _pass(self, n_bytes: int, field: str) -> int:
        """Steps over `n_bytes`, and returns where they begin."""
        start = self.pos
        end = start + n_bytes
        if end > self._end:
            raise self.error(field, f"needs {n_bytes} bytes, {self.remaining} are left")
        self.pos = end
        return start
