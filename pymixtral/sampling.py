"""From the logits of a model to the next token, and from its text to the end of the answer.

docs/sampling.md has the steps in their order; `Sampler.sample` follows it.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pymixtral.errors import ParameterError, SamplingError

INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen, and where an answer ends.

    Args:
        temperature: 0 to 100; 0 takes the largest logit (of a tie, the lowest id). The default
            is the upper end of what Mistral's API documentation recommends.
        top_k: keep the k largest logits (of a tie, the lowest ids); 0 is off.
        top_p: 0 to 1, keep the most likely tokens up to and including the one with which their
            probabilities reach p; 1 is off.
        min_p: 0 to 1, keep the tokens at least min_p times as likely as the most likely; 0 is off.
        repetition_penalty: 0.01 to 100; each token of the window has its logit divided by this
            if positive, else multiplied. 1 is off, and best for Mixtral.
        frequency_penalty: -100 to 100, subtracted from a token's logit for each time that the
            window holds it.
        presence_penalty: -100 to 100, subtracted once from the logit of each token of the window.
        penalty_window: number of last tokens that the three penalties look at, the prompt's
            included; 0 is none, -1 is all.
        logit_bias: token id to what is added to its logit, -100 to 100; -inf bans the token.
        seed: 0 to 2^64 - 1; None takes one from the operating system.
        max_tokens: 1 or more, how many tokens to generate at most; None leaves it to the context.
        stop: a text, or several, at which the answer ends; it is not part of the answer.
        stop_ids: token ids at which the answer ends, beside the model's end of sequence.
        logprobs: how many of the most likely tokens to report with their log-probabilities; 0
            reports the chosen token's alone, None nothing.

    Raises:
        ParameterError: a value of the wrong type or out of its range.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window: int = 64
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: str | Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, (kind, lowest, highest) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                self._set(name, _number(name, value, kind, lowest, highest))
        self._set("stop", _stop_texts(self.stop))
        self._set("stop_ids", _token_ids("stop_ids", self.stop_ids))
        if self.logit_bias is not None:
            self._set("logit_bias", _logit_bias(self.logit_bias))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen


_RANGES: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 100),
    "top_k": (int, 0, INT32_MAX),
    "top_p": (float, 0, 1),
    "min_p": (float, 0, 1),
    "repetition_penalty": (float, 0.01, 100),
    "frequency_penalty": (float, -100, 100),
    "presence_penalty": (float, -100, 100),
    "penalty_window": (int, -1, INT32_MAX),
    "seed": (int, 0, UINT64_MAX),
    "max_tokens": (int, 1, INT32_MAX),
    "logprobs": (int, 0, INT32_MAX),
}
_OPTIONAL = {"seed", "max_tokens", "logprobs"}


def _number(name: str, value: Any, kind: type, lowest: float, highest: float) -> Any:
    """`value` as a Python int or float. A NaN fails the comparison."""
    abstract = numbers.Integral if kind is int else numbers.Real
    is_number = isinstance(value, abstract) and not isinstance(value, bool)
    if not (is_number and lowest <= value <= highest):
        noun = "an integer" if kind is int else "a number"
        raise ParameterError(f"{name} must be {noun} from {lowest} to {highest}")
    return kind(value)


def _token_ids(name: str, ids: Any, n_vocab: int = INT32_MAX) -> tuple[int, ...]:
    if not isinstance(ids, Iterable):
        raise ParameterError(f"{name} must be a sequence of token ids")
    return tuple(_number(f"{name}: a token id", i, int, 0, n_vocab - 1) for i in ids)


def _logit_bias(bias: Any) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise ParameterError("logit_bias must be a dict from token ids to numbers")
    values = (
        -math.inf if value == -math.inf else _number("logit_bias", value, float, -100, 100)
        for value in bias.values()
    )
    return dict(zip(_token_ids("logit_bias", bias), values, strict=True))


def _stop_texts(stop: Any) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) or not isinstance(stop, Iterable) else tuple(stop)
    if not all(isinstance(text, str) and text for text in texts):
        raise ParameterError("stop must be a text or several, none of them empty")
    return texts


class SplitMix64:
    """The random stream behind a seed, which is ours to keep stable over releases.

    G. L. Steele, D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
    2014; the constants are those of https://prng.di.unimi.it/splitmix64.c.

    Args:
        state: 0 to 2^64 - 1; a seed, or the `state` of another stream to continue that one.
    """

    __slots__ = ("state",)

    def __init__(self, state: int) -> None:
        self.state = state

    def next_uint64(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & UINT64_MAX
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & UINT64_MAX
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & UINT64_MAX
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """A double in [0, 1), of the upper 53 bits."""
        return (self.next_uint64() >> 11) * 2.0**-53


class Sampled(NamedTuple):
    """A chosen token.

    `logprob` and `top_logprobs` (id and log-probability, the most likely first) are of the model's
    own distribution, before any bias, penalty, filter or temperature; None where not asked for.
    """

    id: int
    logprob: float | None
    top_logprobs: list[tuple[int, float]] | None


class Sampler:
    """Chooses the tokens of one request, with a random stream of its own.

    Args:
        params: the request's parameters.
        n_vocab: number of logits.
        state: continue from another sampler's `state()` instead of the seed.

    Raises:
        ParameterError: a token id of `logit_bias` or `stop_ids`, or `logprobs`, exceeds `n_vocab`.
    """

    def __init__(self, params: SamplingParams, n_vocab: int, state: int | None = None) -> None:
        bias = params.logit_bias or {}
        _token_ids("stop_ids", params.stop_ids, n_vocab)
        if params.logprobs is not None:
            _number("logprobs", params.logprobs, int, 0, n_vocab)
        self.params = params
        self.n_vocab = n_vocab
        self._bias_ids = np.array(_token_ids("logit_bias", bias, n_vocab), dtype=np.intp)
        self._bias = np.array(list(bias.values()), dtype=np.float64)
        self._filters = _filters(params)
        if state is None:
            state = params.seed
        self._stream = SplitMix64(int.from_bytes(os.urandom(8)) if state is None else state)

    def state(self) -> int:
        """The random stream's position, from which another sampler can continue."""
        return self._stream.state

    def sample(self, logits: NDArray[np.float32], history: Sequence[int]) -> Sampled:
        """Choose the token that follows `history`.

        Args:
            logits: (n_vocab,) float32, left as they are.
            history: ids of all tokens before this one, the prompt's first.

        Raises:
            SamplingError: a logit is NaN or +inf, or all are -inf or banned.
            ParameterError: `logits` has another shape, or `history` an id outside the vocabulary.
        """
        if logits.shape != (self.n_vocab,):
            raise ParameterError(f"logits must have shape ({self.n_vocab},), not {logits.shape}")
        raw = logits.astype(np.float64)
        _check_finite_peak(raw)
        adjusted = raw.copy()
        adjusted[self._bias_ids] += self._bias
        self._penalize(adjusted, history)
        _check_finite_peak(adjusted)
        token_id = self._choose(adjusted)
        return Sampled(token_id, *self._logprobs(raw, token_id))

    def _penalize(self, logits: Floats, history: Sequence[int]) -> None:
        params = self.params
        length = len(history) if params.penalty_window == -1 else params.penalty_window
        window = np.asarray(history[max(0, len(history) - length) :], dtype=np.intp)
        ids, counts = np.unique(window, return_counts=True)
        if ids.size and not 0 <= ids[0] <= ids[-1] < self.n_vocab:
            raise ParameterError(f"history must hold token ids from 0 to {self.n_vocab - 1}")
        seen = logits[ids]
        scale = params.repetition_penalty
        seen = np.where(seen > 0, seen / scale, seen * scale)
        logits[ids] = seen - counts * params.frequency_penalty - params.presence_penalty

    def _choose(self, logits: Floats) -> int:
        if self.params.temperature == 0:
            return int(logits.argmax())
        ids: Indices = np.arange(self.n_vocab)
        for keep in self._filters:
            kept = keep(logits)
            ids, logits = ids[kept], logits[kept]
        with np.errstate(over="ignore"):  # a tiny temperature sends all but the peak to -inf
            weights = np.exp((logits - logits.max()) / self.params.temperature)
        cumulative = np.cumsum(weights)
        drawn = self._stream.uniform() * cumulative[-1]
        return int(ids[np.searchsorted(cumulative, drawn, side="right")])

    def _logprobs(
        self, logits: Floats, token_id: int
    ) -> tuple[float | None, list[tuple[int, float]] | None]:
        count = self.params.logprobs
        if count is None:
            return None, None
        peak = logits.max()
        logprobs = logits - peak - np.log(np.exp(logits - peak).sum())
        top = [(int(i), float(logprobs[i])) for i in _largest(logits, count)]
        return float(logprobs[token_id]), top


