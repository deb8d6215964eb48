"""Sampling and stop texts against plain restatements of docs/sampling.md."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pymixtral.errors import ParameterError
from pymixtral.sampling import Sampler, SamplingParams, StopMatcher

CLOSE = 1e-9  # comparisons nearer than this may go either way in another order of summation


def adjusted_logits(logits: list[float], history: list[int], params: SamplingParams) -> list[float]:
    result = [x + (params.logit_bias or {}).get(i, 0.0) for i, x in enumerate(logits)]
    window = history if params.penalty_window < 0 else []
    if params.penalty_window > 0:
        window = history[-params.penalty_window :]
    for i in set(window):
        if result[i] > 0:
            result[i] /= params.repetition_penalty
        else:
            result[i] *= params.repetition_penalty
        result[i] -= window.count(i) * params.frequency_penalty
        result[i] -= params.presence_penalty
    return result


def by_likelihood(ids: list[int], logits: list[float]) -> list[int]:
    return sorted(ids, key=lambda i: (-logits[i], i))


def kept_ids(logits: list[float], params: SamplingParams) -> list[int]:
    ids = by_likelihood(list(range(len(logits))), logits)
    if params.top_k:
        ids = ids[: params.top_k]
    if params.top_p < 1:
        total = math.fsum(math.exp(logits[i] - logits[ids[0]]) for i in ids)
        reached, n_kept = 0.0, 0
        while n_kept < len(ids) and (n_kept == 0 or reached < params.top_p):
            reached += math.exp(logits[ids[n_kept]] - logits[ids[0]]) / total
            n_kept += 1
            assume(abs(reached - params.top_p) > CLOSE)
        ids = ids[:n_kept]
    if params.min_p:
        floor = logits[ids[0]] + math.log(params.min_p)
        assume(all(abs(logits[i] - floor) > CLOSE for i in ids[1:] if logits[i] > -math.inf))
        ids = [i for i in ids if logits[i] >= floor]
    return sorted(ids)


def uniform(state: int) -> tuple[float, int]:
    """SplitMix64 and its next state."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    z = state
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return ((z ^ z >> 31) >> 11) / 2**53, state


def draw(logits: list[float], ids: list[int], temperature: float, u: float) -> int:
    peak = max(logits[i] for i in ids)
    cumulative = [0.0]
    for i in ids:
        cumulative.append(cumulative[-1] + math.exp((logits[i] - peak) / temperature))
    assume(all(abs(u * cumulative[-1] - c) > CLOSE for c in cumulative[1:-1]))
    return next(i for i, c in zip(ids, cumulative[1:], strict=True) if c > u * cumulative[-1])


# Few distinct values, so that ties are common.
some_logits = st.sampled_from([-math.inf, -3.5, -1.0, 0.0, 0.25, 1.0, 2.0, 2.5]) | st.floats(
    -20, 20, width=32
)
logits_lists = st.lists(some_logits, min_size=1, max_size=12).filter(lambda x: max(x) > -math.inf)


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[float], list[int], SamplingParams]:
    logits = draw(logits_lists)
    ids = st.integers(0, len(logits) - 1)
    options: dict[str, st.SearchStrategy[Any]] = {
        "temperature": st.floats(0.05, 3),
        "top_k": st.integers(1, 14),
        "top_p": st.floats(0, 1),
        "min_p": st.floats(0, 1),
        "repetition_penalty": st.floats(0.5, 2),
        "frequency_penalty": st.floats(-2, 2),
        "presence_penalty": st.floats(-2, 2),
        "penalty_window": st.integers(-1, 5),
        "logit_bias": st.dictionaries(ids, st.floats(-5, 5)),
    }
    chosen = draw(st.fixed_dictionaries({}, optional=options))
    params = SamplingParams(seed=draw(st.integers(0, 2**64 - 1)), **chosen)
    return logits, draw(st.lists(ids, max_size=8)), params


