"""The numpy oracle against transformers, and where transformers cannot judge, against itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference import oracle
from reference.golden import MAX_DIFFERENCE, load_golden
from reference.oracle import Oracle
from reference.tiny import TINY_MODELS, random_ids, random_weights


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_match_transformers(name: str, dtype: type) -> None:
    golden = load_golden(name)
    model = Oracle(golden.model, random_weights(golden.model), dtype)
    logits = model.logits(golden.ids, golden.positions)
    assert logits.dtype == dtype
    assert golden.difference(logits) <= MAX_DIFFERENCE


@pytest.mark.parametrize("name", ["four-share", "dense-window"])
def test_tiles_do_not_change_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TINY_MODELS[name]
    ids = random_ids(model, 40)
    whole = Oracle(model, random_weights(model)).logits(ids)
    monkeypatch.setattr(oracle, "QUERY_TILE", 7)
    tiled = Oracle(model, random_weights(model)).logits(ids)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-5)


def test_equal_router_logits_go_to_the_lowest_index() -> None:
    model = Oracle(replace(TINY_MODELS["four-share"], n_experts_used=3), {})
    chosen, share = model.route(np.array([[0, 2, 1, 2, 2, 1, 2, 0], [5.0] * 8]))
    np.testing.assert_array_equal(chosen, [[1, 3, 4], [0, 1, 2]])
    np.testing.assert_allclose(share, 1 / 3)


def test_identical_experts_equal_the_dense_model() -> None:
    dense = TINY_MODELS["dense"]
    weights = random_weights(dense)
    n_experts = 8
    router = np.random.RandomState(0).standard_normal((n_experts, dense.dim))
    copies = {
        name.replace(".weight", "_exps.weight"): np.stack([array] * n_experts)
        for name, array in weights.items()
        if any(part in name for part in ("ffn_gate", "ffn_up", "ffn_down"))
    }
    routers = {f"blk.{i}.ffn_gate_inp.weight": router for i in range(dense.n_layers)}
    sparse = replace(dense, n_experts=n_experts, n_experts_used=2)
    ids = random_ids(dense, 40)
    np.testing.assert_allclose(
        Oracle(sparse, weights | copies | routers, np.float64).logits(ids),
        Oracle(dense, weights, np.float64).logits(ids),
        rtol=0,
        atol=1e-12,
    )


def test_without_an_output_tensor_the_embedding_is_the_head() -> None:
    model = TINY_MODELS["dense"]
    weights = random_weights(model)
    ids = random_ids(model, 9)
    tied = {name: array for name, array in weights.items() if name != "output.weight"}
    explicit = weights | {"output.weight": weights["token_embd.weight"]}
    np.testing.assert_array_equal(
        Oracle(model, tied).logits(ids), Oracle(model, explicit).logits(ids)
    )
