"""The engine's logits against transformers', and where that is too slow or silent, the oracle's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.golden import MAX_DIFFERENCE, load_golden
from reference.mutations import MUTATION_CASES, WIDE_MARGIN, Mutation
from reference.oracle import Oracle
from reference.tiny import TINY_MODELS, TinyModel, Weights, random_ids, random_weights
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM, Phase
from pymixtral.engine import tiers

TIERS = [name for name, supported in tiers().items() if supported]

# Most of the vocabularies are too small for byte tokens.
pytestmark = pytest.mark.filterwarnings("ignore:.*byte tokens are missing")


class EngineLogits(Protocol):
    """Logits (T, n_vocab) of a tiny model, written to a GGUF file."""

    def __call__(
        self,
        model: TinyModel,
        weights: Weights,
        ids: NDArray[np.int32],
        *,
        tier: str | None = None,
        phase: Phase = Phase.PROMPT,
    ) -> NDArray[np.float32]: ...


@pytest.fixture
def engine_logits(tmp_path: Path) -> EngineLogits:
    def run(
        model: TinyModel,
        weights: Weights,
        ids: NDArray[np.int32],
        *,
        tier: str | None = None,
        phase: Phase = Phase.PROMPT,
    ) -> NDArray[np.float32]:
        path = write_tiny_gguf(tmp_path / "tiny.gguf", model, weights)
        with LLM(path, n_ctx=model.n_ctx_train, kv_type="f32", tier=tier) as llm:
            return llm.logits(ids.tolist(), phase)

    return run


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("tier", TIERS)
def test_logits_match_transformers(
    name: str, phase: Phase, tier: str, engine_logits: EngineLogits
) -> None:
    golden = load_golden(name)
    weights = random_weights(golden.model)
    logits = engine_logits(golden.model, weights, golden.ids, tier=tier, phase=phase)
    assert golden.difference(logits[golden.positions]) <= MAX_DIFFERENCE


@pytest.mark.parametrize(("mutation", "name"), MUTATION_CASES)
def test_mutated_file_shows(mutation: Mutation, name: str, engine_logits: EngineLogits) -> None:
    golden = load_golden(name)
    model, weights = mutation(golden.model, random_weights(golden.model))
    logits = engine_logits(model, weights, golden.ids)
    assert golden.difference(logits[golden.positions]) > WIDE_MARGIN


def test_32k_positions(engine_logits: EngineLogits) -> None:
    """No golden file: eager attention at this length takes transformers 8 GB."""
    n_ctx = 32768
    model = replace(TINY_MODELS["long"], n_layers=1, n_ctx_train=n_ctx)
    weights = random_weights(model)
    ids = random_ids(model, n_ctx)
    positions = [0, 8191, 8192, 20000, n_ctx - 1]
    expected = Oracle(model, weights).logits(ids, positions)
    difference = np.abs(engine_logits(model, weights, ids)[positions] - expected)
    assert difference.max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("name", ["one-kv-head", "no-sharing", "two-share"])
def test_of_equal_experts_the_lowest_index_is_chosen(
    name: str, engine_logits: EngineLogits
) -> None:
    """With all router logits equal, the experts after the first n_experts_used are never asked."""
    model = TINY_MODELS[name]
    ids = random_ids(model, 40)
    weights = random_weights(model)
    for i in range(model.n_layers):
        weights[f"blk.{i}.ffn_gate_inp.weight"][:] = weights[f"blk.{i}.ffn_gate_inp.weight"][0]
    silenced = dict(weights)
    for key, array in weights.items():
        if "_exps." in key:
            silenced[key] = array.copy()
            silenced[key][model.n_experts_used :] = 0
    chosen = engine_logits(model, weights, ids)
    np.testing.assert_array_equal(engine_logits(model, silenced, ids), chosen)
    assert np.abs(chosen - Oracle(model, weights).logits(ids)).max() <= MAX_DIFFERENCE
