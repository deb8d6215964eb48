"""The directory of a zip file whose entries are stored, not compressed.

Source: PKWARE's APPNOTE.TXT, 4.3 and 4.5.3 (zip64). Such a file can be used where it lies: nothing
is inflated, and nothing is unpacked to a path. The central directory alone counts; the header
before each entry has to agree with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from .bounded import Cursor
from .errors import FormatError

MAGIC = b"PK\x03\x04"

# Bounds of ours, above the 1800 entries of the largest Mixtral in one file.
MAX_ENTRIES = 1 << 14
MAX_DIRECTORY_BYTES = 8 << 20

_END = struct.Struct("<4s4H2LH")  # of central directory
_END_MAGIC = b"PK\x05\x06"
_MAX_COMMENT_BYTES = 0xFFFF
_LOCATOR64 = struct.Struct("<4sLQL")
_LOCATOR64_MAGIC = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_MAGIC = b"PK\x06\x06"
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_CENTRAL_MAGIC = b"PK\x01\x02"
_LOCAL = struct.Struct("<4s5H3L2H")

_STORED = 0
_ALLOWED_FLAGS = 0x0808  # sizes follow the data (the directory has them, too); names are UTF-8
_IN_ZIP64_EXTRA = 0xFFFFFFFF
_ZIP64_EXTRA = 1


class Bytes(Protocol):
    """`mapping.FileView`, or `byte_splits.JoinedView`."""

    path: Path
    size: int

    def read(self, start: int, n_bytes: int) -> memoryview: ...
    def release(self, start: int, n_bytes: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored file: `n_bytes` from `offset`."""

    name: str
    offset: int
    n_bytes: int
    crc: int


def read_directory(file: Bytes) -> dict[str, Entry]:
    """The entries by name.

    Raises:
        FormatError: the file is no such zip: damaged, compressed, encrypted or in several volumes;
            entries share a name or bytes; a name leads out of its folder.
    """
    start, n_bytes, n_entries = _find_directory(file)
    if n_entries > MAX_ENTRIES or n_bytes > min(MAX_DIRECTORY_BYTES, file.size):
        raise FormatError(
            file.path, "zip directory", f"{n_entries} entries in {n_bytes} bytes are too many"
        )
    if start + n_bytes > file.size:
        raise FormatError(file.path, "zip directory", "lies past the end of the file", start)
    directory = Cursor(file.path, file.read(start, n_bytes), n_bytes)
    entries: dict[str, Entry] = {}
    for i in range(n_entries):
        entry = _read_entry(file, directory, f"zip entry [{i}]", start)
        if entry.name in entries:
            raise FormatError(file.path, f"zip entry {entry.name}", "appears twice", entry.offset)
        entries[entry.name] = entry
    _check_extents(file, entries)
    return entries


def _find_directory(file: Bytes) -> tuple[int, int, int]:
    """Where the central directory starts, its size, and how many entries it has."""

    def refuse(what: str, offset: int | None = None) -> FormatError:
        return FormatError(file.path, "zip end record", what, offset)

    tail_start = max(0, file.size - _END.size - _MAX_COMMENT_BYTES)
    tail = bytes(file.read(tail_start, file.size - tail_start))
    at = tail.rfind(_END_MAGIC)
    if at < 0 or at + _END.size > len(tail):
        raise refuse("is missing: the file is cut short, or no zip file")
    _, disk, first_disk, n_here, n, n_bytes, start, n_comment = _END.unpack_from(tail, at)
    position = tail_start + at
    if position + _END.size + n_comment != file.size:
        raise refuse("is not followed by the end of the file", position)
    if at >= _LOCATOR64.size and tail[at - _LOCATOR64.size :][:4] == _LOCATOR64_MAGIC:
        _, _, position, n_disks = _LOCATOR64.unpack_from(tail, at - _LOCATOR64.size)
        if position + _END64.size > file.size:
            raise refuse("zip64: lies past the end of the file", position)
        fields = _END64.unpack(file.read(position, _END64.size))
        magic, _, _, _, disk, first_disk, n_here, n, n_bytes, start = fields
        if magic != _END64_MAGIC or n_disks > 1:
            raise refuse("zip64: is malformed", position)
    if disk or first_disk or n_here != n:
        raise refuse("the archive has several volumes", position)
    return start, n_bytes, n


def _read_entry(file: Bytes, directory: Cursor, field: str, directory_start: int) -> Entry:
    position = directory_start + directory.pos
    fields = _CENTRAL.unpack(directory.take(_CENTRAL.size, field))
    magic, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment = fields[:13]
    local = fields[16]
    name = _text(file, directory.take(n_name, field), field, position)
    extra = directory.take(n_extra, field)
    directory.take(n_comment, field)

    def refuse(what: str) -> FormatError:
        return FormatError(file.path, f"zip entry {name or field}", what, position)

    if magic != _CENTRAL_MAGIC:
        raise refuse("is no directory record")
    if not _is_inside(name):
        raise refuse("its name leads out of the archive")
    if method != _STORED or flags & ~_ALLOWED_FLAGS:
        raise refuse("is compressed or encrypted; only stored entries are read")
    wide = _read_zip64_extra(extra)
    try:
        size, packed, local = (
            next(wide) if value == _IN_ZIP64_EXTRA else value for value in (size, packed, local)
        )
    except (StopIteration, RuntimeError):
        raise refuse("lacks its zip64 sizes") from None
    if size != packed:
        raise refuse(f"claims {size} bytes of {packed} stored ones")
    if local + _LOCAL.size > file.size:
        raise refuse("its header lies past the end of the file")
    header = _LOCAL.unpack(file.read(local, _LOCAL.size))
    local_name = file.read(local + _LOCAL.size, header[9])
    if header[0] != MAGIC or header[3] != method or bytes(local_name) != name.encode():
        raise refuse("its header disagrees with the directory")
    return Entry(name, local + _LOCAL.size + header[9] + header[10], size, crc)


def _text(file: Bytes, raw: memoryview, field: str, position: int) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise FormatError(file.path, field, "its name is not UTF-8", position) from None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(name)
        and not path.is_absolute()
        and ".." not in path.parts
        and not set(name) & set("\\:\0")
    )


def _read_zip64_extra(extra: memoryview) -> Iterator[int]:
    """The 64-bit values of the zip64 record, if there is one."""
    while len(extra) >= 4:
        kind, n_bytes = struct.unpack_from("<2H", extra)
        body, extra = extra[4 : 4 + n_bytes], extra[4 + n_bytes :]
        if kind == _ZIP64_EXTRA:
            yield from (value for (value,) in struct.iter_unpack("<Q", body[: n_bytes // 8 * 8]))


def _check_extents(file: Bytes, entries: dict[str, Entry]) -> None:
    """Entries lie inside the file, and none shares bytes with another."""
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.n_bytes)):
        field = f"zip entry {entry.name}"
        if entry.offset + entry.n_bytes > file.size:
            raise FormatError(file.path, field, "its bytes end past the file", entry.offset)
        if entry.offset < end:
            raise FormatError(file.path, field, "overlaps the entry before it", entry.offset)
        end = entry.offset + entry.n_bytes
