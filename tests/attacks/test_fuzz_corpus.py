"""The fuzzers' targets on their seeds, and on what they once found."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
SEEDS = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_corpus(path: Path) -> None:
    """Seeds are good; a name that begins with "bad-" is a file that is refused."""
    if path.parent.name == "tokenizer" and path.name != "sentencepiece":
        pytest.importorskip("tokenizers", reason="needs pip install 'pymixtral[bpe]'")
    assert TARGETS[path.parent.name](path.read_bytes()) != path.name.startswith("bad-")


def test_every_target_has_seeds() -> None:
    assert {path.parent.name for path in SEEDS} == set(TARGETS)
