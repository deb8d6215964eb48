"""A tiny random Mixtral as each of the checkpoints that `convert` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch_files
from hf_folders import NORMALIZER, TRAINER, piece, safetensors_bytes
from reference.tiny import TinyModel, Weights, permute_rope

ATTENTION = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
EXPERTS = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}


def hf(model: TinyModel, weights: Weights) -> Weights:
    """Hugging Face's names, an expert a tensor; q and k in the order of half-split RoPE pairs."""
    heads = {"q": model.n_heads, "k": model.n_kv_heads}
    found = {
        "model.embed_tokens.weight": weights["token_embd.weight"],
        "model.norm.weight": weights["output_norm.weight"],
        "lm_head.weight": weights["output.weight"],
    }
    for i in range(model.n_layers):
        old, new = f"blk.{i}", f"model.layers.{i}"
        moe = f"{new}.block_sparse_moe"
        found[f"{new}.input_layernorm.weight"] = weights[f"{old}.attn_norm.weight"]
        found[f"{new}.post_attention_layernorm.weight"] = weights[f"{old}.ffn_norm.weight"]
        found[f"{moe}.gate.weight"] = weights[f"{old}.ffn_gate_inp.weight"]
        for short, name in ATTENTION.items():
            weight = weights[f"{old}.{name}.weight"]
            permuted = permute_rope(weight, heads[short]) if short in heads else weight
            found[f"{new}.self_attn.{short}_proj.weight"] = permuted
        for short, name in EXPERTS.items():
            for e, expert in enumerate(weights[f"{old}.{name}.weight"]):
                found[f"{moe}.experts.{e}.{short}.weight"] = expert
    return found


def hf_packed(model: TinyModel, weights: Weights) -> Weights:
    """The same with the experts of a layer in two tensors."""
    found = {n: w for n, w in hf(model, weights).items() if "block_sparse_moe" not in n}
    for i in range(model.n_layers):
        old, new = f"blk.{i}", f"model.layers.{i}.mlp"
        gate, down, up = (weights[f"{old}.{name}.weight"] for name in EXPERTS.values())
        found[f"{new}.gate.weight"] = weights[f"{old}.ffn_gate_inp.weight"]
        found[f"{new}.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        found[f"{new}.experts.down_proj"] = down
    return found


def original(model: TinyModel, weights: Weights) -> Weights:
    """The names of Mistral AI's first release; q and k are as in GGUF."""
    found = {
        "tok_embeddings.weight": weights["token_embd.weight"],
        "norm.weight": weights["output_norm.weight"],
        "output.weight": weights["output.weight"],
    }
    for i in range(model.n_layers):
        old, new = f"blk.{i}", f"layers.{i}"
        found[f"{new}.attention_norm.weight"] = weights[f"{old}.attn_norm.weight"]
        found[f"{new}.ffn_norm.weight"] = weights[f"{old}.ffn_norm.weight"]
        found[f"{new}.feed_forward.gate.weight"] = weights[f"{old}.ffn_gate_inp.weight"]
        for short, name in ATTENTION.items():
            found[f"{new}.attention.w{short}.weight"] = weights[f"{old}.{name}.weight"]
        for short, name in EXPERTS.items():
            for e, expert in enumerate(weights[f"{old}.{name}.weight"]):
                found[f"{new}.feed_forward.experts.{e}.{short}.weight"] = expert
    return found


def stacked(model: TinyModel, weights: Weights) -> Weights:
    """The experts of a layer along the rows of three tensors, w2 transposed."""
    plain = original(model, weights)
    found = {name: weight for name, weight in plain.items() if "feed_forward" not in name}
    for i in range(model.n_layers):
        new = f"layers.{i}.block_sparse_moe"
        found[f"{new}.gate.weight"] = weights[f"blk.{i}.ffn_gate_inp.weight"]
        for short, name in EXPERTS.items():
            experts = weights[f"blk.{i}.{name}.weight"]
            parts = experts.swapaxes(1, 2) if short == "w2" else experts
            found[f"{new}.{short}"] = np.concatenate(list(parts))
    return found


CHECKPOINTS: dict[str, Callable[[TinyModel, Weights], Weights]] = {
    "hf": hf,
    "hf_packed": hf_packed,
    "original": original,
    "stacked": stacked,
}


def write_checkpoint(folder: Path, kind: str, model: TinyModel, weights: Weights) -> Path:
    """Write the model to `folder` as that key of `CHECKPOINTS`, in float32."""
    folder.mkdir()
    arrays = CHECKPOINTS[kind](model, weights)
    if kind.startswith("hf"):
        (folder / "config.json").write_text(json.dumps(_hf_config(model)))
        (folder / "model.safetensors").write_bytes(safetensors_bytes(arrays))
    else:
        (folder / "params.json").write_text(json.dumps(_params(model)))
        suffix = "pt" if kind == "stacked" else "pth"
        content = torch_files.checkpoint(arrays, dtype="F32")
        (folder / f"consolidated.00.{suffix}").write_bytes(content)
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    pieces += [(f"\u2581{i}", 1) for i in range(model.n_vocab - len(pieces))]
    encoded = (piece(text, -float(i), kind) for i, (text, kind) in enumerate(pieces))
    (folder / "tokenizer.model").write_bytes(b"".join(encoded) + TRAINER + NORMALIZER)
    return folder


def _hf_config(model: TinyModel) -> dict[str, object]:
    return {
        "architectures": ["MixtralForCausalLM"],
        "head_dim": model.head_dim,
        "hidden_size": model.dim,
        "intermediate_size": model.ffn_dim,
        "max_position_embeddings": model.n_ctx_train,
        "num_attention_heads": model.n_heads,
        "num_experts_per_tok": model.n_experts_used,
        "num_hidden_layers": model.n_layers,
        "num_key_value_heads": model.n_kv_heads,
        "num_local_experts": model.n_experts,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "vocab_size": model.n_vocab,
    }


def _params(model: TinyModel) -> dict[str, object]:
    return {
        "dim": model.dim,
        "n_layers": model.n_layers,
        "head_dim": model.head_dim,
        "hidden_dim": model.ffn_dim,
        "n_heads": model.n_heads,
        "n_kv_heads": model.n_kv_heads,
        "norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "vocab_size": model.n_vocab,
        "max_position_embeddings": model.n_ctx_train,
        "moe": {"num_experts": model.n_experts, "num_experts_per_tok": model.n_experts_used},
    }
