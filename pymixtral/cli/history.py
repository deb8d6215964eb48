"""Editing of input lines, and those of earlier chats for the arrow keys.

They are kept in the user's state folder (XDG Base Directory Specification), where nobody else can
read them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MAX_LINES = 1000


def history_file() -> Path:
    """$XDG_STATE_HOME/pymixtral/chat_history, or in ~/.local/state where that is not set."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path("~/.local/state").expanduser()
    return folder / "pymixtral" / "chat_history"


class History:
    """Has `input` edit lines, if this Python can, and recall those in `path`.

    A file that cannot be read or written is no reason not to chat: it is done without.

    Args:
        path: the file; None keeps the lines of this chat alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        try:
            import readline  # input() uses it once it is imported
        except ImportError:
            return
        readline.parse_and_bind("set enable-bracketed-paste on")  # a pasted text is one line
        for line in self._read():
            readline.add_history(line)

    def add(self, line: str) -> None:
        """Note a line for later chats; `input` has noted it for this one."""
        if self._path is not None and line.strip():
            with suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._write(self._path, os.O_APPEND, [line])

    def _read(self) -> list[str]:
        """The last lines. A file that has grown to twice their number is cut to them."""
        lines: list[str] = []
        if self._path is not None:
            with suppress(OSError):
                lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
                if len(lines) > 2 * MAX_LINES:
                    self._write(self._path, os.O_TRUNC, lines[-MAX_LINES:])
        return lines[-MAX_LINES:]

    def _write(self, path: Path, flag: int, lines: list[str]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
            os.fchmod(descriptor, 0o600)  # it may be there with another mode
            file.write("".join(f"{line}\n" for line in lines))
