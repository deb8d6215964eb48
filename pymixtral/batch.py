"""Several prompts at a time, decoded together: an evaluation reads the weights once for all.

A token's logits are the same alone or in a batch (docs/decisions/0001), so each answer is the one
that its prompt would get alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from pymixtral.engine import Engine, EvalItem, Logits, Phase, Session
from pymixtral.errors import ParameterError, PymixtralError
from pymixtral.generate import Generation
from pymixtral.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """One of the prompts of `LLM.generate_many`: something to continue, or a conversation.

    Args:
        prompt: a text or ids, as in `LLM.generate`.
        messages, tools: as in `LLM.chat`.
        params: default: those that `generate_many` was given.

    Raises:
        ParameterError: both or neither of `prompt` and `messages` are given, or tools without
            messages.
    """

    prompt: str | Sequence[int] | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    params: SamplingParams | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ParameterError("a request has a prompt or messages, and not both")
        if self.tools and self.messages is None:
            raise ParameterError("tools go with messages, not with a prompt to be continued")


@dataclass(frozen=True, slots=True)
class _Running:
    """A generation in a session that it has for itself."""

    place: int
    generation: Generation
    session: Session

    def advance(self, logits: Logits | PymixtralError) -> PymixtralError | None:
        """Take the next token; returns what went wrong."""
        if isinstance(logits, PymixtralError):
            return logits
        try:
            self.generation.advance(logits[0])
        except PymixtralError as error:
            return error
        return None


def generate_together(
    engine: Engine, sessions: Sequence[Session], begun: Iterable[Generation | PymixtralError]
) -> Iterator[tuple[int, Generation | PymixtralError]]:
    """Runs generations to their ends, as many at a time as there are sessions.

    A generation begins as soon as another's end frees a session.

    Args:
        sessions: empty ones of `engine`, all of one context.
        begun: generations that have not been advanced; errors are handed through.

    Yields:
        A generation's place in `begun`, and itself or its error, in the order in which they end.
    """
    waiting = enumerate(begun)
    idle = list(sessions)
    running: list[_Running] = []
    while (taken := list(islice(waiting, len(idle)))) or running:
        joining = []
        for place, generation in taken:
            if isinstance(generation, PymixtralError):
                yield place, generation
            else:
                joining.append(_Running(place, generation, idle.pop()))
        steps = list(chain(_read_prompts(engine, joining), _read_tokens(engine, running)))
        running = []
        for one, error in steps:
            if error is None and one.generation.finish_reason is None:
                running.append(one)
                continue
            one.session.truncate(0)
            idle.append(one.session)
            yield one.place, error or one.generation


Step = tuple[_Running, PymixtralError | None]


def _read_prompts(engine: Engine, joining: Sequence[_Running]) -> Iterator[Step]:
    start = time.perf_counter()
    items = [EvalItem(one.session, one.generation.history) for one in joining]
    results = engine.eval_each(items, Phase.PROMPT)
    seconds = time.perf_counter() - start
    for one, logits in zip(joining, results, strict=True):
        one.generation.prompt_seconds = seconds
        yield one, one.advance(logits)


def _read_tokens(engine: Engine, running: Sequence[_Running]) -> Iterator[Step]:
    start = time.perf_counter()
    items = [EvalItem(one.session, one.generation.token_ids[-1:]) for one in running]
    results = engine.eval_each(items, Phase.GENERATED)
    seconds = time.perf_counter() - start
    for one, logits in zip(running, results, strict=True):
        one.generation.generation_seconds += seconds
        yield one, one.advance(logits)
