"""A Mixtral in numpy, written to be read beside the paper (arXiv:2401.04088) and to be trusted.

It takes weights under GGUF names, so RoPE turns the interleaved pairs (2i, 2i+1) of a head, and
a model without experts is a Mistral (arXiv:2310.06825) or Llama. There is no KV cache: every call
computes a whole sequence. Attention is tiled over queries, so that 32k positions of a small model
fit in memory. In float64 the result serves as the exact one; float32 rounds where engines do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[np.floating]

QUERY_TILE = 64  # queries that attend at once; bounds the scores to n_heads * QUERY_TILE * T


class HParams(Protocol):
    """The hyperparameters that decide a forward pass; `n_experts` 0 is a dense model."""

    @property
    def n_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def n_experts(self) -> int: ...
    @property
    def n_experts_used(self) -> int: ...
    @property
    def sliding_window(self) -> int: ...  # positions a token sees, itself included; 0: all
    @property
    def norm_eps(self) -> float: ...
    @property
    def rope_theta(self) -> float: ...


class Oracle:
    """Logits of one model.

    `weights` maps GGUF names to arrays of shape (rows, cols), experts (n_experts, rows, cols); a
    missing `output.weight` ties the output head to the embedding.
    """

    def __init__(
        self, hparams: HParams, weights: Mapping[str, NDArray], dtype: DTypeLike = np.float32
    ) -> None:
        self.hparams = hparams
        self.dtype = np.dtype(dtype)
        self.weights = {name: array.astype(dtype) for name, array in weights.items()}

    def logits(self, ids: ArrayLike, positions: ArrayLike | None = None) -> Array:
        """Logits (n_positions, n_vocab) after each of `positions` (default: all) of `ids`."""
        x = self.weights["token_embd.weight"][np.asarray(ids)]  # (T, dim)
        for layer in range(self.hparams.n_layers):
            x = x + self.attention(layer, self.norm(x, f"blk.{layer}.attn_norm.weight"))
            x = x + self.feed_forward(layer, self.norm(x, f"blk.{layer}.ffn_norm.weight"))
        if positions is not None:
            x = x[np.asarray(positions)]
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return self.norm(x, "output_norm.weight") @ head.T

    def norm(self, x: Array, name: str) -> Array:
        """RMSNorm (arXiv:1910.07467) of each row of x (n, dim)."""
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + self.hparams.norm_eps) * self.weights[name]

    def attention(self, layer: int, x: Array) -> Array:
        """Causal grouped-query attention (arXiv:2305.13245) of x (T, dim)."""
        hp = self.hparams
        group = hp.n_heads // hp.n_kv_heads  # query heads that share one key-value head

        def project(part: str, *heads: int) -> Array:  # (T, *heads, head_dim)
            projected = x @ self.weights[f"blk.{layer}.attn_{part}.weight"].T
            return projected.reshape(len(x), *heads, hp.head_dim)

        q = self.rope(project("q", hp.n_kv_heads, group))
        k = self.rope(project("k", hp.n_kv_heads))
        v = project("v", hp.n_kv_heads)
        attended = np.concatenate(
            [
                self.attend(q[first : first + QUERY_TILE], k, v, first)
                for first in range(0, len(x), QUERY_TILE)
            ]
        )
        return attended @ self.weights[f"blk.{layer}.attn_output.weight"].T

    def attend(self, q: Array, k: Array, v: Array, first: int) -> Array:
        """Attention of the queries at positions `first` and on; (n, n_heads * head_dim).

        q is (n, n_kv_heads, group, head_dim), k and v are (T, n_kv_heads, head_dim).
        """
        queries = np.arange(first, first + len(q))
        window = self.hparams.sliding_window or len(k)
        keys = np.arange(max(0, first - window + 1), first + len(q))
        age = queries[:, None] - keys
        visible = (age >= 0) & (age < window)

        k, v = k[keys].transpose(1, 2, 0), v[keys].transpose(1, 0, 2)  # per key-value head
        scores = q.transpose(1, 2, 0, 3) @ k[:, None]  # (n_kv_heads, group, n, keys)
        scores *= self.hparams.head_dim**-0.5
        weights = softmax(np.where(visible, scores, -np.inf))
        return (weights @ v[:, None]).transpose(2, 0, 1, 3).reshape(len(q), -1)

    def rope(self, x: Array) -> Array:
        """Turns the pair (2i, 2i+1) of x (T, ..., head_dim) by position * theta^(-2i/head_dim).

        RoFormer, arXiv:2104.09864. Angles are float64 whatever the model's type: at position
        8000 a float32 angle can already be wrong by 2^-12.
        """
        head_dim = self.hparams.head_dim
        frequency = self.hparams.rope_theta ** (-np.arange(0, head_dim, 2) / head_dim)
        angle = np.arange(len(x))[:, None] * frequency  # (T, head_dim / 2)
        angle = angle.reshape(len(x), *(1,) * (x.ndim - 2), head_dim // 2)
        cos, sin = np.cos(angle).astype(self.dtype), np.sin(angle).astype(self.dtype)
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
        return turned.reshape(x.shape)

    def feed_forward(self, layer: int, x: Array) -> Array:
        """The dense feed-forward, or the sparse mixture of experts, of x (T, dim)."""
        gate, up, down = (
            self.weights[f"blk.{layer}.ffn_{part}{'_exps' * self.is_moe}.weight"]
            for part in ("gate", "up", "down")
        )
        if not self.is_moe:
            return swiglu(x, gate, up, down)
        chosen, share = self.route(x @ self.weights[f"blk.{layer}.ffn_gate_inp.weight"].T)
        y = np.zeros_like(x)
        for expert in range(self.hparams.n_experts):
            token, rank = np.nonzero(chosen == expert)
            output = swiglu(x[token], gate[expert], up[expert], down[expert])
            y[token] += share[token, rank, None] * output
        return y

    @property
    def is_moe(self) -> bool:
        return self.hparams.n_experts > 0

    def route(self, router_logits: Array) -> tuple[NDArray[np.intp], Array]:
        """The experts of each token, best first, and their shares: both (T, n_experts_used).

        Of equal logits the expert with the lowest index wins.
        """
        order = np.argsort(-router_logits, axis=-1, kind="stable")
        chosen = order[:, : self.hparams.n_experts_used]
        return chosen, softmax(np.take_along_axis(router_logits, chosen, axis=-1))


def swiglu(x: Array, gate: Array, up: Array, down: Array) -> Array:
    """down(silu(gate x) * up x), arXiv:2002.05202: w2, w1 and w3 of the original weights."""
    gated = x @ gate.T
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        return (gated / (1 + np.exp(-gated)) * (x @ up.T)) @ down.T


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
