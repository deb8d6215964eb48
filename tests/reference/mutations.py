"""Mistakes that implementations of Mixtral have made, as changes to a model or to the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from reference.oracle import Array, Oracle, softmax
from reference.tiny import TINY_MODELS, TinyModel, Weights, permute_rope

Mutation = Callable[[TinyModel, Weights], tuple[TinyModel, Weights]]


def theta_10000(model: TinyModel, weights: Weights) -> tuple[TinyModel, Weights]:
    """The default that peers fall back to where a file has no rope theta."""
    return replace(model, rope_theta=1e4), weights


def half_split_rope(model: TinyModel, weights: Weights) -> tuple[TinyModel, Weights]:
    """Rows of q and k left as Hugging Face orders them."""
    heads = {"attn_q": model.n_heads, "attn_k": model.n_kv_heads}
    permuted = {
        name: permute_rope(array, heads[part])
        for name, array in weights.items()
        if (part := _part(name)) in heads
    }
    return model, weights | permuted


def swapped_gate_and_up(model: TinyModel, weights: Weights) -> tuple[TinyModel, Weights]:
    """w1 and w3 taken for each other."""
    return model, _exchange(weights, "ffn_gate", "ffn_up")


def swapped_up_and_down(model: TinyModel, weights: Weights) -> tuple[TinyModel, Weights]:
    """w2 and w3 taken for each other, byte for byte, as one converter does."""
    return model, _exchange(weights, "ffn_up", "ffn_down")


def reversed_experts(model: TinyModel, weights: Weights) -> tuple[TinyModel, Weights]:
    """Experts in another order than the router's rows."""
    return model, {
        name: array[::-1].copy() if "_exps." in name else array for name, array in weights.items()
    }


def wider_window(model: TinyModel, weights: Weights) -> tuple[TinyModel, Weights]:
    """A sliding window that does not count the token itself."""
    return replace(model, sliding_window=model.sliding_window + 1), weights


class UnnormalisedRouter(Oracle):
    """Softmax over all experts, of which the top k are taken as they are."""

    def route(self, router_logits: Array) -> tuple[NDArray[np.intp], Array]:
        chosen, _ = super().route(router_logits)
        return chosen, np.take_along_axis(softmax(router_logits), chosen, axis=-1)


def _part(name: str) -> str:
    """`attn_q` of `blk.3.attn_q.weight`."""
    return name.removesuffix(".weight").split(".")[-1]


def _exchange(weights: Weights, one: str, other: str) -> Weights:
    """Gives each layer's tensor `one` the numbers of `other` and the reverse, keeping shapes."""

    def source(name: str) -> str:
        part = _part(name).removesuffix("_exps")
        return name.replace(part, {one: other, other: one}.get(part, part))

    return {name: weights[source(name)].reshape(array.shape) for name, array in weights.items()}


WIDE_MARGIN = 1e-2  # a hundred times what a right engine may differ

MOE_MODELS = [name for name, model in TINY_MODELS.items() if model.n_experts]

SHORT_MODELS = [name for name in TINY_MODELS if name != "long"]  # which takes seconds

MODELS_OF: dict[Mutation, list[str]] = {
    theta_10000: list(TINY_MODELS),
    half_split_rope: SHORT_MODELS,
    swapped_gate_and_up: SHORT_MODELS,
    swapped_up_and_down: SHORT_MODELS,
    reversed_experts: [name for name in SHORT_MODELS if name in MOE_MODELS],
    wider_window: ["dense-window"],
}

MUTATION_CASES = [(mutation, name) for mutation, names in MODELS_OF.items() for name in names]
