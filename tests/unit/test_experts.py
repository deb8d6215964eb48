"""Which experts fire, against the numpy oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.oracle import Oracle
from reference.tiny import TINY_MODELS, random_ids, random_weights
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import LLM
from pymixtral.errors import ContextError, ParameterError
from pymixtral.experts import find_experts


class Watched(Oracle):
    """Notes what each layer's router chooses."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.routes: list[tuple[np.ndarray, np.ndarray]] = []

    def route(self, router_logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.routes.append(super().route(router_logits))
        return self.routes[-1]


@pytest.mark.filterwarnings("ignore::UserWarning")  # few tokens: some bytes have none
@pytest.mark.parametrize("name", ["no-sharing", "two-share", "three-layers"])
@pytest.mark.parametrize("batch_rows", [None, 3])
def test_choices_are_the_oracles(tmp_path: Path, name: str, batch_rows: int | None) -> None:
    model = TINY_MODELS[name]
    weights = random_weights(model)
    ids = random_ids(model, 20)
    oracle = Watched(model, weights)
    oracle.logits(ids)
    path = write_tiny_gguf(tmp_path / "model.gguf", model, weights)
    with LLM(path, kv_type="f32", batch_rows=batch_rows) as llm:
        use = find_experts(llm, ids.tolist())
    chosen, weight = (np.stack(part, axis=1) for part in zip(*oracle.routes, strict=True))
    assert use.n_experts == model.n_experts
    assert (use.chosen == chosen).all()
    np.testing.assert_allclose(use.weight, weight, atol=1e-4)

    counts = np.stack([np.bincount(c.ravel(), minlength=model.n_experts) for c, _ in oracle.routes])
    np.testing.assert_allclose(use.shares(), counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(use.weight_of_all().sum(axis=2), 1, atol=1e-6)


def test_what_has_no_experts() -> None:
    dense = Path(__file__).parents[1] / "data/stories260K/stories260K-F32.gguf"
    with LLM(dense) as llm, pytest.raises(ParameterError, match="is a dense model"):
        find_experts(llm, [1])
    with LLM(n_ctx=16) as llm:
        with pytest.raises(ParameterError, match="the text is empty"):
            find_experts(llm, [])
        with pytest.raises(ContextError, match="17 tokens do not fit the context of 16"):
            find_experts(llm, [1] * 17)
