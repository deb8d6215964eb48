"""Tensor names, and the row order that RoPE's pairing asks for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pymixtral.formats.names import (
    TensorRole,
    expert_of,
    merged_name,
    parse_name,
    unpermute_rope,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", (TensorRole.TOKEN_EMBD, None)),
        ("output_norm.weight", (TensorRole.OUTPUT_NORM, None)),
        ("output.weight", (TensorRole.OUTPUT, None)),
        ("blk.0.attn_norm.weight", (TensorRole.ATTN_NORM, 0)),
        ("blk.31.attn_q.weight", (TensorRole.ATTN_Q, 31)),
        ("blk.1.attn_k.weight", (TensorRole.ATTN_K, 1)),
        ("blk.1.attn_v.weight", (TensorRole.ATTN_V, 1)),
        ("blk.1.attn_output.weight", (TensorRole.ATTN_OUTPUT, 1)),
        ("blk.1.ffn_norm.weight", (TensorRole.FFN_NORM, 1)),
        ("blk.1.ffn_gate_inp.weight", (TensorRole.FFN_GATE_INP, 1)),
        ("blk.1.ffn_gate.weight", (TensorRole.FFN_GATE, 1)),
        ("blk.1.ffn_gate_exps.weight", (TensorRole.FFN_GATE, 1)),
        ("blk.1.ffn_up_exps.weight", (TensorRole.FFN_UP, 1)),
        ("blk.1.ffn_down_exps.weight", (TensorRole.FFN_DOWN, 1)),
        ("blk.1.attn_q.bias", None),
        ("blk.01.attn_q.weight", None),
        ("blk.-1.attn_q.weight", None),
        ("blk.9999999.attn_q.weight", None),
        ("blk.{layer}.attn_q.weight", None),
        ("blk.1.blk.1.attn_q.weight", None),
        ("blk.1.ffn_gate_up_exps.weight", None),
        ("rope_freqs.weight", None),
        ("", None),
    ],
)
def test_parse_name(name: str, expected: object) -> None:
    assert parse_name(name) == expected


def test_the_roles_keep_their_numbers() -> None:
    """The engine's loader counts on them."""
    assert [role.name for role in TensorRole] == [
        "TOKEN_EMBD",
        "OUTPUT_NORM",
        "OUTPUT",
        "ATTN_NORM",
        "ATTN_Q",
        "ATTN_K",
        "ATTN_V",
        "ATTN_OUTPUT",
        "FFN_NORM",
        "FFN_GATE_INP",
        "FFN_GATE",
        "FFN_UP",
        "FFN_DOWN",
    ]
    assert list(TensorRole) == list(range(13))


def test_names_of_december_2023() -> None:
    assert expert_of("blk.3.ffn_down.7.weight") == 7
    assert merged_name("blk.3.ffn_down.7.weight") == "blk.3.ffn_down_exps.weight"
    assert parse_name("blk.3.ffn_down.7.weight") == (TensorRole.FFN_DOWN, 3)


@pytest.mark.parametrize(
    "name",
    [
        "blk.3.ffn_down.weight",
        "blk.3.ffn_down_exps.weight",
        "blk.3.ffn_down.07.weight",
        "blk.3.ffn_down.-1.weight",
        "blk.3.ffn_norm.7.weight",
        "blk.3.ffn_down.7.weight.7.weight",
        "ffn_down.7.weight",
    ],
)
def test_names_of_no_single_expert(name: str) -> None:
    assert expert_of(name) is None
    assert merged_name(name) == name


Vector = npt.NDArray[np.float64]


def rotate_halves(x: Vector, angles: Vector) -> Vector:
    """Hugging Face's RoPE of one head: pairs (i, i + d / 2)."""
    a, b = np.split(x, 2)
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]
    )


def rotate_neighbours(x: Vector, angles: Vector) -> Vector:
    """GGUF's: pairs (2i, 2i + 1)."""
    pairs = (x[0::2] + 1j * x[1::2]) * np.exp(1j * angles)
    return np.stack([pairs.real, pairs.imag], axis=1).ravel()


@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim"), [(8, 2, 16), (3, 1, 6), (1, 1, 2)])
def test_attention_scores_survive_the_change_of_pairing(
    n_heads: int, n_kv_heads: int, head_dim: int
) -> None:
    rng = np.random.default_rng(0)
    dim = 10
    wq = rng.standard_normal((n_heads * head_dim, dim))
    wk = rng.standard_normal((n_kv_heads * head_dim, dim))
    x, y = rng.standard_normal((2, dim))
    frequencies = 100.0 ** -(np.arange(head_dim // 2) / (head_dim // 2))
    near, far = 3 * frequencies, 11 * frequencies
    q, k = (wq @ x).reshape(n_heads, head_dim), (wk @ y).reshape(n_kv_heads, head_dim)
    q_gguf = (unpermute_rope(wq, n_heads) @ x).reshape(n_heads, head_dim)
    k_gguf = (unpermute_rope(wk, n_kv_heads) @ y).reshape(n_kv_heads, head_dim)
    for head in range(n_heads):
        kv_head = head * n_kv_heads // n_heads
        expected = rotate_halves(q[head], near) @ rotate_halves(k[kv_head], far)
        found = rotate_neighbours(q_gguf[head], near) @ rotate_neighbours(k_gguf[kv_head], far)
        assert found == pytest.approx(expected)
