"""Several files that are the pieces of one, cut at any byte.

They are named in one of three ways: ``model.pth-split0``, ``model.gguf-split-a``,
``model.gguf.part1of2``, each followed by the next number or letter.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from .errors import FormatError
from .mapping import FileView

_ALIGNMENT = 4  # bytes: of every element of every tensor type, and of the maps' starts


@dataclass(frozen=True, slots=True)
class _Scheme:
    """A way to name pieces.

    Attributes:
        pattern: with the groups whole, mark (of the piece) and perhaps count (of all).
        marks: of all pieces, in their order.
        name: made of these groups.
    """

    pattern: re.Pattern[str]
    marks: tuple[str, ...]
    name: str


_SCHEMES = (
    _Scheme(
        re.compile(r"(?P<whole>.+)-split(?P<mark>0|[1-9][0-9]{0,3})"),
        tuple(map(str, range(10_000))),
        "{whole}-split{mark}",
    ),
    _Scheme(
        re.compile(r"(?P<whole>.+)-split-(?P<mark>[a-z])"),
        tuple("abcdefghijklmnopqrstuvwxyz"),
        "{whole}-split-{mark}",
    ),
    _Scheme(
        re.compile(r"(?P<whole>.+)\.part(?P<mark>[1-9][0-9]{0,3})of(?P<count>[1-9][0-9]{0,3})"),
        tuple(map(str, range(1, 10_000))),
        "{whole}.part{mark}of{count}",
    ),
)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What a file's name says: it is piece `index` of the file `whole`."""

    whole: str
    index: int
    count: int | None  # of all pieces, where the names tell
    scheme: _Scheme

    def sibling(self, index: int) -> str:
        """The name of another piece."""
        mark = self.scheme.marks[index]
        return self.scheme.name.format(whole=self.whole, mark=mark, count=self.count)


def _parse_piece(name: str) -> _Piece | None:
    for scheme in _SCHEMES:
        match = scheme.pattern.fullmatch(name)
        if match is not None:
            groups = match.groupdict()
            count = int(groups["count"]) if "count" in groups else None
            return _Piece(groups["whole"], scheme.marks.index(groups["mark"]), count, scheme)
    return None


class JoinedView:
    """Read-only bytes of files put one after another; the interface of `FileView`.

    Raises:
        FormatError: a piece is empty, or not a regular file.
        OSError: a piece cannot be opened.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.path = paths[0]
        self.paths = tuple(paths)
        self._pieces: list[FileView] = []
        with ExitStack() as stack:
            for path in paths:
                self._pieces.append(FileView(path))
                stack.callback(self._pieces[-1].close)
            self._close = stack.pop_all().close
        self._starts = [0, *accumulate(piece.size for piece in self._pieces)]
        self.size = self._starts[-1]

    def load(self) -> None:
        """Replace the maps by copies in RAM, as `FileView.load` does."""
        for piece in self._pieces:
            piece.load()

    def read(self, start: int, n_bytes: int) -> memoryview:
        """A part of the whole: a view of the map, or a copy where that is none.

        Pieces are mapped one by one, so a part that lies in several is copied. So is one that a cut
        at an odd place has misaligned, since the engine reads numbers in place. Files are cut at
        round numbers of bytes, so that only the tensors that cross a cut take memory.
        """
        parts = [
            piece.read(first, n) for piece, first, n in self._cut(start, min(n_bytes, self.size))
        ]
        if len(parts) == 1 and self._is_aligned_as_in_the_whole(start):
            return parts[0]
        return memoryview(b"".join(parts))

    def release(self, start: int, n_bytes: int) -> None:
        for piece, first, n in self._cut(start, n_bytes):
            piece.release(first, n)

    def close(self) -> None:
        self._close()

    def _is_aligned_as_in_the_whole(self, offset: int) -> bool:
        start_of_piece = self._starts[bisect_right(self._starts, offset) - 1]
        return start_of_piece % _ALIGNMENT == 0

    def _cut(self, start: int, n_bytes: int) -> Iterable[tuple[FileView, int, int]]:
        """The pieces that hold these bytes: each with where in it, and how many."""
        end = min(start + n_bytes, self.size)
        while start < end:
            i = bisect_right(self._starts, start) - 1
            n = min(end, self._starts[i + 1]) - start
            yield self._pieces[i], start - self._starts[i], n
            start += n


def open_view(path: Path) -> FileView | JoinedView:
    """The file at `path`; if its name says that it is the first piece of one, that of all pieces.

    Raises:
        FormatError: it is a later piece, or a piece is missing, empty or not a regular file.
        OSError: a file cannot be opened.
    """
    piece = _parse_piece(path.name)
    if piece is not None and piece.index:
        what = f"is a later piece of {piece.whole}; name the first, {piece.sibling(0)}"
        raise FormatError(path, "byte splits", what)
    if piece is None or not path.exists():
        return FileView(path)
    (pieces,) = group_splits(find_pieces(path))
    return JoinedView(pieces) if len(pieces) > 1 else FileView(path)


def find_pieces(path: Path) -> list[Path]:
    """The files of the folder that are pieces of the same file as `path`, in any order."""
    if _parse_piece(path.name) is None:
        return [path]
    first = _first_piece(path)
    return [other for other in path.parent.iterdir() if _first_piece(other) == first]


def group_splits(paths: Iterable[Path]) -> list[list[Path]]:
    """`paths`, where the pieces of a file are one group, in their order.

    Raises:
        FormatError: a piece is missing.
    """
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(_first_piece(path), []).append(path)
    return [_in_order(first, group) for first, group in sorted(groups.items())]


def _first_piece(path: Path) -> Path:
    """The first piece of the file that `path` is a piece of: itself, if it is a whole file."""
    piece = _parse_piece(path.name)
    return path if piece is None else path.with_name(piece.sibling(0))


def _in_order(first: Path, group: list[Path]) -> list[Path]:
    pieces = {piece.index: path for path in group if (piece := _parse_piece(path.name))}
    some = _parse_piece(first.name)
    if some is None:
        return group
    count = some.count or max(pieces) + 1
    for index in range(count):
        if index not in pieces:
            raise FormatError(first, "byte splits", f"{some.sibling(index)} is missing")
    if len(pieces) > count:
        what = f"{pieces[max(pieces)].name} is one more than the names say"
        raise FormatError(first, "byte splits", what)
    return [pieces[index] for index in range(count)]
