"""How checkpoints name and lay out their tensors: where each GGUF tensor is to be found.

Source: convert_mixtral_weights_to_hf.py and modeling_mixtral.py of
https://github.com/huggingface/transformers; mistral-inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from . import names
from .blocks import TypeId
from .hparams import HParams
from .names import TensorRole, unpermute_rope
from .shards import Shards

Experts = Callable[[TensorRole, int | None, HParams], Iterator["Source"]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor, or one expert of it, is in the checkpoint."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor `name`
    rows: tuple[int, int] | None = None  # first and end, over all dimensions but the last
    rope_heads: int = 0  # above 0: the rows are to be un-permuted
    is_transposed: bool = False

    def load(self, tensors: Shards) -> tuple[npt.NDArray[Any], TypeId]:
        """As stored: the float values, of uint16 where they are BF16, and their type."""
        values, type_id = tensors.stored(self.name)
        if self.rows is not None:
            values = values.reshape(-1, values.shape[-1])[slice(*self.rows)]
        if self.is_transposed:
            values = values.T
        if self.rope_heads:
            values = unpermute_rope(values, self.rope_heads)
        return values, type_id


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to name and lay out the tensors."""

    names: dict[TensorRole, str]
    dense_ffn_names: dict[TensorRole, str]
    router_name: str
    experts: Experts
    is_half_split: bool  # wq and wk are permuted for RoPE pairs (i, i + head_dim / 2)

    def sources(
        self, role: TensorRole, layer: int | None, shape: tuple[int, ...], hparams: HParams
    ) -> Iterator[Source]:
        """The parts of a tensor of `shape`, which follow one another along the first dimension."""
        if role in self.names:
            heads = {TensorRole.ATTN_Q: hparams.n_heads, TensorRole.ATTN_K: hparams.n_kv_heads}
            rope_heads = heads.get(role, 0) if self.is_half_split else 0
            yield Source(self.names[role].format(layer=layer), shape, rope_heads=rope_heads)
        elif role is TensorRole.FFN_GATE_INP:
            yield Source(self.router_name.format(layer=layer), shape)
        elif hparams.n_experts:
            yield from self.experts(role, layer, hparams)
        else:
            yield Source(self.dense_ffn_names[role].format(layer=layer), shape)


def _one_by_one(templates: dict[TensorRole, str]) -> Experts:
    def experts(role: TensorRole, layer: int | None, hparams: HParams) -> Iterator[Source]:
        is_down = role is TensorRole.FFN_DOWN
        shape = (hparams.dim, hparams.ffn_dim) if is_down else (hparams.ffn_dim, hparams.dim)
        for expert in range(hparams.n_experts):
            yield Source(templates[role].format(layer=layer, expert=expert), shape)

    return experts


def _packed(role: TensorRole, layer: int | None, hparams: HParams) -> Iterator[Source]:
    """gate_up_proj (experts, 2 * ffn, dim), gate first; down_proj (experts, dim, ffn)."""
    dim, ffn = hparams.dim, hparams.ffn_dim
    if role is TensorRole.FFN_DOWN:
        name, rows, cols, first, n = names.HF_PACKED_DOWN_NAME, dim, ffn, 0, dim
    else:
        name, rows, cols, n = names.HF_PACKED_GATE_UP_NAME, 2 * ffn, dim, ffn
        first = 0 if role is TensorRole.FFN_GATE else ffn
    for expert in range(hparams.n_experts):
        begin = expert * rows + first
        shape = (hparams.n_experts, rows, cols)
        yield Source(name.format(layer=layer), shape, rows=(begin, begin + n))


def _stacked(role: TensorRole, layer: int | None, hparams: HParams) -> Iterator[Source]:
    """w1, w2 and w3 are (experts * ffn, dim) each: w2 of an expert is transposed."""
    ffn = hparams.ffn_dim
    for expert in range(hparams.n_experts):
        yield Source(
            names.MISTRAL_STACKED_NAMES[role].format(layer=layer),
            (hparams.n_experts * ffn, hparams.dim),
            rows=(expert * ffn, (expert + 1) * ffn),
            is_transposed=role is TensorRole.FFN_DOWN,
        )


HF = Layout(
    names.HF_NAMES,
    names.HF_DENSE_FFN_NAMES,
    names.HF_ROUTER_NAME,
    _one_by_one(names.HF_EXPERT_NAMES),
    is_half_split=True,
)
HF_PACKED = Layout(
    names.HF_NAMES,
    names.HF_DENSE_FFN_NAMES,
    names.HF_PACKED_ROUTER_NAME,
    _packed,
    is_half_split=True,
)
MISTRAL = Layout(
    names.MISTRAL_NAMES,
    names.MISTRAL_DENSE_FFN_NAMES,
    names.MISTRAL_ROUTER_NAME,
    _one_by_one(names.MISTRAL_EXPERT_NAMES),
    is_half_split=False,
)
MISTRAL_STACKED = Layout(
    names.MISTRAL_NAMES,
    names.MISTRAL_DENSE_FFN_NAMES,
    names.MISTRAL_STACKED_ROUTER_NAME,
    _stacked,
    is_half_split=False,
)


def find_hf_layout(tensors: Shards) -> Layout:
    return HF_PACKED if names.HF_PACKED_DOWN_NAME.format(layer=0) in tensors else HF


def find_mistral_layout(tensors: Shards) -> Layout:
    stacked = names.MISTRAL_STACKED_NAMES[TensorRole.FFN_DOWN].format(layer=0)
    return MISTRAL_STACKED if stacked in tensors else MISTRAL
