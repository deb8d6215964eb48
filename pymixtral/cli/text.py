"""Text that a command is given: as an argument, on stdin, in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pymixtral.errors import PymixtralError

STDIN = "-"


def split_model(arguments: Sequence[str], what: str, advice: str = "") -> tuple[str | None, str]:
    """The arguments [MODEL] TEXT. A lone model file is a text that was forgotten.

    Args:
        what: the text is called.
        advice: what else one may want to do with the model "{}".
    """
    if len(arguments) == 2:
        return arguments[0], arguments[1]
    if not arguments:
        raise click.UsageError(f"{what.upper()} is missing")
    if len(arguments) > 2:
        raise click.UsageError(f"{len(arguments)} arguments; put quotes around the {what}")
    if arguments[0].endswith(".gguf") or os.path.isfile(arguments[0]):
        raise click.UsageError(
            f"{arguments[0]} is a file, and {what.upper()} is missing{advice.format(arguments[0])}"
        )
    return None, arguments[0]


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
    return _decoded(read_bytes(path), "stdin" if path == STDIN else path)


def read_bytes(path: str) -> bytes:
    """A file, or for "-" all of stdin.

    Raises:
        OSError: it cannot be read.
    """
    return sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PymixtralError(f"{where}: is not UTF-8 at byte {error.start}; convert it") from None
