"""Hugging Face folders for tests: tiny models, written by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

N_VOCAB, DIM, FFN, N_HEADS, N_KV_HEADS, HEAD_DIM, N_EXPERTS, N_LAYERS = 300, 64, 96, 8, 2, 16, 3, 2

Arrays = dict[str, npt.NDArray[np.float32]]


_ENCODERS: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]] = {
    "F32": lambda array: array,
    "F16": lambda array: array.astype(np.float16),
    "BF16": lambda array: (array.view(np.uint32) >> 16).astype(np.uint16),
}


def safetensors_bytes(arrays: Mapping[str, npt.NDArray[Any]], dtype: str = "F32") -> bytes:
    """A safetensors file; BF16 keeps the upper half of each float32."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        encoded = _ENCODERS[dtype](np.asarray(array, np.float32)).tobytes()
        offsets = [len(data), len(data) + len(encoded)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += encoded
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def proto_field(number: int, value: int | float | bytes) -> bytes:
    """A protobuf field: varint, float32 or bytes, by the type of `value`."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def proto(*fields: tuple[int, int | float | bytes]) -> bytes:
    return b"".join(proto_field(number, value) for number, value in fields)


def piece(text: str, score: float = 0.0, kind: int = 1) -> bytes:
    return proto_field(1, proto((1, text.encode()), (2, score), (3, kind)))


# BPE with byte fallback, unk 0, bos 1, eos 2; the identity normaliser, extra white space kept.
TRAINER = proto_field(2, proto((3, 2), (35, 1), (40, 0), (41, 1), (42, 2), (43, -1)))
NORMALIZER = proto_field(3, proto((1, b"identity"), (2, b""), (3, 1), (4, 0), (5, 1)))

PIECES: list[tuple[str, float, int]] = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
    *((text, -float(i), 1) for i, text in enumerate(["\u2581a", "ab", "\u2581", "a", "b"])),
]


def tokenizer_model(trainer: bytes = TRAINER, normalizer: bytes = NORMALIZER) -> bytes:
    return b"".join(piece(*entry) for entry in PIECES) + trainer + normalizer


def mixtral_config() -> dict[str, Any]:
    """As transformers before 5 wrote it."""
    return {
        "architectures": ["MixtralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": DIM,
        "intermediate_size": FFN,
        "max_position_embeddings": 512,
        "model_type": "mixtral",
        "num_attention_heads": N_HEADS,
        "num_experts_per_tok": 2,
        "num_hidden_layers": N_LAYERS,
        "num_key_value_heads": N_KV_HEADS,
        "num_local_experts": N_EXPERTS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": N_VOCAB,
    }


def dense_config() -> dict[str, Any]:
    config = mixtral_config() | {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return {key: value for key, value in config.items() if "experts" not in key}


def weights(n_experts: int = N_EXPERTS, seed: int = 0) -> Arrays:
    """Random weights that bfloat16 holds exactly."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (N_VOCAB, DIM),
        "model.norm.weight": (DIM,),
        "lm_head.weight": (N_VOCAB, DIM),
    }
    for layer in range(N_LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (DIM,),
            f"{prefix}.post_attention_layernorm.weight": (DIM,),
            f"{prefix}.self_attn.q_proj.weight": (N_HEADS * HEAD_DIM, DIM),
            f"{prefix}.self_attn.k_proj.weight": (N_KV_HEADS * HEAD_DIM, DIM),
            f"{prefix}.self_attn.v_proj.weight": (N_KV_HEADS * HEAD_DIM, DIM),
            f"{prefix}.self_attn.o_proj.weight": (DIM, N_HEADS * HEAD_DIM),
        }
        matrices = {"gate_proj": (FFN, DIM), "down_proj": (DIM, FFN), "up_proj": (FFN, DIM)}
        if n_experts:
            shapes[f"{prefix}.block_sparse_moe.gate.weight"] = (n_experts, DIM)
            for expert in range(n_experts):
                for i, shape in enumerate(matrices.values(), 1):  # w1 is gate, w2 down, w3 up
                    name = f"{prefix}.block_sparse_moe.experts.{expert}.w{i}.weight"
                    shapes[name] = shape
        else:
            for name, shape in matrices.items():
                shapes[f"{prefix}.mlp.{name}.weight"] = shape
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for array in arrays.values():
        array.view(np.uint32)[...] &= 0xFFFF0000
    return arrays


def packed(arrays: Arrays) -> Arrays:
    """The same weights with the experts packed, as newer transformers have them."""
    kept = {name: array for name, array in arrays.items() if "block_sparse_moe" not in name}
    for layer in range(N_LAYERS):
        moe, mlp = f"model.layers.{layer}.block_sparse_moe", f"model.layers.{layer}.mlp"
        w1, w2, w3 = (
            np.stack([arrays[f"{moe}.experts.{e}.w{i}.weight"] for e in range(N_EXPERTS)])
            for i in (1, 2, 3)
        )
        kept[f"{mlp}.gate.weight"] = arrays[f"{moe}.gate.weight"]
        kept[f"{mlp}.experts.gate_up_proj"] = np.concatenate([w1, w3], axis=1)
        kept[f"{mlp}.experts.down_proj"] = w2
    return kept


def write_folder(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    arrays: Arrays | None = None,
    dtype: str = "BF16",
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(mixtral_config() if config is None else config))
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    content = safetensors_bytes(weights() if arrays is None else arrays, dtype)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def write_shards(folder: Path, arrays: Arrays, n_shards: int, dtype: str = "BF16") -> None:
    """Replace the folder's model.safetensors by shards and their index."""
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(n_shards):
        name = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        shard = {key: arrays[key] for key in list(arrays)[i::n_shards]}
        (folder / name).write_bytes(safetensors_bytes(shard, dtype))
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