@given(requests())
def test_sampling_equals_its_restatement(
    request_: tuple[list[float], list[int], SamplingParams],
) -> None:
    logits, history, params = request_
    sampler = Sampler(params, len(logits))
    adjusted = adjusted_logits(logits, history, params)
    ids = kept_ids(adjusted, params)
    state = params.seed
    for _ in range(5):
        u, state = uniform(state)
        sampled = sampler.sample(np.array(logits, np.float32), history)
        assert sampled.id == draw(adjusted, ids, params.temperature, u)
    assert sampler.state() == state


@given(requests())
def test_greedy_is_the_first_maximum(
    request_: tuple[list[float], list[int], SamplingParams],
) -> None:
    logits, history, params = request_
    options = {name: getattr(params, name) for name in SamplingParams.__slots__}
    greedy = Sampler(SamplingParams(**{**options, "temperature": 0}), len(logits))
    adjusted = adjusted_logits(logits, history, params)
    sampled = greedy.sample(np.array(logits, np.float32), history)
    assert sampled.id == adjusted.index(max(adjusted))
    assert greedy.state() == params.seed


@given(requests(), st.integers(0, 12))
def test_logprobs_are_of_the_models_distribution(
    request_: tuple[list[float], list[int], SamplingParams], count: int
) -> None:
    logits, history, params = request_
    assume(count <= len(logits))
    options = {name: getattr(params, name) for name in SamplingParams.__slots__}
    sampler = Sampler(SamplingParams(**{**options, "logprobs": count}), len(logits))
    sampled = sampler.sample(np.array(logits, np.float32), history)
    total = math.log(math.fsum(math.exp(x) for x in logits))
    top = by_likelihood(list(range(len(logits))), logits)[:count]
    assert sampled.logprob == pytest.approx(logits[sampled.id] - total, abs=1e-12)
    assert sampled.top_logprobs is not None
    assert [i for i, _ in sampled.top_logprobs] == top
    assert [p for _, p in sampled.top_logprobs] == pytest.approx([logits[i] - total for i in top])


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


@given(
    st.dictionaries(
        st.sampled_from(SamplingParams.__slots__),
        anything | st.lists(anything, max_size=2) | st.dictionaries(anything, anything, max_size=2),
        max_size=3,
    )
)
def test_parameters_are_taken_or_refused_by_name(options: dict[str, Any]) -> None:
    refusal = None
    try:
        sampler = Sampler(SamplingParams(**options), 8)
    except ParameterError as error:
        refusal = str(error)
    if refusal is None:
        assert 0 <= sampler.sample(np.zeros(8, np.float32), [1, 2]).id < 8
    else:
        assert refusal.startswith(tuple(options))


letters = st.text("ab", max_size=12)


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    pushed = [matcher.push(piece) for piece in pieces]
    return "".join(text for text, _ in pushed) + matcher.flush(), any(end for _, end in pushed)


@given(letters, st.text("ab", min_size=1, max_size=4), st.lists(st.integers(0, 12)))
def test_one_stop_is_str_find(text: str, stop: str, cuts: list[int]) -> None:
    found = text.find(stop)
    expected = text if found < 0 else text[:found]
    assert run([stop], cut(text, cuts)) == (expected, found >= 0)


@given(
    letters,
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 12)),
)
def test_several_stops_end_at_the_first_completed(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    expected = (text, False)
    for end in range(len(text) + 1):
        completed = [stop for stop in stops if text[:end].endswith(stop)]
        if completed:
            expected = (text[: end - max(map(len, completed))], True)
            break
    assert run(stops, cut(text, cuts)) == expected


@given(letters, st.text("ab", min_size=1, max_size=4))
def test_no_more_is_held_back_than_may_begin_a_stop(text: str, stop: str) -> None:
    matcher = StopMatcher([stop])
    shown, stopped = matcher.push(text)
    held = max(n for n in range(len(stop)) if text.endswith(stop[:n]))
    assert stopped or shown == text[: len(text) - held]
