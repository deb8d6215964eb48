"""Perplexity of a text, as llama.cpp's `perplexity` tool defines it.

The text is encoded with BOS and cut into chunks of n_ctx tokens, of which the last is dropped if it
is not whole. Each chunk is evaluated on its own, with its first token replaced by BOS. Its first
half is context; scored are the tokens n_ctx / 2 + 1 to n_ctx - 1. Figures are comparable only
between equal texts, vocabularies and n_ctx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pymixtral.engine import Logits, Phase, Session
from pymixtral.errors import EngineError, ParameterError
from pymixtral.llm import LLM

MIN_CTX = 8
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
    if not MIN_CTX <= n_ctx <= llm.n_ctx:
        raise ParameterError(f"n_ctx must be {MIN_CTX} to {llm.n_ctx}, not {n_ctx}")
    chunks = _chunks(llm.tokenize(text, add_bos=True), n_ctx)
    losses: list[Floats] = []
    session = llm.new_session(n_ctx)
    try:
        for n_done, chunk in enumerate(chunks, start=1):
            session.truncate(0)
            losses += _chunk_losses(session, chunk, phase)
            if progress is not None:
                progress(n_done, len(chunks))
    finally:
        session.close()
    return _summary(np.concatenate(losses))


def _chunks(ids: Sequence[int], n_ctx: int) -> list[NDArray[np.int32]]:
    """The whole chunks of `ids`, which begin with BOS, each beginning with BOS itself."""
    n_chunks = len(ids) // n_ctx
    if n_chunks == 0:
        raise ParameterError(
            f"the text has {len(ids)} tokens, and one chunk of context takes {n_ctx}; use a "
            "longer text or a smaller context"
        )
    chunks = np.array(ids[: n_chunks * n_ctx], dtype=np.int32).reshape(n_chunks, n_ctx)
    chunks[:, 0] = ids[0]
    return list(chunks)


def _chunk_losses(session: Session, chunk: NDArray[np.int32], phase: Phase) -> Iterator[Floats]:
    """Losses of the chunk's scored tokens, a few rows of logits at a time."""
    inputs, targets = chunk[:-1], chunk[1:]
    first_scored = len(chunk) // 2
    session.eval(inputs[:first_scored], phase, n_logits=0)
    for start in range(first_scored, len(inputs), MAX_LOGIT_ROWS):
        rows = slice(start, start + MAX_LOGIT_ROWS)
        n_rows = len(inputs[rows])
        yield _losses(session.eval(inputs[rows], phase, n_logits=n_rows), targets[rows])


def _losses(logits: Logits, targets: NDArray[np.int32]) -> Floats:
    """Negative log-likelihoods (n,) of `targets` (n,) under `logits` (n, n_vocab)."""
    exact = logits.astype(np.float64)
    peak = exact.max(axis=1)
    log_sum = peak + np.log(np.exp(exact - peak[:, None]).sum(axis=1))
    losses: Floats = log_sum - exact[np.arange(len(targets)), targets]
    if not np.isfinite(losses).all():
        raise EngineError("the model gave logits that are no finite numbers; the file is damaged")
    return losses


def _summary(losses: Floats) -> Perplexity:
    result = math.exp(losses.mean())
    stderr_of_mean = float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return Perplexity(result, result * stderr_of_mean, len(losses))
