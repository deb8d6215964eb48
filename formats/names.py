"""The names of a model's tensors in GGUF files and checkpoints, and the RoPE row order."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any

import numpy.typing as npt


class TensorRole(IntEnum):
    """What a tensor does. The numbers are shared with the engine's loader."""

    TOKEN_EMBD = 0
    OUTPUT_NORM = 1
    OUTPUT = 2
    ATTN_NORM = 3
    ATTN_Q = 4
    ATTN_K = 5
    ATTN_V = 6
    ATTN_OUTPUT = 7
    FFN_NORM = 8
    FFN_GATE_INP = 9  # the router
    FFN_GATE = 10  # w1, of a dense layer or of all experts
    FFN_UP = 11  # w3
    FFN_DOWN = 12  # w2


GLOBAL_NAMES: dict[TensorRole, str] = {
    TensorRole.TOKEN_EMBD: "token_embd.weight",
    TensorRole.OUTPUT_NORM: "output_norm.weight",
    TensorRole.OUTPUT: "output.weight",
}

_ATTENTION_NAMES: dict[TensorRole, str] = {
    TensorRole.ATTN_NORM: "blk.{layer}.attn_norm.weight",
    TensorRole.ATTN_Q: "blk.{layer}.attn_q.weight",
    TensorRole.ATTN_K: "blk.{layer}.attn_k.weight",
    TensorRole.ATTN_V: "blk.{layer}.attn_v.weight",
    TensorRole.ATTN_OUTPUT: "blk.{layer}.attn_output.weight",
    TensorRole.FFN_NORM: "blk.{layer}.ffn_norm.weight",
}

DENSE_LAYER_NAMES: dict[TensorRole, str] = {
    **_ATTENTION_NAMES,
    TensorRole.FFN_GATE: "blk.{layer}.ffn_gate.weight",
    TensorRole.FFN_UP: "blk.{layer}.ffn_up.weight",
    TensorRole.FFN_DOWN: "blk.{layer}.ffn_down.weight",
}

MOE_LAYER_NAMES: dict[TensorRole, str] = {
    **_ATTENTION_NAMES,
    TensorRole.FFN_GATE_INP: "blk.{layer}.ffn_gate_inp.weight",
    TensorRole.FFN_GATE: "blk.{layer}.ffn_gate_exps.weight",
    TensorRole.FFN_UP: "blk.{layer}.ffn_up_exps.weight",
    TensorRole.FFN_DOWN: "blk.{layer}.ffn_down_exps.weight",
}

# The layout of December 2023: a tensor for each expert.
EXPERT_NAMES: dict[TensorRole, str] = {
    TensorRole.FFN_GATE: "blk.{layer}.ffn_gate.{expert}.weight",
    TensorRole.FFN_UP: "blk.{layer}.ffn_up.{expert}.weight",
    TensorRole.FFN_DOWN: "blk.{layer}.ffn_down.{expert}.weight",
}

_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.")
_EXPERT = re.compile(
    r"(blk\.(?:0|[1-9][0-9]{0,5})\.ffn_(?:gate|up|down))\.(0|[1-9][0-9]{0,5})\.weight"
)
_GLOBAL_ROLES: dict[str, TensorRole] = {name: role for role, name in GLOBAL_NAMES.items()}
_LAYER_ROLES: dict[str, TensorRole] = {
    template.removeprefix("blk.{layer}."): role
    for table in (DENSE_LAYER_NAMES, MOE_LAYER_NAMES)
    for role, template in table.items()
}

# The same tensors in Hugging Face's LlamaForCausalLM, MistralForCausalLM and MixtralForCausalLM.
HF_NAMES: dict[TensorRole, str] = {
    TensorRole.TOKEN_EMBD: "model.embed_tokens.weight",
    TensorRole.OUTPUT_NORM: "model.norm.weight",
    TensorRole.OUTPUT: "lm_head.weight",
    TensorRole.ATTN_NORM: "model.layers.{layer}.input_layernorm.weight",
    TensorRole.ATTN_Q: "model.layers.{layer}.self_attn.q_proj.weight",
    TensorRole.ATTN_K: "model.layers.{layer}.self_attn.k_proj.weight",
    TensorRole.ATTN_V: "model.layers.{layer}.self_attn.v_proj.weight",
    TensorRole.ATTN_OUTPUT: "model.layers.{layer}.self_attn.o_proj.weight",
    TensorRole.FFN_NORM: "model.layers.{layer}.post_attention_layernorm.weight",
}

HF_DENSE_FFN_NAMES: dict[TensorRole, str] = {
    TensorRole.FFN_GATE: "model.layers.{layer}.mlp.gate_proj.weight",
    TensorRole.FFN_UP: "model.layers.{layer}.mlp.up_proj.weight",
    TensorRole.FFN_DOWN: "model.layers.{layer}.mlp.down_proj.weight",
}

