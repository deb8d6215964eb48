"""Attention over long contexts: the same bytes however it is cut, the oracle's logits, and what the
types of the KV cache cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.oracle import Oracle
from reference.tiny import TINY_MODELS, TinyModel, random_ids, random_weights
from reference.tiny_engine import tiny_engine

from pymixtral import LLM, Phase
from pymixtral.engine import KV_TYPES, Engine, EngineOptions, EvalItem, kv_bytes, tiers
from pymixtral.errors import ParameterError
from pymixtral.perplexity import perplexity

TIERS = [name for name, supported in tiers().items() if supported]
FAST_TIERS = [name for name in TIERS if name != "generic"] or TIERS
TEXT = (Path(__file__).parents[1] / "data" / "tinystories_60k.txt").read_text(encoding="utf-8")

# Heads of 32, which a q8_0 cache needs, 6 to a KV head.
LONG = replace(TINY_MODELS["three-layers"], n_heads=6, n_layers=1, n_ctx_train=32768)
MODELS = {"all": LONG, "window": replace(LONG, sliding_window=700)}
# Small enough for the oracle to read 32k positions in some seconds.
ORACLE_MODEL = replace(LONG, n_heads=2)
# Of logits of a standard deviation around 2, by what keys and values are rounded to. At position
# 32767 rotary angles in float32 are off by up to 2^-10 (decision 5).
MAX_DIFFERENCE = {"f32": 1e-3, "f16": 1e-2, "q8_0": 5e-2, "bf16": 0.2}
# Enough for a generated token to look at its context in three parts, the last of one position.
IDS = random_ids(LONG, 1025)


@pytest.fixture(params=KV_TYPES)
def kv_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def is_bf16(tier: str, phase: Phase, kv_type: str) -> bool:
    """AMX reads a prompt's queries, keys and values in bf16."""
    return tier == "amx" and phase is Phase.PROMPT and kv_type != "f32"


def logits(engine: Engine, kv_type: str, phase: Phase) -> NDArray[np.float32]:
    """After each of IDS, read in one call."""
    with closing(engine.session(len(IDS), kv_type)) as session:
        return session.eval(IDS, phase, len(IDS))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("phase", Phase)
def test_same_bytes(model: TinyModel, tier: str, phase: Phase, kv_type: str) -> None:
    """Whatever the threads, the cuts and the batch."""
    with closing(tiny_engine(model, options=EngineOptions(threads=1, tier=tier))) as engine:
        expected = logits(engine, kv_type, phase)
    options = EngineOptions(threads=3, batch_rows=300, tier=tier)
    with closing(tiny_engine(model, options=options)) as engine:
        sessions = [engine.session(len(IDS), kv_type) for _ in range(2)]
        for cut in np.split(IDS, [1, 500, 515, 1023]):
            items = [EvalItem(session, cut, 1) for session in sessions]
            found = [rows.tobytes() for rows in engine.eval(items, phase)]
            assert found == [expected[len(sessions[0]) - 1].tobytes()] * 2


@pytest.mark.parametrize("tier", TIERS)
def test_tiers_agree(tier: str, kv_type: str) -> None:
    """AMX rounds to bf16, and routes some tokens otherwise: the median is bounded."""
    with closing(tiny_engine(LONG, options=EngineOptions(tier="generic"))) as engine:
        expected = logits(engine, kv_type, Phase.PROMPT)
    for phase in Phase:
        with closing(tiny_engine(LONG, options=EngineOptions(tier=tier))) as engine:
            difference = np.abs(logits(engine, kv_type, phase) - expected)
        tolerance = 1e-2 if is_bf16(tier, phase, kv_type) else 1e-4
        assert np.median(difference) < tolerance * expected.std()


@cache
def oracle_logits(n_positions: int) -> NDArray[np.floating]:
    """After the last of as many random ids."""
    ids = random_ids(ORACLE_MODEL, n_positions)
    return Oracle(ORACLE_MODEL, random_weights(ORACLE_MODEL)).logits(ids, [n_positions - 1])


@pytest.mark.parametrize(
    ("n_positions", "tier"), [*((8192, tier) for tier in FAST_TIERS), (32768, FAST_TIERS[-1])]
)
def test_oracle(n_positions: int, tier: str, kv_type: str) -> None:
    """The last token of a long context, read and generated."""
    ids = random_ids(ORACLE_MODEL, n_positions)
    with closing(tiny_engine(ORACLE_MODEL, options=EngineOptions(tier=tier))) as engine:
        session = engine.session(n_positions, kv_type)
        session.eval(ids[:-1], Phase.PROMPT, 0)
        for phase in Phase:
            session.truncate(n_positions - 1)
            difference = session.eval(ids[-1:], phase) - oracle_logits(n_positions)
            rounded_to = "bf16" if is_bf16(tier, phase, kv_type) else kv_type
            assert np.abs(difference).max() < MAX_DIFFERENCE[rounded_to], phase


@pytest.fixture(scope="module")
def storyteller_perplexity() -> Iterator[float]:
    with LLM() as llm:
        yield perplexity(llm, TEXT[:20_000], 256).perplexity


@pytest.mark.parametrize("phase", Phase)
def test_q8_0_costs_little(phase: Phase, storyteller_perplexity: float) -> None:
    with LLM(kv_type="q8_0") as llm:
        found = perplexity(llm, TEXT[:20_000], 256, phase).perplexity
    assert found == pytest.approx(storyteller_perplexity, rel=1e-3)


def test_sizes() -> None:
    """Of layers, keys and values, KV heads, positions and elements."""
    n_elements = 1 * 2 * LONG.n_kv_heads * 100 * LONG.head_dim
    assert kv_bytes(LONG, 100, "f32") == 4 * n_elements
    assert kv_bytes(LONG, 100, "f16") == 2 * n_elements
    assert kv_bytes(LONG, 100, "q8_0") == n_elements // 32 * 34


def test_q8_0_needs_whole_blocks() -> None:
    model = replace(LONG, head_dim=16)
    with pytest.raises(ParameterError, match="multiple of 32, and this model's have 16"):
        kv_bytes(model, 100, "q8_0")
    with (
        closing(tiny_engine(model)) as engine,
        pytest.raises(ParameterError, match="multiple of 32, and this model's have 16"),
    ):
        engine.session(100, "q8_0")
