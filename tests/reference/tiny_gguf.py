"""Tiny random models as GGUF files, which the engine and its peers can open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from reference.tiny import TinyModel, Weights
from reference.tiny_engine import encode, is_float

from pymixtral.engine import TENSOR_TYPES
from pymixtral.formats.gguf import ValueType
from pymixtral.formats.gguf_writer import GGUFWriter
from pymixtral.formats.vocabulary import TokenType

SPECIAL_TOKENS = {"<unk>": TokenType.UNKNOWN, "<s>": TokenType.CONTROL, "</s>": TokenType.CONTROL}
BYTE_TOKENS = {f"<0x{byte:02X}>": TokenType.BYTE for byte in range(256)}


def write_tiny_gguf(
    path: Path, model: TinyModel, weights: Weights, type_name: str = "F32", seed: int = 1
) -> Path:
    """Writes `weights` to `path`, and returns it.

    Args:
        type_name: of the matrices; a block type gets random blocks, by `seed`.
    """
    random = np.random.RandomState(seed)
    types = {name: "F32" if is_float(name, array) else type_name for name, array in weights.items()}
    with GGUFWriter(path) as writer:
        _add_hparams(writer, model)
        _add_vocabulary(writer, model.n_vocab)
        for name, array in weights.items():
            writer.declare(name, TENSOR_TYPES[types[name]], array.shape)
        for name, array in weights.items():
            writer.write(name, encode(types[name], array.astype("<f4"), random))
    return path


def _add_hparams(writer: GGUFWriter, model: TinyModel) -> None:
    writer.add("general.architecture", "llama", ValueType.STRING)
    integers = {
        "block_count": model.n_layers,
        "context_length": model.n_ctx_train,
        "embedding_length": model.dim,
        "feed_forward_length": model.ffn_dim,
        "attention.head_count": model.n_heads,
        "attention.head_count_kv": model.n_kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "rope.dimension_count": model.head_dim,
        "expert_count": model.n_experts,
        "expert_used_count": model.n_experts_used,
        "attention.sliding_window": model.sliding_window,
        "vocab_size": model.n_vocab,
    }
    floats = {
        "attention.layer_norm_rms_epsilon": model.norm_eps,
        "rope.freq_base": model.rope_theta,
    }
    for key, integer in integers.items():
        if integer:  # a dense model's file has no expert_count, and so on
            writer.add(f"llama.{key}", integer, ValueType.UINT32)
    for key, number in floats.items():
        writer.add(f"llama.{key}", number, ValueType.FLOAT32)


def _add_vocabulary(writer: GGUFWriter, n_vocab: int) -> None:
    """Special tokens, the bytes where there is room for them, and words such as `▁7`."""
    has_bytes = n_vocab > len(SPECIAL_TOKENS) + len(BYTE_TOKENS)
    types = SPECIAL_TOKENS | (BYTE_TOKENS if has_bytes else {})
    types |= {f"▁{i}": TokenType.NORMAL for i in range(n_vocab - len(types))}
    writer.add("tokenizer.ggml.model", "llama", ValueType.STRING)
    writer.add("tokenizer.ggml.tokens", list(types), ValueType.ARRAY)
    writer.add("tokenizer.ggml.scores", -np.arange(n_vocab, dtype=np.float32), ValueType.ARRAY)
    writer.add("tokenizer.ggml.token_type", np.array([*types.values()], np.int32), ValueType.ARRAY)
    for i, name in enumerate(("unknown", "bos", "eos")):
        writer.add(f"tokenizer.ggml.{name}_token_id", i, ValueType.UINT32)
