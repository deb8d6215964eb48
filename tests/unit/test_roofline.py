"""What a pass costs, counted by hand; and limits that are none of the machine's making."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf_files import (
    DIM,
    FFN,
    N_HEADS,
    N_KV_HEADS,
    N_LAYERS,
    N_VOCAB,
    tiny_metadata,
    tiny_shapes,
    write_model,
)  # fmt: skip
from reference.tiny_engine import tiny_engine

from pymixtral.engine import EngineOptions, Phase, tiers
from pymixtral.formats import open_gguf, read_hparams
from pymixtral.roofline import (
    Cost,
    Limits,
    batch_bytes,
    decode_cost,
    expert_products,
    prefill_cost,
)

Q_AND_OUTPUT = 2 * DIM * DIM
K_AND_V = 2 * DIM * DIM * N_KV_HEADS // N_HEADS
KV_OF_A_POSITION = 2 * 2 * N_LAYERS * DIM * N_KV_HEADS // N_HEADS  # f16
ROUTER, EXPERT, HEAD = 4 * DIM, 3 * FFN * DIM, N_VOCAB * DIM


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Four experts, of which two are used; all tensors in F32."""
    return write_model(tmp_path / "tiny.gguf", tiny_metadata(4), tiny_shapes(4))


def test_decode_reads_and_multiplies_what_a_token_uses(tiny: Path) -> None:
    with open_gguf(tiny) as gguf:
        cost = decode_cost(gguf, read_hparams(gguf), first=5, n_tokens=3)
    weights = N_LAYERS * (Q_AND_OUTPUT + K_AND_V + ROUTER + 2 * EXPERT) + HEAD
    n_seen = 6 + 7 + 8
    assert cost.n_bytes == 3 * 4 * weights + KV_OF_A_POSITION * n_seen
    assert cost.n_products == 3 * weights + 2 * N_LAYERS * DIM * n_seen


def test_decode_reads_less_of_a_smaller_cache(tiny: Path) -> None:
    with open_gguf(tiny) as gguf:
        f16, f32 = (
            decode_cost(gguf, read_hparams(gguf), first=99, n_tokens=1, kv_type=kv_type)
            for kv_type in ("f16", "f32")
        )
    assert f32.n_bytes - f16.n_bytes == 100 * KV_OF_A_POSITION
    assert f32.n_products == f16.n_products


def test_a_short_prompt_reads_the_experts_that_its_tokens_may_choose(tiny: Path) -> None:
    with open_gguf(tiny) as gguf:
        hparams = read_hparams(gguf)
        one, two = (prefill_cost(gguf, hparams, n, batch_rows=8).n_bytes for n in (1, 2))
        assert one == batch_bytes(gguf, hparams, n_read=2)
    # The second token's two of four experts are on average one new one; the last layer is for one.
    assert two - one == 4 * (N_LAYERS - 1) * EXPERT


def test_prefill_reads_the_experts_once_a_pass_and_ends_with_one_token(tiny: Path) -> None:
    """Of the last layer, all tokens but the last have nothing but keys and values."""
    with open_gguf(tiny) as gguf:
        cost = prefill_cost(gguf, read_hparams(gguf), n_tokens=20, batch_rows=8)
        products_of_experts = expert_products(gguf, read_hparams(gguf), n_tokens=20)
    shared = Q_AND_OUTPUT + K_AND_V + ROUTER
    attention = 2 * DIM * ((N_LAYERS - 1) * sum(range(1, 21)) + 20)
    once = Q_AND_OUTPUT + ROUTER + 2 * EXPERT + HEAD
    n_read = sum(4 * (1 - 0.5**n) for n in (8, 8, 4))  # experts, in all passes
    assert cost.n_bytes == pytest.approx(
        4 * ((N_LAYERS - 1) * (3 * shared + n_read * EXPERT) + 3 * K_AND_V) + 4 * once
    )
    assert cost.n_products == (
        20 * ((N_LAYERS - 1) * (shared + 2 * EXPERT) + K_AND_V) + once + attention
    )
    assert products_of_experts == (20 * (N_LAYERS - 1) + 1) * 2 * EXPERT


def test_a_batch_reads_the_experts_that_were_chosen(tiny: Path) -> None:
    with open_gguf(tiny) as gguf:
        hparams = read_hparams(gguf)
        three = batch_bytes(gguf, hparams, n_read=3)
        two, decoded = batch_bytes(gguf, hparams, n_read=2), decode_cost(gguf, hparams, 0, 1)
    assert two + KV_OF_A_POSITION == decoded.n_bytes
    assert three == 4 * (N_LAYERS * (Q_AND_OUTPUT + K_AND_V + ROUTER + 3 * EXPERT) + HEAD)


def test_a_window_bounds_attention(tiny: Path) -> None:
    with open_gguf(tiny) as gguf:
        hparams = read_hparams(gguf)
        whole, windowed = (
            decode_cost(gguf, replace(hparams, sliding_window=window), first=9, n_tokens=1)
            for window in (0, 4)
        )
    assert whole.n_products - windowed.n_products == 2 * N_LAYERS * DIM * (10 - 4)


def test_the_roof_is_the_lower_of_two_limits() -> None:
    limits = Limits(bytes_per_second=10.0, products_per_second=80.0, instruction="none")
    few, many = Cost(n_bytes=20, n_products=40), Cost(n_bytes=20, n_products=400)
    assert (limits.seconds(few), limits.is_bound_by_memory(few)) == (2.0, True)
    assert (limits.seconds(many), limits.is_bound_by_memory(many)) == (5.0, False)


@pytest.mark.parametrize("tier", [name for name, supported in tiers().items() if supported])
def test_every_tier_reads_and_multiplies(tier: str) -> None:
    """Both do nothing that shows; here they run, over a buffer that ends amid a chunk."""
    with closing(tiny_engine(options=EngineOptions(tier=tier))) as engine:
        engine.read(np.ones((1 << 20) + 4096, np.uint8))
        engine.read(np.ones(1, np.uint8))
        assert engine.multiply(10**6) >= 10**6
        assert engine.multiply_instruction


def test_the_profile_counts_the_phase_that_ran() -> None:
    with closing(tiny_engine()) as engine:
        assert set(engine.op_seconds(Phase.PROMPT).values()) == {0.0}
        engine.session(8).eval([1, 2, 3], Phase.PROMPT)
        assert all(seconds > 0 for seconds in engine.op_seconds(Phase.PROMPT).values())
        assert set(engine.op_seconds(Phase.GENERATED).values()) == {0.0}
