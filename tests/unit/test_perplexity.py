"""Perplexity against a plain restatement of its definition, and against llama.cpp's figures."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import pytest

from pymixtral import LLM, Phase
from pymixtral import perplexity as module
from pymixtral.errors import EngineError, ParameterError
from pymixtral.perplexity import perplexity

DATA = Path(__file__).parents[1] / "data"
TEXT = (DATA / "tinystories_60k.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as llm:
        yield llm


def plain_perplexity(llm: LLM, text: str, n_ctx: int) -> tuple[float, float, int]:
    """Perplexity, its standard error, and how many tokens were scored: one at a time."""
    ids = [llm.tokenizer.bos_id, *llm.tokenize(text)]
    losses = []
    for start in range(0, len(ids) - n_ctx + 1, n_ctx):
        chunk = [llm.tokenizer.bos_id, *ids[start + 1 : start + n_ctx]]
        logits = llm.logits(chunk).astype(np.float64)
        for position in range(n_ctx // 2 + 1, n_ctx):
            row = logits[position - 1]
            losses.append(log(sum(map(exp, row - row.max()))) - (row[chunk[position]] - row.max()))
    mean = sum(losses) / len(losses)
    variance = sum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)
    return exp(mean), exp(mean) * sqrt(variance / len(losses)), len(losses)


@pytest.mark.parametrize("n_ctx", [8, 33, 64])
def test_is_what_the_definition_says(llm: LLM, n_ctx: int) -> None:
    text = TEXT[:700]
    result = perplexity(llm, text, n_ctx)
    expected = plain_perplexity(llm, text, n_ctx)
    assert (result.perplexity, result.stderr) == pytest.approx(expected[:2], rel=1e-6)
    assert result.n_tokens == expected[2]


def test_rows_of_logits_are_taken_in_pieces(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = perplexity(llm, TEXT[:2000], 128)
    monkeypatch.setattr(module, "MAX_LOGIT_ROWS", 10)
    assert perplexity(llm, TEXT[:2000], 128) == whole


def test_progress(llm: LLM) -> None:
    calls: list[tuple[int, int]] = []
    perplexity(llm, TEXT[:1000], 64, progress=lambda *call: calls.append(call))
    n_chunks = len(llm.tokenize(TEXT[:1000], add_bos=True)) // 64
    assert calls == [(i, n_chunks) for i in range(1, n_chunks + 1)]


def test_short_text(llm: LLM) -> None:
    n_tokens = len(llm.tokenize("Once upon a time", add_bos=True))
    with pytest.raises(ParameterError, match=f"has {n_tokens} tokens, and .* takes 64"):
        perplexity(llm, "Once upon a time", 64)


@pytest.mark.parametrize("n_ctx", [7, 513])
def test_context_out_of_range(llm: LLM, n_ctx: int) -> None:
    with pytest.raises(ParameterError, match=f"n_ctx must be 8 to 512, not {n_ctx}"):
        perplexity(llm, TEXT, n_ctx)


def test_logits_that_are_no_numbers() -> None:
    with pytest.raises(EngineError, match="no finite numbers"):
        module._losses(np.array([[0, np.nan]], np.float32), np.array([0], np.int32))


@pytest.mark.parametrize("phase", Phase)
def test_storyteller_against_llama_cpp(llm: LLM, phase: Phase) -> None:
    assert perplexity(llm, TEXT, 256, phase).perplexity == pytest.approx(12.091, rel=0.003)
