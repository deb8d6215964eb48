"""Several files that are the pieces of one: ``model.pth-split0``, ``model.pth-split1``, ..."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

from .errors import FormatError
from .mapping import FileView

_PIECE = re.compile(r"(?P<whole>.+)-split(?P<number>0|[1-9][0-9]{0,3})")


class JoinedView:
    """Read-only bytes of files put one after another; the interface of `FileView`.

    Raises:
        FormatError: a piece is empty, or not a regular file.
        OSError: a piece cannot be opened.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.path = paths[0]
        self._pieces: list[FileView] = []
        with ExitStack() as stack:
            for path in paths:
                self._pieces.append(FileView(path))
                stack.callback(self._pieces[-1].close)
            self._close = stack.pop_all().close
        self._starts = [0, *accumulate(piece.size for piece in self._pieces)]
        self.size = self._starts[-1]

    def read(self, start: int, n_bytes: int) -> memoryview:
        """A part of the whole: a view of the map, or a copy where it lies in several pieces."""
        parts = [
            piece.read(first, n) for piece, first, n in self._cut(start, min(n_bytes, self.size))
        ]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def release(self, start: int, n_bytes: int) -> None:
        for piece, first, n in self._cut(start, n_bytes):
            piece.release(first, n)

    def close(self) -> None:
        self._close()

    def _cut(self, start: int, n_bytes: int) -> Iterable[tuple[FileView, int, int]]:
        """The pieces that hold these bytes: each with where in it, and how many."""
        end = min(start + n_bytes, self.size)
        while start < end:
            i = bisect_right(self._starts, start) - 1
            n = min(end, self._starts[i + 1]) - start
            yield self._pieces[i], start - self._starts[i], n
            start += n


def group_splits(paths: Iterable[Path]) -> list[list[Path]]:
    """`paths`, where the pieces of a file are one group, in their order.

    Raises:
        FormatError: a piece is missing.
    """
    groups: dict[Path, dict[int, Path]] = {}
    for path in paths:
        match = _PIECE.fullmatch(path.name)
        whole = path.with_name(match["whole"]) if match else path
        groups.setdefault(whole, {})[int(match["number"]) if match else 0] = path
    for whole, pieces in groups.items():
        missing = set(range(max(pieces) + 1)) - set(pieces)
        if missing:
            raise FormatError(whole, "byte splits", f"{whole.name}-split{min(missing)} is missing")
    return [[pieces[i] for i in sorted(pieces)] for _, pieces in sorted(groups.items())]
