import math
import pickle

import numpy as np
import pytest

from pymixtral.errors import ParameterError, SamplingError
from pymixtral.sampling import Sampler, SamplingParams, SplitMix64, StopMatcher


def logits_of(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def possible_ids(logits: np.ndarray, history: tuple[int, ...] = (), **options: object) -> set[int]:
    """What 200 draws choose: for a handful of even weights, all that is possible."""
    sampler = Sampler(SamplingParams(seed=0, **options), len(logits))
    return {sampler.sample(logits, history).id for _ in range(200)}


def test_the_stream_is_splitmix64() -> None:
    """The first numbers that splitmix64.c of https://prng.di.unimi.it gives for two seeds."""
    stream = SplitMix64(1234567)
    assert [stream.next_uint64() for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert SplitMix64(0).next_uint64() == 0xE220A8397B1DCDAF
    assert SplitMix64(1234567).uniform() == (6457827717110365317 >> 11) / 2**53


def test_a_seed_gives_the_same_ids_in_every_release() -> None:
    logits = np.linspace(-4, 4, 50, dtype=np.float32)
    sampler = Sampler(SamplingParams(seed=42, temperature=1.5, top_k=40, top_p=0.95), 50)
    drawn = [sampler.sample(logits, ()).id for _ in range(12)]
    assert drawn == [47, 37, 40, 42, 33, 48, 39, 48, 42, 46, 39, 44]


def test_without_a_seed_streams_differ() -> None:
    states = {Sampler(SamplingParams(), 4).state() for _ in range(8)}
    assert len(states) == 8


def test_a_sampler_continues_from_a_state() -> None:
    logits = np.zeros(1000, np.float32)
    first = Sampler(SamplingParams(seed=7), 1000)
    first.sample(logits, ())
    second = Sampler(SamplingParams(seed=1), 1000, state=first.state())
    assert [first.sample(logits, ()).id for _ in range(5)] == [
        second.sample(logits, ()).id for _ in range(5)
    ]


def test_a_draw_of_zero_skips_impossible_tokens() -> None:
    seed = -0x9E3779B97F4A7C15 % 2**64  # the stream's next state, and so its next number, is 0
    assert SplitMix64(seed).uniform() == 0
    assert Sampler(SamplingParams(seed=seed), 2).sample(logits_of(-math.inf, 0), ()).id == 1


def test_frequencies_follow_the_temperature() -> None:
    logits = logits_of(2, 1, 0, -math.inf)
    sampler = Sampler(SamplingParams(seed=3, temperature=0.5), 4)
    n = 20_000
    counts = np.bincount([sampler.sample(logits, ()).id for _ in range(n)], minlength=4)
    weights = np.exp(logits / 0.5)
    expected = n * weights / weights.sum()
    chi_squared = (((counts - expected) ** 2)[:3] / expected[:3]).sum()
    assert chi_squared < 13.8  # 0.1 % for two degrees of freedom
    assert counts[3] == 0


def test_ties_go_to_the_lowest_ids() -> None:
    tied = logits_of(0, 1, 1, 1, 0)
    assert possible_ids(tied, temperature=0) == {1}
    assert possible_ids(tied, top_k=2) == {1, 2}
    assert possible_ids(logits_of(0, 0, 0, 0), top_p=0.5) == {0, 1}  # the second reaches p
    assert possible_ids(logits_of(0, 0, 0, 0), top_p=0.51) == {0, 1, 2}
    assert possible_ids(logits_of(0, 0, 0, 0), top_p=0) == {0}


def test_min_p_keeps_tokens_at_its_very_edge() -> None:
    even = logits_of(1, 1, 0)
    assert possible_ids(even, min_p=1) == {0, 1}
    assert possible_ids(logits_of(1, 1 + math.log(0.5) + 0.01), min_p=0.5) == {0, 1}
    assert possible_ids(logits_of(1, 1 + math.log(0.5) - 0.01), min_p=0.5) == {0}


def test_filters_see_the_distribution_before_the_temperature() -> None:
    assert possible_ids(logits_of(2, 0, 0), min_p=0.5, temperature=100) == {0}


@pytest.mark.parametrize(
    ("logits", "history", "penalty", "expected"),
    [
        ((3, 2), (0,), {"repetition_penalty": 1.4}, 0),  # 3 / 1.4 > 2
        ((3, 2), (0,), {"repetition_penalty": 1.6}, 1),  # 3 / 1.6 < 2
        ((3, 2), (0, 0, 0), {"repetition_penalty": 1.4}, 0),  # once, however often it occurs
        ((-2, -3), (0,), {"repetition_penalty": 1.4}, 0),  # -2 * 1.4 > -3
        ((-2, -3), (0,), {"repetition_penalty": 1.6}, 1),  # -2 * 1.6 < -3
        ((3, 2), (0, 0), {"presence_penalty": 0.9}, 0),
        ((3, 2), (0, 0), {"presence_penalty": 1.1}, 1),
        ((3, 2), (0, 0), {"frequency_penalty": 0.4}, 0),
        ((3, 2), (0, 0), {"frequency_penalty": 0.6}, 1),
        ((3, 2), (), {"presence_penalty": 9, "frequency_penalty": 9}, 0),
        ((3, 2), (), {"logit_bias": {1: 1.1}}, 1),
        ((3, 2), (), {"logit_bias": {0: -math.inf}}, 1),
    ],
)
def test_penalties_and_bias(
    logits: tuple[float, ...], history: tuple[int, ...], penalty: dict[str, object], expected: int
) -> None:
    sampler = Sampler(SamplingParams(temperature=0, **penalty), len(logits))
    assert sampler.sample(logits_of(*logits), history).id == expected


@pytest.mark.parametrize(("window", "expected"), [(0, 0), (63, 0), (64, 1), (70, 1), (-1, 1)])
def test_the_window_of_the_penalties(window: int, expected: int) -> None:
    history = [0, *[2] * 63]
    params = SamplingParams(temperature=0, presence_penalty=5, penalty_window=window)
    assert Sampler(params, 3).sample(logits_of(1, 0, -9), history).id == expected


def test_a_tiny_temperature_is_greedy() -> None:
    assert possible_ids(logits_of(1, 1.001, -math.inf), temperature=5e-324) == {1}


def test_the_logits_are_left_as_they_are() -> None:
    logits = logits_of(1, 2, 3)
    params = SamplingParams(logit_bias={0: 5}, presence_penalty=1, logprobs=1)
    Sampler(params, 3).sample(logits, (0, 1))
    assert logits.tolist() == [1, 2, 3]


def test_logprobs() -> None:
    sampler = Sampler(SamplingParams(temperature=0, logprobs=2, logit_bias={0: 9}), 3)
    sampled = sampler.sample(np.log(np.float32([0.125, 0.5, 0.375])), ())
    assert sampled.id == 0
    assert sampled.logprob == pytest.approx(math.log(0.125))
    assert sampled.top_logprobs == [
        (1, pytest.approx(math.log(0.5))),
        (2, pytest.approx(math.log(0.375))),
    ]
    assert Sampler(SamplingParams(logprobs=0), 1).sample(logits_of(7), ()) == (0, 0.0, [])
    assert Sampler(SamplingParams(), 1).sample(logits_of(7), ()) == (0, None, None)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize(
    ("logits", "options", "reason"),
    [
        ((0, math.nan), {}, "contain nan"),
        ((0, math.inf), {}, "contain inf"),
        ((-math.inf, -math.inf), {}, "every logit is -inf"),
        ((0, -math.inf), {"logit_bias": {0: -math.inf}}, "every logit is -inf"),
    ],
)
def test_logits_without_a_choice(
    temperature: float, logits: tuple[float, ...], options: dict[str, object], reason: str
) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature, **options), len(logits))
    with pytest.raises(SamplingError, match=f"no token can be chosen: .*{reason}"):
        sampler.sample(logits_of(*logits), ())


