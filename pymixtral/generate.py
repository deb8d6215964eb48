"""The generation loop: evaluate, sample, detokenize, stop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pymixtral.engine import Logits, Phase, Session
from pymixtral.errors import ContextError, ParameterError
from pymixtral.sampling import Sampled, Sampler, SamplingParams, StopMatcher
from pymixtral.tokenizer import Detokenizer, Tokenizer

FinishReason = Literal["stop", "length"]


class Timeline:
    """A session that remembers its ids, so that a later request can go on from a common prefix.

    Args:
        session: an empty session.
        reproducible: keep, for later requests, only what was evaluated as a prompt. Keys and
            values of generated tokens differ from those in their last bits, because the phases
            have kernels of their own.
    """

    def __init__(self, session: Session, reproducible: bool = False) -> None:
        self.session = session
        self.ids: list[int] = []
        self._reproducible = reproducible
        self._n_exact = 0  # leading positions that a prompt pass would compute the same

    def common_prefix(self, ids: Sequence[int]) -> int:
        """Positions of this timeline that a request for `ids` can keep.

        One id at least is left to evaluate, for its logits.
        """
        limit = min(self._n_exact if self._reproducible else len(self.ids), len(ids) - 1)
        n = 0
        while n < limit and self.ids[n] == ids[n]:
            n += 1
        return n

    def rewind(self, n: int) -> None:
        """Forget the positions from `n` on."""
        self.session.truncate(n)
        del self.ids[n:]
        self._n_exact = min(self._n_exact, n)

    def eval(self, ids: Sequence[int], phase: Phase, n_logits: int = 1) -> Logits:
        """Append ids; the logits after each of the last `n_logits`."""
        logits = self.session.eval(ids, phase, n_logits)
        if phase is Phase.PROMPT and self._n_exact == len(self.ids):
            self._n_exact += len(ids)
        self.ids += ids
        return logits


def check_prompt(n_prompt: int, n_ctx: int) -> None:
    """Refuses a prompt that leaves no room for an answer.

    Raises:
        ContextError: with the numbers.
        ParameterError: the prompt is empty.
    """
    if n_prompt == 0:
        raise ParameterError("the prompt is empty: it has no token to go on from")
    if n_prompt >= n_ctx:
        raise ContextError(
            f"the prompt has {n_prompt} tokens, and the context of {n_ctx} must hold it and at "
            "least one more; shorten the prompt, or raise n_ctx (--ctx)"
        )


class Generation:
    """One answer in the making; `pieces` drives it, the attributes tell how far it is.

    Args:
        prompt_ids: ids to continue.
        params: how to sample, and where to stop.
        tokenizer: the model's.
        n_ctx: positions that the prompt and the answer may fill together.
        strip_leading_space: drop the space that a chat answer begins with.

    Attributes:
        params: as given.
        token_ids: generated ids, without the one that ended the answer (EOS or of `stop_ids`);
            those of a stop text are included.
        sampled: the choice of each of `token_ids`, with its logprobs where asked for.
        text: the pieces so far.
        finish_reason: "stop" (EOS, a stop id or a stop text), "length" (max_tokens is reached, or
            the context full), None while it runs.
        n_cached: prompt tokens that did not have to be evaluated.
        history: ids of the prompt and of the answer so far.
        prompt_seconds, generation_seconds: time spent in evaluation and sampling.

    Raises:
        ContextError: the prompt does not fit the context.
        ParameterError: a parameter does not fit the vocabulary.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        tokenizer: Tokenizer,
        n_ctx: int,
        *,
        strip_leading_space: bool = False,
    ) -> None:
        check_prompt(len(prompt_ids), n_ctx)
        self.params = params
        self.n_prompt = len(prompt_ids)
        self.n_cached = 0
        self.token_ids: list[int] = []
        self.sampled: list[Sampled] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.prompt_seconds = 0.0
        self.generation_seconds = 0.0
        self.history = list(prompt_ids)
        self._max_tokens = min(params.max_tokens or n_ctx, n_ctx - self.n_prompt)
        self._sampler = Sampler(params, tokenizer.n_vocab)
        self._detokenizer = Detokenizer(tokenizer, strip_leading_space)
        self._matcher = StopMatcher(params.stop)
        self._stop_ids = {tokenizer.eos_id, *params.stop_ids}

    def pieces(self, timeline: Timeline) -> Iterator[str]:
        """Generates, piece by piece: whole characters, never empty, no part of a stop text.

        Args:
            timeline: where to evaluate; what it has in common with the prompt is kept.
        """
        logits = self._read_prompt(timeline)
        while True:
            if piece := self.advance(logits[0]):
                yield piece
            if self.finish_reason is not None:
                return
            logits = self._read_token(timeline, self.token_ids[-1])

    def advance(self, logits: NDArray[np.float32]) -> str:
        """Choose the next token.

        Args:
            logits: (n_vocab,), those after `history`.

        Returns: the text that it completes, and, if it ends the answer, what was held back.
        """
        start = time.perf_counter()
        sampled = self._sampler.sample(logits, self.history)
        self.generation_seconds += time.perf_counter() - start
        if sampled.id in self._stop_ids:
            self.finish_reason = "stop"
            piece = ""
        else:
            piece = self._accept(sampled)
        if self.finish_reason is not None:
            piece += self._matched(self._detokenizer.flush()) + self._matcher.flush()
        self.text += piece
        return piece

    @property
    def sampler_state(self) -> int:
        """The seed with which another answer's random stream goes on from here."""
        return self._sampler.state()

    def _read_prompt(self, timeline: Timeline) -> Logits:
        start = time.perf_counter()
        self.n_cached = timeline.common_prefix(self.history)
        timeline.rewind(self.n_cached)
        logits = timeline.eval(self.history[self.n_cached :], Phase.PROMPT)
        self.prompt_seconds = time.perf_counter() - start
        return logits

    def _read_token(self, timeline: Timeline, token_id: int) -> Logits:
        start = time.perf_counter()
        logits = timeline.eval([token_id], Phase.GENERATED)
        self.generation_seconds += time.perf_counter() - start
        return logits

    def _accept(self, sampled: Sampled) -> str:
        self.token_ids.append(sampled.id)
        self.sampled.append(sampled)
        self.history.append(sampled.id)
        if len(self.token_ids) >= self._max_tokens:
            self.finish_reason = "length"
        return self._matched(self._detokenizer.push(sampled.id))

    def _matched(self, text: str) -> str:
        """What the stop texts let through; a stop text overrules the length."""
        text, stopped = self._matcher.push(text)
        if stopped:
            self.finish_reason = "stop"
        return text
