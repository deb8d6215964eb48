"""The benchmark's tools: synthetic models that make sense, and sums that are right."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import numpy as np
import pytest

from pymixtral import LLM, Phase
from pymixtral.engine import kv_bytes
from pymixtral.formats.gguf import open_gguf
from pymixtral.formats.hparams import HParams, read_hparams
from pymixtral.roofline import decode_cost

BENCH = Path(__file__).parents[2] / "bench"

HPARAMS = HParams(
    n_layers=4,
    dim=256,
    ffn_dim=512,
    n_heads=4,
    n_kv_heads=2,
    head_dim=64,
    n_vocab=500,
    n_ctx_train=128,
    norm_eps=float(np.float32(1e-5)),  # as files have it
    rope_theta=1e6,
    n_rot=64,
    n_experts=8,
    n_experts_used=2,
    sliding_window=0,
    tied_output=False,
)


@pytest.fixture
def make_synthetic(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCH)
    return import_module("make_synthetic")


@pytest.fixture
def q4_k_m(make_synthetic: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "synthetic.gguf"
    make_synthetic.write_synthetic(path, HPARAMS, make_synthetic.RECIPES["Q4_K_M"], seed=0)
    return path


def test_every_type_gives_weights_of_the_same_size(
    make_synthetic: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "synthetic.gguf"
    for recipe in make_synthetic.RECIPES.values():
        make_synthetic.write_synthetic(path, HPARAMS, recipe, seed=0)
        with open_gguf(path) as gguf:
            assert read_hparams(gguf) == HPARAMS
            for name in gguf.tensors:
                values = gguf.array(name)
                if name == "token_embd.weight":
                    assert values.std() == pytest.approx(1, rel=0.05)
                elif not name.endswith("norm.weight"):
                    assert values.std() == pytest.approx(0.02, rel=0.1)
                if "_exps" in name:  # large enough to tell
                    assert abs(values.mean()) < 0.0005


def test_experts_differ(q4_k_m: Path) -> None:
    with open_gguf(q4_k_m) as gguf:
        experts = gguf.array("blk.0.ffn_up_exps.weight").reshape(8, -1)
    correlation = np.corrcoef(experts) - np.eye(8)
    assert np.abs(correlation).max() < 0.05


def test_q4_k_m_is_the_mix_that_people_download(q4_k_m: Path) -> None:
    with open_gguf(q4_k_m) as gguf:
        types = {name: tensor.type_name for name, tensor in gguf.tensors.items()}
    assert [types[f"blk.{i}.ffn_down_exps.weight"] for i in range(4)] == [
        "Q4_K",
        "Q4_K",
        "Q6_K",
        "Q6_K",
    ]
    layer = {name[6:-7]: kind for name, kind in types.items() if name.startswith("blk.0.")}
    assert layer == {
        "attn_norm": "F32",
        "attn_q": "Q4_K",
        "attn_k": "Q8_0",
        "attn_v": "Q8_0",
        "attn_output": "Q5_K",
        "ffn_norm": "F32",
        "ffn_gate_inp": "F32",
        "ffn_gate_exps": "Q4_K",
        "ffn_up_exps": "Q4_K",
        "ffn_down_exps": "Q4_K",
    }
    assert types["token_embd.weight"] == "Q4_K"
    assert types["output.weight"] == "Q6_K"


def test_half_of_mixtrals_layers_use_more_bits(make_synthetic: ModuleType) -> None:
    assert sum(make_synthetic.uses_more_bits(layer, 32) for layer in range(32)) == 16


def test_routing_varies(q4_k_m: Path) -> None:
    chosen: list[np.ndarray | None] = []
    with LLM(q4_k_m) as llm:
        with llm.engine.tap(lambda event: chosen.append(event.chosen)):  # None but for routers
            logits = llm.logits(range(100, 200))
        assert np.isfinite(logits).all()
    experts = np.concatenate([ids for ids in chosen if ids is not None])
    assert np.bincount(experts.ravel(), minlength=8).min() > 20  # of 100 on average
    assert len(set(map(tuple, experts.tolist()))) > 20


def test_bytes_of_a_token_are_those_of_the_experts_that_are_used(q4_k_m: Path) -> None:
    with open_gguf(q4_k_m) as gguf:
        sizes = {name: t.n_bytes for name, t in gguf.tensors.items() if "_norm" not in name}
        found = decode_cost(gguf, HPARAMS, first=0, n_tokens=1).n_bytes
        found -= kv_bytes(HPARAMS, 1, "f16")
    del sizes["token_embd.weight"]
    experts = sum(size for name, size in sizes.items() if "_exps" in name)
    assert found == sum(sizes.values()) - experts * 6 // 8


def test_the_bandwidth_is_measured_before_a_round_and_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    module = import_module("race")
    monkeypatch.setattr(module, "PAUSE", 0)
    order: list[str] = []
    bandwidth, contender = Mock(), Mock()
    contender.name = "ours"
    bandwidth.measure.side_effect = lambda: order.append("bandwidth") or 1.0
    contender.measure.side_effect = lambda test, ids: order.append(test) or 1.0
    race = module.Race({"prefill": 2, "decode": 1}, bytes_per_token=1)
    race.run_round([contender], bandwidth, [1, 2])
    assert order == ["bandwidth", "prefill", "decode", "bandwidth"]


def test_ratios_are_taken_within_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    race = import_module("race").Race({"decode": 10}, bytes_per_token=100)
    race.speeds = {"decode": {"ours": [10.0, 20.0, 40.0], "theirs": [5.0, 10.0, 40.0]}}
    race.bandwidths = [4000.0, 8000.0]
    ours, theirs = race.results()
    assert (ours.tokens_per_second, ours.ours_over_this, ours.bandwidth_fraction) == (20, 1, 0.25)
    assert (theirs.tokens_per_second, theirs.ours_over_this, theirs.spread) == (10, 2, 3.5)


def test_accuracy_compares_with_the_exact_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    accuracy = import_module("accuracy")
    chunk = np.array([1, 1, 0, 0], np.int32)  # its last token alone is scored
    even, uneven = (np.log(np.array([p], np.float32)) for p in ([0.5, 0.5], [0.25, 0.75]))
    found = accuracy.compared([even, even], [even, uneven], [chunk, chunk])
    divergence = np.log(2) - np.log(3) / 2  # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75)
    assert found.perplexity == pytest.approx(8**0.5)
    assert found.kl_mean == pytest.approx(divergence / 2)
    assert found.kl_median == pytest.approx(divergence / 2)
    assert accuracy.compared([even] * 2, [even] * 2, [chunk] * 2).kl_mean == 0


def test_accuracy_measures_a_file_against_its_own_weights(
    monkeypatch: pytest.MonkeyPatch, q4_k_m: Path
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    accuracy = import_module("accuracy")
    chunks = [np.arange(start, start + 16, dtype=np.int32) for start in (0, 100)]
    exact = accuracy.exact_logits(q4_k_m, chunks)
    assert [logits.shape for logits in exact] == [(7, HPARAMS.n_vocab)] * 2
    for phase in Phase:
        found = accuracy.our_logits(q4_k_m, chunks, "generic", phase)
        assert 0 < accuracy.compared(exact, found, chunks).kl_mean < 0.01