HF_EXPERT_NAMES: dict[TensorRole, str] = {
    TensorRole.FFN_GATE: "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
    TensorRole.FFN_UP: "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
    TensorRole.FFN_DOWN: "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
}
HF_ROUTER_NAME = "model.layers.{layer}.block_sparse_moe.gate.weight"

# The packed layout of newer transformers: gate_up_proj is (experts, 2 * ffn, dim), gate first.
HF_PACKED_GATE_UP_NAME = "model.layers.{layer}.mlp.experts.gate_up_proj"
HF_PACKED_DOWN_NAME = "model.layers.{layer}.mlp.experts.down_proj"
HF_PACKED_ROUTER_NAME = "model.layers.{layer}.mlp.gate.weight"

# The same tensors in Mistral AI's own releases.
MISTRAL_NAMES: dict[TensorRole, str] = {
    TensorRole.TOKEN_EMBD: "tok_embeddings.weight",
    TensorRole.OUTPUT_NORM: "norm.weight",
    TensorRole.OUTPUT: "output.weight",
    TensorRole.ATTN_NORM: "layers.{layer}.attention_norm.weight",
    TensorRole.ATTN_Q: "layers.{layer}.attention.wq.weight",
    TensorRole.ATTN_K: "layers.{layer}.attention.wk.weight",
    TensorRole.ATTN_V: "layers.{layer}.attention.wv.weight",
    TensorRole.ATTN_OUTPUT: "layers.{layer}.attention.wo.weight",
    TensorRole.FFN_NORM: "layers.{layer}.ffn_norm.weight",
}

MISTRAL_DENSE_FFN_NAMES: dict[TensorRole, str] = {
    TensorRole.FFN_GATE: "layers.{layer}.feed_forward.w1.weight",
    TensorRole.FFN_UP: "layers.{layer}.feed_forward.w3.weight",
    TensorRole.FFN_DOWN: "layers.{layer}.feed_forward.w2.weight",
}

MISTRAL_EXPERT_NAMES: dict[TensorRole, str] = {
    TensorRole.FFN_GATE: "layers.{layer}.feed_forward.experts.{expert}.w1.weight",
    TensorRole.FFN_UP: "layers.{layer}.feed_forward.experts.{expert}.w3.weight",
    TensorRole.FFN_DOWN: "layers.{layer}.feed_forward.experts.{expert}.w2.weight",
}
MISTRAL_ROUTER_NAME = "layers.{layer}.feed_forward.gate.weight"

# The consolidated.NN.pt files: experts are stacked along the rows, (experts * ffn, dim), w2 too.
MISTRAL_STACKED_NAMES: dict[TensorRole, str] = {
    TensorRole.FFN_GATE: "layers.{layer}.block_sparse_moe.w1",
    TensorRole.FFN_UP: "layers.{layer}.block_sparse_moe.w3",
    TensorRole.FFN_DOWN: "layers.{layer}.block_sparse_moe.w2",
}
MISTRAL_STACKED_ROUTER_NAME = "layers.{layer}.block_sparse_moe.gate.weight"


def parse_name(name: str) -> tuple[TensorRole, int | None] | None:
    """Role and layer of a GGUF tensor (layer None: not in a layer); None for an unknown name.

    One expert's tensor has the role of the merged one; `expert_of` tells them apart.
    """
    name = merged_name(name)
    match = _LAYER.match(name)
    if match is None:
        role = _GLOBAL_ROLES.get(name)
        return None if role is None else (role, None)
    role = _LAYER_ROLES.get(name[match.end() :])
    return None if role is None else (role, int(match[1]))


def expert_of(name: str) -> int | None:
    """The expert whose matrix a tensor holds, in the layout of December 2023; None elsewhere."""
    match = _EXPERT.fullmatch(name)
    return None if match is None else int(match[2])


def merged_name(name: str) -> str:
    """The tensor of all experts that one expert's belongs to; any other name as it is."""
    match = _EXPERT.fullmatch(name)
    return name if match is None else f"{match[1]}_exps.weight"


def unpermute_rope(weight: npt.NDArray[Any], n_heads: int) -> npt.NDArray[Any]:
    """Reorder the rows of a Hugging Face wq or wk for the pairing that GGUF uses.

    Hugging Face rotates the pairs (i, i + head_dim / 2), GGUF's llama files (2i, 2i + 1).

    Args:
        weight: (n_heads * head_dim, dim).
        n_heads: of wq; n_kv_heads for wk.
    """
    rows, dim = weight.shape
    half = rows // n_heads // 2
    return weight.reshape(n_heads, 2, half, dim).swapaxes(1, 2).reshape(rows, dim)