def _check_finite_peak(logits: Floats) -> None:
    peak = logits.max()  # NaN if any logit is
    if not math.isfinite(peak):
        what = "every logit is -inf" if peak == -math.inf else f"the logits contain {peak}"
        raise SamplingError(f"no token can be chosen: {what}")


# Filters take the logits that are left, and return the indices of those to keep, in order.


def _filters(params: SamplingParams) -> list[Callable[[Floats], Indices]]:
    """The filters that are on, in the order in which they apply."""
    table: tuple[tuple[bool, Callable[[Floats], Indices]], ...] = (
        (params.top_k > 0, partial(_top_k, k=params.top_k)),
        (params.top_p < 1, partial(_top_p, p=params.top_p)),
        (params.min_p > 0, partial(_min_p, p=params.min_p)),
    )
    return [keep for is_on, keep in table if is_on]


def _top_k(logits: Floats, k: int) -> Indices:
    return np.sort(_largest(logits, k))


def _top_p(logits: Floats, p: float) -> Indices:
    weights = np.exp(logits - logits.max())
    total = weights.sum()
    # Tokens below this weigh less than 1 - p together, so only the others are worth sorting.
    likely = np.flatnonzero(weights >= (1 - p) * total / len(weights))
    order = likely[np.argsort(-logits[likely], kind="stable")]
    reached = np.searchsorted(np.cumsum(weights[order]), p * total, side="left")
    return np.sort(order[: reached + 1])


