"""The promise: the same ids give the same bytes, whatever the threads, the batch and the cuts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.tiny import random_ids
from reference.tiny_engine import BLOCK_MODEL, tiny_engine

from pymixtral.engine import TENSOR_TYPES, Engine, EngineOptions, EvalItem, Phase, tiers

SUPPORTED_TIERS = [name for name, supported in tiers().items() if supported]
IDS = random_ids(BLOCK_MODEL, 41)
N_CTX = 64
FLOAT_TYPES = ("F32", "F16", "BF16")
AMX_TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
# Tiers that differ from another in how the block types' integers are found, and in nothing else.
SAME_BITS = {"avxvnni": "avx2", "i8mm": "neon"}

pytestmark = [
    pytest.mark.parametrize("type_name", TENSOR_TYPES),
    pytest.mark.parametrize("tier", SUPPORTED_TIERS),
    pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.name.lower()),
]


@cache
def shared_engine(type_name: str, tier: str) -> Engine:
    return tiny_engine(type_name=type_name, options=EngineOptions(threads=2, tier=tier))


@pytest.fixture
def engine(type_name: str, tier: str) -> Engine:
    return shared_engine(type_name, tier)


def alone(
    engine: Engine, ids: NDArray[np.int32], phase: Phase, kv_type: str = "f16"
) -> NDArray[np.float32]:
    """Logits after every id, evaluated in one call in a new session."""
    return engine.session(N_CTX, kv_type).eval(ids, phase, n_logits=len(ids))


def test_threads_and_pass_size(type_name: str, tier: str, phase: Phase, engine: Engine) -> None:
    expected = alone(engine, IDS, phase)
    assert np.isfinite(expected).all()
    for threads, batch_rows in ((1, 512), (2, 7), (3, 16), (8, 512)):
        options = EngineOptions(threads=threads, batch_rows=batch_rows, tier=tier)
        other = tiny_engine(type_name=type_name, options=options)
        assert alone(other, IDS, phase).tobytes() == expected.tobytes()
        other.close()


def test_prompt_cuts(engine: Engine, phase: Phase) -> None:
    expected = alone(engine, IDS, phase)
    for cuts in ([1], [40], [16, 32], [13, 14, 15, 31], list(range(1, 41))):
        session = engine.session(N_CTX)
        parts = [session.eval(part, phase, len(part)) for part in np.split(IDS, cuts)]
        assert np.concatenate(parts).tobytes() == expected.tobytes()


def test_logits_that_are_wanted(engine: Engine, phase: Phase) -> None:
    """Rows without stop in the last layer; those with, and what comes after, are the same."""
    shares = [np.roll(IDS, 5 * i)[: 40 - 3 * i] for i in range(5)]
    wanted = [0, 1, 5, 28, 0]
    sessions = [engine.session(N_CTX) for _ in shares]
    items = [EvalItem(*item) for item in zip(sessions, shares, wanted, strict=True)]
    found = engine.eval(items, phase)
    for session, ids, n, logits in zip(sessions, shares, wanted, found, strict=True):
        expected = alone(engine, np.concatenate([ids, IDS[:2]]), phase)
        assert logits.tobytes() == expected[len(ids) - n : len(ids)].tobytes()
        assert session.eval(IDS[:2], phase).tobytes() == expected[-1:].tobytes()


@pytest.mark.parametrize("n_items", [2, 8, 16])
def test_batch(engine: Engine, phase: Phase, n_items: int) -> None:
    """Items of different lengths, and with a past of their own."""
    shares = [np.roll(IDS, 5 * i)[: 41 - 2 * i] for i in range(n_items)]
    expected = [alone(engine, ids, phase) for ids in shares]
    sessions = [engine.session(N_CTX) for _ in shares]
    for session, ids in zip(sessions, shares, strict=True):
        session.eval(ids[:3], phase)
    found = engine.eval(
        [
            EvalItem(session, ids[3:], len(ids) - 3)
            for session, ids in zip(sessions, shares, strict=True)
        ],
        phase,
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tobytes() == theirs[3:].tobytes()


def test_truncate_and_copy(engine: Engine, phase: Phase) -> None:
    expected = alone(engine, IDS, phase)
    session = engine.session(N_CTX)
    session.eval(IDS[:20], phase)
    copy = session.copy()
    session.eval(np.roll(IDS, 9)[:20], phase)
    session.truncate(20)
    for again in (session, copy):
        assert again.eval(IDS[20:], phase, 21).tobytes() == expected[20:].tobytes()
        assert len(again) == len(IDS)


def home_of_kernel(type_name: str, tier: str, phase: Phase) -> str:
    """The tier whose kernel runs: AMX has kernels for prompts, and for some types, alone; AVX-VNNI
    and i8mm for the block types."""
    if tier == "amx" and (phase is Phase.GENERATED or type_name not in AMX_TYPES):
        return "avx512vnni"
    if type_name in FLOAT_TYPES:
        return SAME_BITS.get(tier, tier)
    return tier


def test_phase_picks_the_kernel(type_name: str, tier: str, phase: Phase, engine: Engine) -> None:
    type_id = TENSOR_TYPES[type_name]

    def calls() -> dict[Phase, int]:
        kernels = {of: engine.kernel(type_id, of) for of in Phase}
        return {of: kernel[1] for of, kernel in kernels.items() if kernel is not None}

    before = calls()
    alone(engine, IDS, phase)  # many rows at once in either phase
    engine.session(N_CTX).eval(IDS[:1], phase)  # and one
    ran = {of: n_calls - before[of] for of, n_calls in calls().items()}
    if phase is Phase.PROMPT:
        assert ran[Phase.PROMPT] > 0
        assert ran[Phase.GENERATED] == 2  # the output matrix, each time
    else:
        assert ran[Phase.PROMPT] == 0
    kernel = engine.kernel(type_id, phase)
    assert kernel is not None
    home = home_of_kernel(type_name, tier, phase)
    assert kernel[0].lower() == f"{type_name}/{home}/{phase.name}".lower()
    assert engine.tier == tier


def test_tiers_agree(type_name: str, tier: str, phase: Phase, engine: Engine) -> None:
    """Not bit for bit between tiers (but for those of SAME_BITS), but to within rounding.

    The last bit of an activation can move its int8 by one, and a router's choice with it: few
    logits differ visibly, so it is the median that is bounded. The kernels alone are compared
    exactly, by tests/c/check_kernels.c. AMX rounds prompts in its own ways, and routes some tokens
    otherwise.
    """
    if tier in SAME_BITS:
        same = alone(shared_engine(type_name, SAME_BITS[tier]), IDS, phase)
        assert alone(engine, IDS, phase).tobytes() == same.tobytes()
    expected = alone(shared_engine(type_name, "generic"), IDS, phase, "f32")
    difference = np.abs(alone(engine, IDS, phase, "f32") - expected)
    tolerance = 0.1 if home_of_kernel(type_name, tier, phase) == "amx" else 1e-2
    assert np.median(difference) < tolerance * expected.std()
