"""What an answer is: its text and ids, why it ended, what it took."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Self

from pymixtral.chat import ToolCall, parse_tool_calls
from pymixtral.errors import ChatError
from pymixtral.generate import FinishReason, Generation
from pymixtral.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took.

    Attributes:
        prompt_tokens: tokens of the prompt, of which `cached_tokens` were known from an earlier
            request and not evaluated again.
        completion_tokens: tokens generated.
        prompt_seconds, generation_seconds: time spent on either.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt_seconds: float
    generation_seconds: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token's log-probability, and the most likely tokens at its place.

    They are of the model's own distribution, before penalties and temperature.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer.

    Attributes:
        text: without the stop text that ended it, if one did.
        token_ids: without the EOS or stop id that ended it, if one did.
        finish_reason: "stop", or "length" where max_tokens or the context ended it.
        usage: token counts and times.
        logprobs: one entry for each of token_ids, where `SamplingParams.logprobs` asked for them.
        tool_calls: the calls that the answer asks for, else None. Their JSON is in `text`, too, and
            stays there alone where it is malformed or cut short.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    usage: Usage
    logprobs: list[TokenLogprob] | None
    tool_calls: list[ToolCall] | None


class CompletionStream(Iterator[str]):
    """An answer's pieces of text as they come; afterwards `completion` is the whole."""

    def __init__(
        self, generation: Generation, pieces: Generator[str, None, None], tokenizer: Tokenizer
    ) -> None:
        self._generation = generation
        self._pieces = pieces
        self._tokenizer = tokenizer

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End the answer here, and give its session back."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def token_ids(self) -> list[int]:
        """Ids generated so far."""
        return list(self._generation.token_ids)

    @property
    def sampler_state(self) -> int:
        """A seed for the next answer, with which its random stream goes on where this one is."""
        return self._generation.sampler_state

    @property
    def completion(self) -> Completion:
        """The answer so far as one object; `finish_reason` is "length" if it was cut short."""
        return completion_of(self._generation, self._tokenizer)


def completion_of(generation: Generation, tokenizer: Tokenizer) -> Completion:
    """The answer so far; `finish_reason` is "length" if it was cut short."""
    return Completion(
        text=generation.text,
        token_ids=list(generation.token_ids),
        finish_reason=generation.finish_reason or "length",
        usage=Usage(
            prompt_tokens=generation.n_prompt,
            cached_tokens=generation.n_cached,
            completion_tokens=len(generation.token_ids),
            prompt_seconds=generation.prompt_seconds,
            generation_seconds=generation.generation_seconds,
        ),
        logprobs=_logprobs(generation),
        tool_calls=_tool_calls(generation, tokenizer),
    )


def _logprobs(generation: Generation) -> list[TokenLogprob] | None:
    found = [
        TokenLogprob(sampled.id, sampled.logprob, sampled.top_logprobs)
        for sampled in generation.sampled
        if sampled.logprob is not None and sampled.top_logprobs is not None
    ]
    return found if generation.params.logprobs is not None else None


def _tool_calls(generation: Generation, tokenizer: Tokenizer) -> list[ToolCall] | None:
    try:
        return parse_tool_calls(tokenizer, generation.token_ids) or None
    except ChatError:
        return None