def _min_p(logits: Floats, p: float) -> Indices:
    return np.flatnonzero(logits >= logits.max() + math.log(p))


def _largest(values: Floats, k: int) -> Indices:
    """Indices of the k largest values, largest first and, of a tie, the lowest index first."""
    k = min(k, len(values))
    if k == 0:
        return np.empty(0, dtype=np.intp)
    threshold = np.partition(values, -k)[-k]
    above = np.flatnonzero(values > threshold)
    tied = np.flatnonzero(values == threshold)[: k - len(above)]
    return np.concatenate((above[np.argsort(-values[above], kind="stable")], tied))


class StopMatcher:
    """Cuts a stream of text at the first stop text to be completed in it.

    What has been emitted never contains a part of the stop text that ends the stream, however the
    text was cut into pieces. If two stops are completed by the same character, the longer one
    counts.

    Args:
        stops: texts that are not empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""  # the longest end of the text so far that may begin a stop
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece; returns what is safe to show, and whether the stream has ended."""
        if self._stopped:
            return "", True
        text = self._held + text
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if found:
            start, _ = min(found, key=lambda match: (match[0] + len(match[1]), match[0]))
            self._held, self._stopped = "", True
            return text[:start], True
        n_held = self._beginning_length(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held], False

    def flush(self) -> str:
        """What was held back when the text ends without a stop."""
        held, self._held = self._held, ""
        return held

    def _beginning_length(self, text: str) -> int:
        """Length of the longest suffix of `text` with which a stop begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
