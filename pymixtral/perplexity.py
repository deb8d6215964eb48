"""Perplexity of a text, as llama.cpp's `perplexity` tool defines it.

The text is encoded with BOS and cut into chunks of n_ctx tokens, of which the last is dropped if it
is not whole. Each chunk is evaluated on its own, with its first token replaced by BOS. Its first
half is context; scored are the tokens n_ctx / 2 + 1 to n_ctx - 1. Figures are comparable only
between equal texts, vocabularies and n_ctx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pymixtral.chunks import text_chunks
from pymixtral.engine import Logits, Phase, Session
from pymixtral.errors import EngineError
from pymixtral.llm import LLM

MAX_LOGIT_ROWS = 256  # a row of Mixtral's is 128 kB, and float64 work on it as much again

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How surprised the model is by a text, on average.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the scored tokens.
        stderr: its standard error: that of the mean, carried through exp (delta method).
        n_tokens: how many tokens were scored.
    """

    perplexity: float
    stderr: float
    n_tokens: int


def perplexity(
    llm: LLM,
    text: str,
    n_ctx: int = 512,
    phase: Phase = Phase.PROMPT,
    progress: Progress | None = None,
) -> Perplexity:
    """Measure how well the model predicts `text`.

    Args:
        llm: the model.
        text: at least `n_ctx` tokens long.
        n_ctx: tokens of a chunk, 8 to `llm.n_ctx`.
        phase: which kernels to use; `Phase.GENERATED` are those that generation runs.
        progress: called after each chunk with the number of chunks done, and of all.

    Raises:
        ParameterError: `n_ctx` is out of its range, or the text too short.
        EngineError: the model gave logits that are no numbers.
    """
    chunks = text_chunks(llm, text, n_ctx)
    losses: list[Floats] = []
    session = llm.new_session(n_ctx)
    try:
        for n_done, chunk in enumerate(chunks, start=1):
            losses += (_losses(*scored) for scored in scored_logits(session, chunk, phase))
            if progress is not None:
                progress(n_done, len(chunks))
    finally:
        session.close()
    return summary(np.concatenate(losses))


def scored_logits(
    session: Session, chunk: NDArray[np.int32], phase: Phase
) -> Iterator[tuple[Logits, NDArray[np.int32]]]:
    """Logits (n, n_vocab) for the chunk's scored tokens, and these (n,), a few rows at a time."""
    session.truncate(0)
    inputs, targets = chunk[:-1], chunk[1:]
    first_scored = len(chunk) // 2
    session.eval(inputs[:first_scored], phase, n_logits=0)
    for start in range(first_scored, len(inputs), MAX_LOGIT_ROWS):
        rows = slice(start, start + MAX_LOGIT_ROWS)
        n_rows = len(inputs[rows])
        yield session.eval(inputs[rows], phase, n_logits=n_rows), targets[rows]


def _losses(logits: Logits, targets: NDArray[np.int32]) -> Floats:
    """Negative log-likelihoods (n,) of `targets` (n,) under `logits` (n, n_vocab)."""
    exact = logits.astype(np.float64)
    peak = exact.max(axis=1)
    log_sum = peak + np.log(np.exp(exact - peak[:, None]).sum(axis=1))
    losses: Floats = log_sum - exact[np.arange(len(targets)), targets]
    if not np.isfinite(losses).all():
        raise EngineError("the model gave logits that are no finite numbers; the file is damaged")
    return losses


def summary(losses: Floats) -> Perplexity:
    """Of the negative log-likelihoods (n,)."""
    result = math.exp(losses.mean())
    stderr_of_mean = float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return Perplexity(result, result * stderr_of_mean, len(losses))