def test_logits_and_history_of_another_vocabulary() -> None:
    sampler = Sampler(SamplingParams(), 3)
    with pytest.raises(ParameterError, match=r"logits must have shape \(3,\), not \(4,\)"):
        sampler.sample(np.zeros(4, np.float32), ())
    for history in ([3], [-1]):
        with pytest.raises(ParameterError, match="history must hold token ids from 0 to 2"):
            sampler.sample(np.zeros(3, np.float32), history)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "temperature": [-0.1, math.nan, math.inf, "1", None, True],
        "top_k": [-1, 1.5, 2**31, math.nan],
        "top_p": [-0.1, 1.1, math.nan],
        "min_p": [-0.1, 1.1],
        "repetition_penalty": [0, -1, math.inf],
        "frequency_penalty": [math.nan, 101],
        "presence_penalty": [math.nan, -101],
        "penalty_window": [-2, 0.5],
        "logit_bias": [[1], {-1: 0}, {"1": 0}, {1: math.nan}, {1: math.inf}, {1: "x"}],
        "seed": [-1, 2**64, 1.0],
        "max_tokens": [0, 10**400, -5],
        "stop": ["", ["a", ""], [1], 5],
        "stop_ids": [[-1], ["a"], 5],
        "logprobs": [-1, 1.5],
    }.items(),
)
def test_parameters_out_of_range(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ParameterError, match=f"^{name}"):
            SamplingParams(**{name: value})


@pytest.mark.parametrize("options", [{"logit_bias": {8: 1}}, {"stop_ids": [8]}, {"logprobs": 9}])
def test_parameters_beyond_the_vocabulary(options: dict[str, object]) -> None:
    (name,) = options
    params = SamplingParams(**options)
    Sampler(params, 9)
    with pytest.raises(ParameterError, match=f"^{name}.* from 0 to [78]"):
        Sampler(params, 8)


def test_parameters_are_normalised() -> None:
    params = SamplingParams(
        temperature=np.float32(0.5), stop="a", stop_ids=iter([np.int64(3)]), logit_bias={1: 2}
    )
    assert params == SamplingParams(temperature=0.5, stop=["a"], stop_ids=(3,), logit_bias={1: 2.0})
    assert params.stop == ("a",)
    assert params.stop_ids == (3,)
    assert type(params.stop_ids[0]) is int
    assert pickle.loads(pickle.dumps(params)) == params


def test_unknown_parameters_are_errors() -> None:
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams(temprature=0.5)


def test_a_stop_text_across_pieces() -> None:
    matcher = StopMatcher(["</answer>"])
    pieces = ["one <", "b> two <", "/ans", "wer> three", "four"]
    assert [matcher.push(piece) for piece in pieces] == [
        ("one ", False),
        ("<b> two ", False),
        ("", False),
        ("", True),
        ("", True),
    ]
    assert matcher.flush() == ""


def test_what_only_began_like_a_stop_is_shown_at_the_end() -> None:
    matcher = StopMatcher(["stop"])
    assert matcher.push("do not sto") == ("do not ", False)
    assert matcher.flush() == "sto"
    assert matcher.flush() == ""


def test_the_longer_of_two_stops_with_one_end() -> None:
    assert StopMatcher(["b", "ab"]).push("xab") == ("x", True)


def test_no_stops() -> None:
    assert StopMatcher([]).push("text") == ("text", False)
