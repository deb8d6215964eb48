"""A whole file as one read-only view, memory-mapped or held in RAM."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from pathlib import Path

import numpy as np

from .errors import FormatError

_RAM_ALIGNMENT = 64  # bytes: a cache line, as a page-aligned map gives


class FileView:
    """Read-only bytes of the file at `path`, mapped until `load()` copies them.

    `view` covers exactly the `size` bytes that fstat reported when the file was opened; `owner` is
    the user whose file it is, by number.

    Raises:
        OSError: the file cannot be opened.
        FormatError: it is not a regular file, or is empty.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.paths = (self.path,)
        # Asked before opening: to open a FIFO would wait for a writer.
        if not stat.S_ISREG(os.stat(self.path).st_mode):
            raise FormatError(self.path, "file", "not a regular file")
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - close() closes it
        try:
            status = os.fstat(self._file.fileno())
            self.size, self.owner = status.st_size, status.st_uid
            if self.size == 0:
                raise FormatError(self.path, "file", "the file is empty", 0)
            self._map: mmap.mmap | None = mmap.mmap(
                self._file.fileno(), self.size, access=mmap.ACCESS_READ
            )
        except BaseException:
            self._file.close()
            raise
        self.view = memoryview(self._map)

    def load(self) -> None:
        """Replace the map by a copy in RAM, which a later change of the file cannot reach."""
        buffer = np.empty(self.size + _RAM_ALIGNMENT, np.uint8)
        start = -buffer.ctypes.data % _RAM_ALIGNMENT
        copy = buffer.data[start : start + self.size]
        self._file.seek(0)
        done = 0
        while done < self.size:
            n_read = self._file.readinto(copy[done:])
            if not n_read:
                raise FormatError(
                    self.path, "file", f"shrank from {self.size} bytes while being read", done
                )
            done += n_read
        self._unmap()
        self.view = copy.toreadonly()

    def read(self, start: int, n_bytes: int) -> memoryview:
        """A part of the file, as a view of the map."""
        return self.view[start : start + n_bytes]

    def release(self, start: int, n_bytes: int) -> None:
        """Let go of mapped pages that are not needed again soon; reading them anew works."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            first = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, first, start + n_bytes - first)

    def close(self) -> None:
        """Give the file back. Views handed out stay valid: the last of them ends the map."""
        self._unmap()
        self._file.close()

    def _unmap(self) -> None:
        self.view = memoryview(b"")
        if self._map is not None:
            with contextlib.suppress(BufferError):  # views are still held
                self._map.close()
            self._map = None
