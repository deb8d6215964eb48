"""Many prompts decoded together: the answers are those that each prompt gets alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pymixtral import LLM, Completion, Phase, Request, SamplingParams
from pymixtral.engine import EvalItem, Logits
from pymixtral.errors import ChatError, ContextError, EngineError, ParameterError, PymixtralError

PARAMS = SamplingParams(temperature=1, seed=1, max_tokens=16, logprobs=2)
FOX = [{"role": "user", "content": "Tell me a story about a fox."}]
REQUESTS: list[str | Request] = [
    "Once upon a time",
    Request("The", params=replace(PARAMS, max_tokens=3, seed=7)),
    Request(messages=FOX),
    Request([1, 448, 446], params=SamplingParams(temperature=0, max_tokens=40, stop="was")),
    "A",
    Request(messages=[{"role": "system", "content": "Be brief."}, *FOX]),
]


@pytest.fixture(scope="module")
def alone() -> list[Completion]:
    """Each request's answer, in a model that has seen no other."""
    answers = []
    for request in REQUESTS:
        if isinstance(request, str):
            request = Request(request)
        with LLM() as llm:
            params = request.params or PARAMS
            if request.messages is not None:
                answers.append(llm.chat(request.messages, params))
            else:
                answers.append(llm.generate(request.prompt or "", params))
    return answers


def outcome(answer: Completion | PymixtralError | None) -> tuple[object, ...]:
    """All of an answer but its times."""
    assert isinstance(answer, Completion)
    return answer.text, answer.token_ids, answer.finish_reason, answer.logprobs


@pytest.mark.parametrize("parallel", [1, 2, 4, 16])
def test_answers_are_those_of_each_alone(alone: list[Completion], parallel: int) -> None:
    with LLM(parallel=parallel, threads=2) as llm:
        results = dict(llm.generate_many(REQUESTS, PARAMS))
    assert [outcome(results[i]) for i in range(len(REQUESTS))] == [*map(outcome, alone)]
    for answer, expected in zip((results[i] for i in range(len(REQUESTS))), alone, strict=True):
        assert isinstance(answer, Completion)
        assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
        assert answer.usage.prompt_seconds > 0
        assert answer.usage.generation_seconds > 0


def test_tokens_are_evaluated_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(parallel=3) as llm:
        sizes: list[tuple[Phase, int]] = []
        eval_each = llm.engine.eval_each

        def counted(items: list[EvalItem], phase: Phase) -> list[Logits | PymixtralError]:
            sizes.append((phase, len(items)))
            return eval_each(items, phase)

        monkeypatch.setattr(llm.engine, "eval_each", counted)
        params = SamplingParams(temperature=0, max_tokens=4)
        assert len(list(llm.generate_many(["Once", "The", "A"], params))) == 3
    assert [size for size in sizes if size[1]] == [(Phase.PROMPT, 3), *[(Phase.GENERATED, 3)] * 3]


def test_one_that_fails_does_not_disturb_the_others(alone: list[Completion]) -> None:
    bad: list[tuple[str | Request, type[PymixtralError]]] = [
        (Request([1] * 600), ContextError),
        (Request([]), ParameterError),
        (Request([999_999]), EngineError),
        ("\ud800", ParameterError),
        (Request(messages=[]), ChatError),
        (Request("A", params=SamplingParams(stop_ids=[999_999])), ParameterError),
    ]
    mixed = [
        request for pair in zip(REQUESTS, (b for b, _ in bad), strict=True) for request in pair
    ]
    with LLM(parallel=2) as llm:
        results = dict(llm.generate_many(mixed, PARAMS))
    assert [outcome(results[i]) for i in range(0, len(mixed), 2)] == [*map(outcome, alone)]
    for i, (_, error) in enumerate(bad):
        assert isinstance(results[2 * i + 1], (error, ParameterError))
    assert len(results) == len(mixed)


def test_requests_are_taken_as_there_is_room() -> None:
    taken = []

    def requests() -> Iterator[str]:
        for i in range(100):
            taken.append(i)
            yield "Once"

    with LLM(parallel=2) as llm:
        results = llm.generate_many(requests(), SamplingParams(max_tokens=2))
        next(results)
        assert len(taken) < 6
        results.close()  # type: ignore[attr-defined]
        sessions: Any = llm.engine._sessions
        assert all(session.closed for session in sessions)


def test_wrong_requests() -> None:
    for wrong in ({}, {"prompt": "a", "messages": FOX}, {"prompt": "a", "tools": [{}]}):
        with pytest.raises(ParameterError):
            Request(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="parallel must be 1 or more"):
        LLM(parallel=0)


def test_each_of_them_has_a_kv_cache() -> None:
    with LLM() as one, LLM(parallel=5) as five:
        assert five.memory_need.kv_cache == 5 * one.memory_need.kv_cache
