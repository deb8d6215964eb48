"""GGUF files for tests: bytes put together by hand, so that they can be wrong, and tiny models."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pymixtral.formats.gguf import ValueType
from pymixtral.formats.gguf_writer import GGUFWriter

F32, F16, Q8_0, Q4_K = 0, 1, 8, 12


def string(text: bytes, claimed: int | None = None) -> bytes:
    """A string whose length field can lie."""
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text


def key(name: bytes, kind: int, value: bytes) -> bytes:
    """A metadata record."""
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    """The value of an array record, whose count can lie."""
    return struct.pack("<IQ", kind, count) + items


def tensor(
    name: bytes, ne: list[int], kind: int = F32, offset: int = 0, n_dims: int | None = None
) -> bytes:
    """A tensor record."""
    n_dims = len(ne) if n_dims is None else n_dims
    dims = struct.pack(f"<I{len(ne)}Q", n_dims, *ne)
    return string(name) + dims + struct.pack("<IQ", kind, offset)


def gguf_bytes(
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    *,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    version: int = 3,
    magic: bytes = b"GGUF",
    alignment: int = 32,
) -> bytes:
    """A whole file; the counts can lie."""
    keys, tensors = keys or [], tensors or []
    header = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(keys) if n_keys is None else n_keys,
    )
    head = header + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


Metadata = dict[str, tuple[Any, ValueType]]
Shapes = dict[str, tuple[int, ...]]

N_VOCAB, DIM, FFN, N_HEADS, N_KV_HEADS, N_LAYERS = 262, 16, 24, 4, 2, 2


def tiny_metadata(n_experts: int = 0) -> Metadata:
    """The metadata of a model of two layers, with a vocabulary of bytes and three letters."""
    integers = {
        "llama.vocab_size": N_VOCAB,
        "llama.context_length": 64,
        "llama.embedding_length": DIM,
        "llama.block_count": N_LAYERS,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": N_HEADS,
        "llama.attention.head_count_kv": N_KV_HEADS,
        "llama.rope.dimension_count": DIM // N_HEADS,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    if n_experts:
        integers |= {"llama.expert_count": n_experts, "llama.expert_used_count": 2}
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "a",
        "b",
        "\u2581",
    ]
    return {
        "general.architecture": ("llama", ValueType.STRING),
        **{name: (value, ValueType.UINT32) for name, value in integers.items()},
        "llama.attention.layer_norm_rms_epsilon": (1e-5, ValueType.FLOAT32),
        "llama.rope.freq_base": (1e6, ValueType.FLOAT32),
        "tokenizer.ggml.model": ("llama", ValueType.STRING),
        "tokenizer.ggml.tokens": (tokens, ValueType.ARRAY),
        "tokenizer.ggml.scores": (np.zeros(N_VOCAB, np.float32), ValueType.ARRAY),
        "tokenizer.ggml.token_type": (
            np.array([2, 3, 3, *[6] * 256, 1, 1, 1], np.int32),
            ValueType.ARRAY,
        ),
    }


def tiny_shapes(n_experts: int = 0) -> Shapes:
    """The tensors of that model, written out by hand: numpy order."""
    shapes: Shapes = {
        "token_embd.weight": (N_VOCAB, DIM),
        "output_norm.weight": (DIM,),
        "output.weight": (N_VOCAB, DIM),
    }
    kv_dim = DIM // N_HEADS * N_KV_HEADS
    for layer in range(N_LAYERS):
        block = f"blk.{layer}"
        shapes |= {
            f"{block}.attn_norm.weight": (DIM,),
            f"{block}.attn_q.weight": (DIM, DIM),
            f"{block}.attn_k.weight": (kv_dim, DIM),
            f"{block}.attn_v.weight": (kv_dim, DIM),
            f"{block}.attn_output.weight": (DIM, DIM),
            f"{block}.ffn_norm.weight": (DIM,),
        }
        if n_experts:
            shapes |= {
                f"{block}.ffn_gate_inp.weight": (n_experts, DIM),
                f"{block}.ffn_gate_exps.weight": (n_experts, FFN, DIM),
                f"{block}.ffn_up_exps.weight": (n_experts, FFN, DIM),
                f"{block}.ffn_down_exps.weight": (n_experts, DIM, FFN),
            }
        else:
            shapes |= {
                f"{block}.ffn_gate.weight": (FFN, DIM),
                f"{block}.ffn_up.weight": (FFN, DIM),
                f"{block}.ffn_down.weight": (DIM, FFN),
            }
    return shapes


def write_model(
    path: Path, metadata: Mapping[str, tuple[Any, ValueType]], shapes: Mapping[str, tuple[int, ...]]
) -> Path:
    """Write a file with these metadata, and float32 tensors of random numbers."""
    rng = np.random.default_rng(0)
    with GGUFWriter(path) as writer:
        for name, (value, kind) in metadata.items():
            writer.add(name, value, kind)
        for name, shape in shapes.items():
            writer.declare(name, F32, shape)
        for name, shape in shapes.items():
            writer.write(name, rng.standard_normal(shape, np.float32).tobytes())
    return path
