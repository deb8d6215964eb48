"""Mistakes that implementations make, each of which the golden files must bring to light."""

from __future__ import annotations

import pytest
from reference.golden import load_golden
from reference.mutations import (
    MOE_MODELS,
    MUTATION_CASES,
    WIDE_MARGIN,
    Mutation,
    UnnormalisedRouter,
)
from reference.oracle import Oracle
from reference.tiny import TINY_MODELS, random_weights


@pytest.mark.parametrize(("mutation", "name"), MUTATION_CASES)
def test_mutation_of_the_model_shows(mutation: Mutation, name: str) -> None:
    golden = load_golden(name)
    mutated = Oracle(*mutation(golden.model, random_weights(golden.model)))
    logits = mutated.logits(golden.ids, golden.positions)
    assert golden.difference(logits) > WIDE_MARGIN


# With all experts in use there is nothing to renormalise.
@pytest.mark.parametrize(
    "name", [n for n in MOE_MODELS if TINY_MODELS[n].n_experts_used < TINY_MODELS[n].n_experts]
)
def test_softmax_before_top_k_shows(name: str) -> None:
    golden = load_golden(name)
    model = UnnormalisedRouter(golden.model, random_weights(golden.model))
    assert golden.difference(model.logits(golden.ids, golden.positions)) > WIDE_MARGIN
