"""Models of a real size that cost nothing: their data are a hole in the file."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from reference.mistral import vocabulary
from reference.tiny import TinyModel, tensor_shapes

from pymixtral.formats.blocks import row_bytes


def write_hollow_model(path: Path, model: TinyModel) -> Path:
    """Its header, written by ggml's own package, and Q4_K zeros that are not stored."""
    writer = GGUFWriter(path, "llama")
    _add_metadata(writer, model)
    n_bytes = 0
    for name, shape in tensor_shapes(model).items():
        is_matrix = len(shape) > 1 and "gate_inp" not in name
        kind = GGMLQuantizationType.Q4_K if is_matrix else GGMLQuantizationType.F32
        size = prod(shape[:-1]) * row_bytes(kind, shape[-1])
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, kind)
        n_bytes += size + -size % 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + 32 + n_bytes)
    return path


def _add_metadata(writer: GGUFWriter, model: TinyModel) -> None:
    writer.add_name("Mixtral-8x7B-Instruct-v0.1")
    writer.add_context_length(model.n_ctx_train)
    writer.add_embedding_length(model.dim)
    writer.add_block_count(model.n_layers)
    writer.add_feed_forward_length(model.ffn_dim)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_expert_count(model.n_experts)
    writer.add_expert_used_count(model.n_experts_used)
    vocab = vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocab.tokens)
    writer.add_token_scores(vocab.scores.tolist())
    writer.add_token_types(vocab.types.tolist())
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
