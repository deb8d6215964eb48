"""Text that a command is given: as an argument, on stdin, in a file."""

from __future__ import annotations

import sys
from pathlib import Path

from pymixtral.errors import PymixtralError

STDIN = "-"


def read_argument(argument: str) -> str:
    """The argument itself, or for "-" all of stdin, less one newline at its end."""
    if argument != STDIN:
        return argument
    return _decoded(sys.stdin.buffer.read(), "stdin").removesuffix("\n")


def read_file(path: str) -> str:
    """A text file, or for "-" all of stdin.

    Raises:
        PymixtralError: it is not UTF-8.
        OSError: it cannot be read.
    """
    if path == STDIN:
        return _decoded(sys.stdin.buffer.read(), "stdin")
    return _decoded(Path(path).read_bytes(), path)


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PymixtralError(f"{where}: is not UTF-8 at byte {error.start}; convert it") from None
