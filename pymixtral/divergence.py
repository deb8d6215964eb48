"""How far two models' next-token distributions are from one another on a text.

Scored are the tokens that `perplexity` scores. The Kullback-Leibler divergence of B from A tells
more than the difference of their perplexities, in which errors for the better and for the worse
cancel out (compare llama.cpp's `perplexity --kl-divergence`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pymixtral.chunks import text_chunks
from pymixtral.engine import Logits, Phase
from pymixtral.errors import EngineError, ParameterError
from pymixtral.llm import LLM
from pymixtral.perplexity import Perplexity, scored_logits, summary

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Divergence:
    """What two models make of a text.

    Attributes:
        a, b: their perplexities.
        kl: mean over the scored tokens of sum(p_A * ln(p_A / p_B)), in nats.
        kl_stderr: its standard error.
        kl_max: the largest of a token.
        same_top: share of the scored tokens where both find the same token likeliest.
    """

    a: Perplexity
    b: Perplexity
    kl: float
    kl_stderr: float
    kl_max: float
    same_top: float


def divergence(
    a: LLM, b: LLM, text: str, n_ctx: int = 512, progress: Progress | None = None
) -> Divergence:
    """Evaluate `text` with both models, chunk by chunk.

    Args:
        text: at least `n_ctx` tokens long.
        n_ctx: tokens of a chunk, 8 to the smaller `n_ctx` of the two.
        progress: called after each chunk with the number of chunks done, and of all.

    Raises:
        ParameterError: the vocabularies differ; `n_ctx` is out of its range, or the text too short.
        EngineError: a model gave logits that are no numbers.
    """
    if a.file.vocabulary.tokens != b.file.vocabulary.tokens:
        raise ParameterError("the vocabularies differ, so the models cannot be compared on a text")
    chunks = text_chunks(min(a, b, key=lambda llm: llm.n_ctx), text, n_ctx)
    losses: tuple[list[Floats], list[Floats]] = ([], [])
    kl: list[Floats] = []
    n_same_top = 0
    sessions = [llm.new_session(n_ctx) for llm in (a, b)]
    try:
        for n_done, chunk in enumerate(chunks, start=1):
            both = (scored_logits(session, chunk, Phase.PROMPT) for session in sessions)
            for (logits_a, targets), (logits_b, _) in zip(*both, strict=True):
                log_p, log_q = log_softmax(logits_a), log_softmax(logits_b)
                rows = np.arange(len(targets))
                losses[0].append(-log_p[rows, targets])
                losses[1].append(-log_q[rows, targets])
                kl.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
                n_same_top += int((log_p.argmax(axis=1) == log_q.argmax(axis=1)).sum())
            if progress is not None:
                progress(n_done, len(chunks))
    finally:
        for session in sessions:
            session.close()
    of_tokens = np.concatenate(kl)
    return Divergence(
        a=summary(np.concatenate(losses[0])),
        b=summary(np.concatenate(losses[1])),
        kl=float(of_tokens.mean()),
        kl_stderr=float(of_tokens.std(ddof=1)) / math.sqrt(len(of_tokens)),
        kl_max=float(of_tokens.max()),
        same_top=n_same_top / len(of_tokens),
    )


def log_softmax(logits: Logits) -> Floats:
    """Of each row of (n, n_vocab).

    Raises:
        EngineError: there are logits that are no numbers.
    """
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    if not np.isfinite(exact).all():
        raise EngineError("a model gave logits that are no finite numbers; its file is damaged")
    return exact
