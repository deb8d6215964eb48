"""The temporary file beside a target, and how a killed run's is taken over.

Beside ``.NAME.TOKEN.tmp`` lies ``.NAME.TOKEN.tmp.journal``: a line that names the job, and one with
the CRC-32 of each section (a tensor's bytes) that is complete. A section is taken over only if its
bytes have that CRC, so that it does not matter in what order a dying machine wrote its pages. A
lock, which ends with its process, keeps a second run away from a file that is being written.
"""

from __future__ import annotations

import errno
import os
import secrets
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not every system has it: there, two runs at once are not kept apart
    fcntl = None  # type: ignore[assignment]

_READ_BYTES = 16 << 20
_MAX_JOURNAL_BYTES = 16 << 20


class PartialFile:
    """A file that is being written. Used by `GGUFWriter`, which tells it when to do what.

    Args:
        target: the path that the file will be renamed to.
        job: names what is being written; None: nothing can be taken over.
        resume: take over the newest file of the same job, and keep the file on failure.

    Raises:
        OSError: see `check_target`.
    """

    def __init__(self, target: Path, job: str | None, *, resume: bool) -> None:
        check_target(target)
        self.path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        self._target = target
        self._job = job
        self._resume = resume and job is not None
        self._known: list[int] = []  # CRCs of the sections that the file may have
        self._journal: BinaryIO | None = None

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._journal is not None:
            self._journal.close()

    def open(self) -> BinaryIO:
        """Open the file, one that is taken over or a new one."""
        if not (self._resume and self._take_over()):
            self._file: BinaryIO = open(self.path, "xb+")  # noqa: SIM115 - __exit__ closes it
            _lock(self._file)
        return self._file

    def begin(self, header: bytes, spans: Sequence[tuple[int, int]]) -> int:
        """Write the header, or find it there. Returns how many sections are there, too.

        Args:
            spans: offset and size of each section.
        """
        n_good, end = 0, 0
        self._file.seek(0)
        if self._known and self._file.read(len(header)) == header:
            end = len(header)
            for (offset, n_bytes), crc in zip(spans, self._known, strict=False):
                if self._crc(offset, n_bytes) != crc:
                    break
                n_good, end = n_good + 1, offset + n_bytes
        self._file.seek(end)
        self._file.truncate()
        if end == 0:
            self._file.write(header)
        if self._job is not None:
            self._journal = open(_journal_of(self.path), "wb")  # noqa: SIM115
            lines = [self._job, *(f"{crc:08x}" for crc in self._known[:n_good])]
            self._journal.write("".join(f"{line}\n" for line in lines).encode())
            self._journal.flush()
        return n_good

    def note_finished(self, crc: int) -> None:
        """The next section is complete: its bytes have this CRC."""
        if self._journal is not None:
            self._file.flush()
            self._journal.write(f"{crc:08x}\n".encode())
            self._journal.flush()

    def discard(self, *, failed: bool) -> None:
        """Remove what is left after success, or after a failure unless it is to be resumed."""
        if failed and self._resume:
            return
        self.path.unlink(missing_ok=True)
        _journal_of(self.path).unlink(missing_ok=True)

    def _take_over(self) -> bool:
        for path in find_partials(self._target):
            job, crcs = _read_journal(path)
            file = open(path, "rb+")  # noqa: SIM115 - __exit__ closes it
            if job == self._job and _lock(file):
                self._file, self.path, self._known = file, path, crcs
                return True
            file.close()
        return False

    def _crc(self, offset: int, n_bytes: int) -> int | None:
        """None: the file ends before."""
        self._file.seek(offset)
        crc = 0
        while n_bytes:
            data = self._file.read(min(n_bytes, _READ_BYTES))
            if not data:
                return None
            crc = zlib.crc32(data, crc)
            n_bytes -= len(data)
        return crc


def check_target(target: Path) -> None:
    """Raises OSError where a file of that name cannot be: its folder is missing, or it is one."""
    folder = target.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to write to", str(folder))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(target))


def find_partials(target: Path) -> list[Path]:
    """Temporary files of `target` that no process writes any more, the newest first."""
    found = [
        path
        for path in target.parent.iterdir()
        if path.name.startswith(f".{target.name}.") and path.name.endswith(".tmp")
    ]
    return sorted(filter(_is_unlocked, found), key=lambda path: -path.stat().st_mtime_ns)


def _journal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


def _read_journal(path: Path) -> tuple[str, list[int]]:
    """The job, and the CRCs; an unfinished line ends them."""
    try:
        with open(_journal_of(path), "rb") as file:
            lines = file.read(_MAX_JOURNAL_BYTES).split(b"\n")[:-1]
    except FileNotFoundError:
        return "", []
    job = lines[0].decode(errors="replace") if lines else ""
    return job, list(_parse_crcs(lines[1:]))


def _parse_crcs(lines: Sequence[bytes]) -> Iterator[int]:
    for line in lines:
        try:
            yield int(line, 16)
        except ValueError:
            return


def _lock(file: BinaryIO) -> bool:
    """Whether this process has the file for itself now."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_unlocked(path: Path) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return _lock(file)
