"""Every seed, and every finding that was mended, is read as the fuzzer reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.targets import TARGETS, run

FILES = sorted((Path(__file__).parent / "corpus").glob("*/*"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_input(path: Path) -> None:
    run(TARGETS[path.parent.name], path.read_bytes())


def test_every_target_has_seeds() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
