"""Reading numbers and flags from a JSON file, refusing by name what is malformed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .errors import FormatError
from .safetensors import read_json_file

MAX_CONFIG_BYTES = 1 << 20


class JsonConfig:
    """The object in a JSON file, or one inside it, and what was assumed while reading it.

    Attributes:
        values: the object.
        warnings: texts for the user; whoever reads the config adds to them.

    Raises (all methods):
        FormatError: a value is not of the kind asked for.
    """

    def __init__(self, path: Path, values: dict[str, Any] | None = None) -> None:
        self.path = path
        self.values = read_json_file(path, MAX_CONFIG_BYTES) if values is None else values
        self.warnings: list[str] = []

    def error(self, key: str, what: str) -> FormatError:
        return FormatError(self.path, key, what)

    def warn(self, what: str) -> None:
        self.warnings.append(f"{self.path.name}: {what}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A number of 1 or more; `default` where it is absent or null."""
        found = self.values.get(key)
        if found is None and default is not None:
            return default
        if type(found) is not int or not 1 <= found < 2**31:
            raise self.error(key, f"is {found!r}, must be a number of 1 or more")
        return found

    def flag(self, key: str) -> bool:
        found = self.values.get(key, False)
        if not isinstance(found, bool):
            raise self.error(key, f"is {found!r}, must be true or false")
        return found

    def positive(self, key: str) -> float:
        return self.checked_positive(key, self.values.get(key))

    def section(self, key: str) -> dict[str, Any]:
        """An object; an empty one where it is absent or null."""
        found = self.values.get(key) or {}
        if not isinstance(found, dict):
            raise self.error(key, f"is {found!r}, must be an object")
        return found

    def checked_positive(self, key: str, found: object) -> float:
        if type(found) not in (int, float) or not 0 < found < math.inf:  # type: ignore[operator]
            raise self.error(key, f"is {found!r}, must be a finite number above 0")
        return float(found)  # type: ignore[arg-type]
