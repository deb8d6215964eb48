"""Writes the golden files: logits of transformers' models on the tiny random models.

    pip install torch==2.13.0 transformers==5.23.0
    PYTHONPATH=tests python tests/golden/make_golden.py

Each .npz holds `ids` (T,), `positions` (n,) and `logits` (n, n_vocab) of those positions; the
weights follow from tests/reference/tiny.py. The models run in float32 with eager attention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from reference.golden import golden_path
from reference.tiny import (
    TINY_MODELS,
    TinyModel,
    Weights,
    permute_rope,
    random_ids,
    random_weights,
)
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

SHORT = tuple(range(0, 40, 3))  # the positions kept; the last one ends the sequence
LONG = (0, 1, 63, 1000, 4095, 4096, 8000, 8191)

# A router that hesitates between two experts lets rounding choose, and proves nothing.
MIN_ROUTER_MARGIN = 1e-4


def hf_weights(model: TinyModel, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The weights under transformers' names, in its RoPE order and packing."""
    renamed = {
        "model.embed_tokens.weight": weights["token_embd.weight"],
        "model.norm.weight": weights["output_norm.weight"],
        "lm_head.weight": weights["output.weight"],
    }
    for i in range(model.n_layers):
        layer = {
            name.split(".")[2]: array
            for name, array in weights.items()
            if name.startswith(f"blk.{i}.")
        }
        hf_layer = {
            "input_layernorm.weight": layer["attn_norm"],
            "self_attn.q_proj.weight": permute_rope(layer["attn_q"], model.n_heads),
            "self_attn.k_proj.weight": permute_rope(layer["attn_k"], model.n_kv_heads),
            "self_attn.v_proj.weight": layer["attn_v"],
            "self_attn.o_proj.weight": layer["attn_output"],
            "post_attention_layernorm.weight": layer["ffn_norm"],
        }
        if model.n_experts:
            gate_up = np.concatenate([layer["ffn_gate_exps"], layer["ffn_up_exps"]], axis=1)
            hf_layer |= {
                "mlp.gate.weight": layer["ffn_gate_inp"],
                "mlp.experts.gate_up_proj": gate_up,
                "mlp.experts.down_proj": layer["ffn_down_exps"],
            }
        else:
            hf_layer |= {f"mlp.{x}_proj.weight": layer[f"ffn_{x}"] for x in ("gate", "up", "down")}
        renamed |= {f"model.layers.{i}.{name}": array for name, array in hf_layer.items()}
    return renamed


def hf_model(model: TinyModel) -> PreTrainedModel:
    """A float32 MixtralForCausalLM, or for a dense model MistralForCausalLM, of that shape."""
    common: dict[str, Any] = {
        "vocab_size": model.n_vocab,
        "hidden_size": model.dim,
        "intermediate_size": model.ffn_dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.n_ctx_train,
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "sliding_window": model.sliding_window or None,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }
    if not model.n_experts:
        return MistralForCausalLM(MistralConfig(**common))
    return MixtralForCausalLM(
        MixtralConfig(
            num_local_experts=model.n_experts,
            num_experts_per_tok=model.n_experts_used,
            output_router_logits=True,
            **common,
        )
    )


def router_margin(router_logits: tuple[torch.Tensor, ...], n_used: int) -> float:
    """The smallest gap between the last chosen expert and the first one not chosen."""
    best = torch.cat(router_logits).sort(dim=-1, descending=True).values
    if n_used == best.shape[1]:
        return float("inf")
    return float((best[:, n_used - 1] - best[:, n_used]).min())


@torch.no_grad()
def golden(model: TinyModel) -> dict[str, Any]:
    """The arrays of one golden file."""
    positions = np.array(LONG if model.n_ctx_train > LONG[-1] else SHORT)
    ids = random_ids(model, positions[-1] + 1)
    reference = hf_model(model).eval()
    weights = hf_weights(model, random_weights(model))
    reference.load_state_dict({name: torch.tensor(a) for name, a in weights.items()})
    output = reference(torch.tensor(ids[None].astype(np.int64)), use_cache=False)
    if model.n_experts:
        margin = router_margin(output.router_logits, model.n_experts_used)
        if margin < MIN_ROUTER_MARGIN:
            raise SystemExit(f"{model}: router margin {margin:.1e}; choose another seed")
    return {"ids": ids, "positions": positions, "logits": output.logits[0, positions].numpy()}


def main() -> None:
    for name, model in TINY_MODELS.items():
        path = golden_path(name)
        np.savez_compressed(path, **golden(model))
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
