"""Mistral AI's own release formats for tests: the weights of `hf_folders`, laid out their way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hf_folders as hf
import numpy as np
import torch_files
from hf_folders import Arrays

NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "block_sparse_moe": "feed_forward",
    "model.layers": "layers",
}


def params() -> dict[str, Any]:
    return {
        "dim": hf.DIM,
        "n_layers": hf.N_LAYERS,
        "head_dim": hf.HEAD_DIM,
        "hidden_dim": hf.FFN,
        "n_heads": hf.N_HEADS,
        "n_kv_heads": hf.N_KV_HEADS,
        "norm_eps": 1e-5,
        "rope_theta": 1e6,
        "vocab_size": hf.N_VOCAB,
        "max_position_embeddings": 512,
        "moe": {"num_experts": hf.N_EXPERTS, "num_experts_per_tok": 2},
    }


def interleaved(weight: np.ndarray[Any, Any], n_heads: int) -> np.ndarray[Any, Any]:
    """Rows of RoPE pairs (i, i + half) to pairs (2i, 2i + 1), written out row by row."""
    half = hf.HEAD_DIM // 2
    order = [
        head * hf.HEAD_DIM + i + side * half
        for head in range(n_heads)
        for i in range(half)
        for side in (0, 1)
    ]
    return weight[order]


def original(arrays: Arrays) -> Arrays:
    """Hugging Face's weights as consolidated.00.pth has them."""
    renamed = {}
    for name, array in arrays.items():
        if "q_proj" in name:
            array = interleaved(array, hf.N_HEADS)
        if "k_proj" in name:
            array = interleaved(array, hf.N_KV_HEADS)
        for old, new in NAMES.items():
            name = name.replace(old, new)
        renamed[name] = array
    return renamed


def stacked(arrays: Arrays) -> list[Arrays]:
    """The same as consolidated.00.pt and 01.pt: experts along the rows, w2 transposed."""
    plain = original(arrays)
    kept = {name: array for name, array in plain.items() if "feed_forward" not in name}
    for layer in range(hf.N_LAYERS):
        moe, block = f"layers.{layer}.feed_forward", f"layers.{layer}.block_sparse_moe"
        kept[f"{block}.gate.weight"] = plain[f"{moe}.gate.weight"]
        for w in ("w1", "w2", "w3"):
            experts = [plain[f"{moe}.experts.{e}.{w}.weight"] for e in range(hf.N_EXPERTS)]
            kept[f"{block}.{w}"] = np.concatenate([e.T if w == "w2" else e for e in experts])
    names = list(kept)
    shared = "norm.weight"  # is in both, as norms may be
    return [{n: kept[n] for n in (*names[i::2], shared)} for i in range(2)]


def write_config(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params() | (changes or {})))
    (folder / "tokenizer.model").write_bytes(hf.tokenizer_model())
    return folder


def write_original(folder: Path, arrays: Arrays, n_splits: int = 0) -> Path:
    write_config(folder)
    content = torch_files.checkpoint(original(arrays))
    path = folder / "consolidated.00.pth"
    if n_splits:
        torch_files.write_splits(path, content, n_splits)
    else:
        path.write_bytes(content)
    return folder


def write_stacked(folder: Path, arrays: Arrays) -> Path:
    write_config(folder)
    for i, shard in enumerate(stacked(arrays)):
        (folder / f"consolidated.{i:02}.pt").write_bytes(torch_files.checkpoint(shard))
    return folder
