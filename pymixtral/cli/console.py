"""What goes where: the answer to stdout, everything about it to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from pymixtral.formats.errors import one_line

Progress = Callable[[int, int], None]

# A model may generate any byte; on a terminal, an escape sequence could do more than be shown.
_CONTROL_CHARACTERS = {c: "\ufffd" for c in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROL_CHARACTERS.pop(ord("\n"))
_CONTROL_CHARACTERS.pop(ord("\t"))

_ERASE_LINE = "\r\x1b[K"
_BAR_WIDTH = 30
_REDRAW_SECONDS = 0.1


class Console:
    """The two output streams.

    Attributes:
        quiet: say nothing about the answer.
        debug: show tracebacks.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.debug = False
        self._last_piece = "\n"

    # ---- stdout ----

    def answer(self, piece: str) -> None:
        """Show a piece of the answer at once."""
        if sys.stdout.isatty():
            piece = piece.translate(_CONTROL_CHARACTERS)
        sys.stdout.write(piece)
        sys.stdout.flush()
        self._last_piece = piece or self._last_piece

    def end_line(self) -> None:
        """Begin a new line of the answer, unless it is at one."""
        if not self._last_piece.endswith("\n"):
            self.answer("\n")

    def end_terminal_line(self) -> None:
        """Like `end_line`, but only on a terminal, where what comes next would be glued on."""
        if sys.stdout.isatty():
            self.end_line()

    def json(self, value: Any) -> None:
        """Write one JSON document, in a line."""
        self._overwrite("")  # on a terminal, progress may stand there
        self.answer(json.dumps(value, allow_nan=False) + "\n")

    # ---- stderr ----

    def note(self, text: str) -> None:
        """Say something about the answer."""
        if not self.quiet:
            self._say(one_line(text))

    def warning(self, text: str) -> None:
        """Say what was assumed or repaired."""
        self.note(f"warning: {text}")

    def error(self, text: str) -> None:
        """Say what went wrong; `quiet` does not silence it."""
        self._say(f"error: {one_line(' '.join(text.split()))}")

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Shows `text` on the terminal until the context ends."""
        self._overwrite(f"{text} ...")
        try:
            yield
        finally:
            self._overwrite("")

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """Yields a function to be called with how many are done, and how many there are."""
        start = time.perf_counter()

        def show(n_done: int, n_all: int) -> None:
            left = (time.perf_counter() - start) / n_done * (n_all - n_done)
            self._overwrite(f"{what} {n_done} of {n_all}, {left:.0f} s left")

        self._overwrite(f"{what} 1 ...")
        try:
            yield show
        finally:
            self._overwrite("")

    @contextmanager
    def byte_progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """Yields a function to be called with what is at work, and bytes done and in all."""
        start: tuple[float, int] | None = None
        last = 0.0

        def show(what: str, n_done: int, n_all: int) -> None:
            nonlocal start, last
            now = time.perf_counter()
            if start is None:
                start = (now, n_done)
            elif now - last >= _REDRAW_SECONDS or n_done == n_all:
                last = now
                rate = max((n_done - start[1]) / (now - start[0]), 1.0)
                n_full = _BAR_WIDTH * n_done // max(n_all, 1)
                bar = "#" * n_full + "." * (_BAR_WIDTH - n_full)
                left = (n_all - n_done) / rate
                self._overwrite(
                    f"[{bar}] {n_done / n_all:4.0%} {rate / 1e6:.0f} MB/s, {left:.0f} s left  "
                    f"{one_line(what)}"
                )

        try:
            yield show
        finally:
            self._overwrite("")

    def _say(self, line: str) -> None:
        self.end_terminal_line()
        self._overwrite("")
        click.echo(line, err=True)

    def _overwrite(self, text: str) -> None:
        """On a terminal, show `text` in place of the last that was shown this way."""
        if sys.stderr.isatty() and not self.quiet:
            click.echo(_ERASE_LINE + text, nl=False, err=True)


def human_rate(value: float) -> str:
    """512.34 as "512.3", 1034.2 as "1034"."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
