"""The one error that a model file can cause."""

from __future__ import annotations

import os

_MAX_SHOWN = 160  # characters of a name taken from a file that an error line repeats


class FormatError(ValueError):
    """A file that is malformed, or that asks for something we refuse.

    Its text is one line, ``file: field: what (offset N)``, whatever bytes the file holds.

    Attributes:
        file: path of the file, as given by the caller.
        field: the field at fault, in the words of the format's specification.
        what: what is wrong, and what to do where there is something to do.
        offset: position of the field in bytes from the start of the file; None where the
            format is not addressed by bytes (JSON).
    """

    def __init__(
        self, file: str | os.PathLike[str], field: str, what: str, offset: int | None = None
    ) -> None:
        super().__init__(file, field, what, offset)
        self.file = os.fspath(file)
        self.field = field
        self.what = what
        self.offset = offset

    def __str__(self) -> str:
        where = "" if self.offset is None else f" (offset {self.offset})"
        return f"{one_line(self.file)}: {one_line(self.field)}: {one_line(self.what)}{where}"


def one_line(text: str) -> str:
    """`text` with control characters and stray bytes escaped, shortened if it is very long."""
    if len(text) > 2 * _MAX_SHOWN:
        text = f"{text[:_MAX_SHOWN]}...{text[-_MAX_SHOWN:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
