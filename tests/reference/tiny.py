"""Tiny random models: the shapes that break engines, in a few kilobytes.

A shape and its seed determine the weights, so that files of expected results need not carry them.
Weights have a standard deviation of 0.2: with the usual 0.02 attention is nearly uniform and the
experts nearly silent, and a wrong theta or a missing permutation hides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WEIGHT_STD = 0.2

Weights = dict[str, NDArray[np.float32]]  # GGUF name -> (rows, cols) or (n_experts, rows, cols)


@dataclass(frozen=True)
class TinyModel:
    """Hyperparameters, named as in `pymixtral.formats.hparams`, and the seed of the weights."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    dim: int
    ffn_dim: int
    n_experts: int  # 0: dense
    n_experts_used: int
    n_vocab: int
    n_layers: int = 2
    sliding_window: int = 0  # 0: none
    seed: int = 1
    n_ctx_train: int = 512
    norm_eps: float = 1e-5
    rope_theta: float = 1e6


# fmt: off
TINY_MODELS: dict[str, TinyModel] = {
    #                       heads  kv  head_dim  dim  ffn  experts  used  vocab
    "one-kv-head":   TinyModel(3,   1,       16,  48,  96,       8,    2,   101),
    "no-sharing":    TinyModel(5,   5,        8,  40,  40,       3,    1,    97),
    "two-share":     TinyModel(4,   2,       16,  64, 112,       8,    3,   128),
    "four-share":    TinyModel(8,   2,       16,  96,  64,       8,    2,   293),
    "six-share":     TinyModel(6,   1,       16,  96,  72,       3,    3,   103),
    "wide-heads":    TinyModel(6,   2,       24,  64,  96,       8,    2,   101),
    "three-layers":  TinyModel(4,   1,       32,  64, 160,       3,    2,   102, n_layers=3),
    "dense":         TinyModel(6,   2,       16,  96, 136,       0,    0,   101),
    "dense-window":  TinyModel(4,   2,       16,  64,  96,       0,    0,   101, sliding_window=7),
    "long":          TinyModel(2,   1,       16,  32,  32,       3,    2,   101, n_ctx_train=8192,
                               seed=6),
}
# fmt: on


def tensor_shapes(model: TinyModel) -> dict[str, tuple[int, ...]]:
    """GGUF name -> shape of every tensor, in the order in which weights are drawn."""
    q_dim, kv_dim = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    experts = (model.n_experts,) if model.n_experts else ()
    ffn = "ffn_{}_exps" if model.n_experts else "ffn_{}"
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (model.dim,),
        "attn_q": (q_dim, model.dim),
        "attn_k": (kv_dim, model.dim),
        "attn_v": (kv_dim, model.dim),
        "attn_output": (model.dim, q_dim),
        "ffn_norm": (model.dim,),
        **({"ffn_gate_inp": (model.n_experts, model.dim)} if model.n_experts else {}),
        ffn.format("gate"): (*experts, model.ffn_dim, model.dim),
        ffn.format("up"): (*experts, model.ffn_dim, model.dim),
        ffn.format("down"): (*experts, model.dim, model.ffn_dim),
    }
    return {
        "token_embd.weight": (model.n_vocab, model.dim),
        **{
            f"blk.{i}.{name}.weight": shape
            for i in range(model.n_layers)
            for name, shape in layer.items()
        },
        "output_norm.weight": (model.dim,),
        "output.weight": (model.n_vocab, model.dim),
    }


def random_weights(model: TinyModel) -> Weights:
    """Normal weights, centred on 1 for the norms.

    RandomState, unlike numpy's newer generators, promises never to change its stream.
    """
    random = np.random.RandomState(model.seed)

    def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        return (centre + WEIGHT_STD * random.standard_normal(shape)).astype(np.float32)

    return {name: draw(name, shape) for name, shape in tensor_shapes(model).items()}


def per_expert(weights: Weights) -> Weights:
    """The same weights in the layout of December 2023: each expert in a tensor of its own."""
    apart: Weights = {}
    for name, weight in weights.items():
        if name.endswith("_exps.weight"):
            stem = name.removesuffix("_exps.weight")
            apart |= {f"{stem}.{i}.weight": expert for i, expert in enumerate(weight)}
        else:
            apart[name] = weight
    return apart


def permute_rope(weight: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Reorders the rows of q or k from interleaved pairs (GGUF) to half-split ones (HF)."""
    rows, cols = weight.shape
    pairs = weight.reshape(n_heads, rows // n_heads // 2, 2, cols)
    return pairs.swapaxes(1, 2).reshape(rows, cols)


def random_ids(model: TinyModel, n_ids: int) -> NDArray[np.int32]:
    """BOS and then ids (n_ids,) from the whole vocabulary."""
    random = np.random.RandomState(model.seed + 1)
    ids = random.randint(0, model.n_vocab, n_ids).astype(np.int32)
    ids[0] = 1
    return ids
