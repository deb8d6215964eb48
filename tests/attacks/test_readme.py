"""Every case of the README has tests, and they exist."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
README = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?P<case>\d+) \| .* \| (?P<tests>.*) \|$", re.MULTILINE)
NAME = re.compile(r"`(?P<path>\w+/\w+\.(?:py|c))(?:::(?P<name>\w+\*?))?`")
DEFINITION = {
    ".py": re.compile(r"^def (test_\w+)", re.MULTILINE),
    ".c": re.compile(r"^static \w+ (check_\w+)\(", re.MULTILINE),
}


def test_every_case_is_listed_with_tests() -> None:
    cases = {int(row["case"]): NAME.findall(row["tests"]) for row in ROW.finditer(README)}
    assert sorted(cases) == list(range(1, 37))
    assert all(cases.values())


@pytest.mark.parametrize(
    ("path", "name"), sorted(set(NAME.findall(README))), ids=lambda part: part or "whole"
)
def test_what_is_named_exists(path: str, name: str) -> None:
    source = (TESTS / path).read_text(encoding="utf-8")
    defined = DEFINITION[Path(path).suffix].findall(source)
    assert any(fnmatchcase(found, name or "*") for found in defined) or (
        not name and "int main(" in source
    )
