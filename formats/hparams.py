"""The hyperparameters of a llama-architecture GGUF file, checked against its tensors.

Nothing that changes the model's result is skipped: a key or a tensor that is not understood is
refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from .gguf import FLOAT_TYPES, INTEGER_TYPES, GGUFFile, ValueType
from .names import (
    DENSE_LAYER_NAMES,
    EXPERT_NAMES,
    GLOBAL_NAMES,
    MOE_LAYER_NAMES,
    TensorRole,
    expert_of,
    parse_name,
)
from .packed import SOURCE_NAME_KEY, is_packed

ARCHITECTURE = "llama"

# Bounds of ours, far above any model of this architecture.
MAX_LAYERS = 1024
MAX_EXPERTS = 64
MAX_HEADS = 1024
MAX_WIDTH = 1 << 20  # of dim and head_dim; 16 times that for ffn_dim
MAX_CONTEXT = 1 << 27

DENSE_ROPE_THETA = 10_000.0  # of Llama 1 and 2, whose older files lack the key; llama.cpp's default
MOE_ROPE_THETA = 1_000_000.0  # of Mixtral: rope_theta in the config.json of 8x7B and of 8x22B

_READ_KEYS = {
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "expert_count",
    "expert_used_count",
}

# Keys that may be present as long as they ask for what is computed anyway. None: any value does.
_NEUTRAL_VALUES: dict[str, Collection[object] | None] = {
    "llama.tensor_data_layout": {"Meta AI original pth"},
    "llama.use_parallel_residual": {False},
    "llama.attention.causal": {True},
    "llama.attention.clamp_kqv": {0.0},
    "llama.attention.max_alibi_bias": {0.0},
    "llama.rope.scale_linear": {1.0},
    "llama.rope.scaling.type": {"none", "linear"},  # linear by a factor of 1 is none
    "llama.rope.scaling.factor": {1.0},
    "llama.rope.scaling.attn_factor": {1.0},
    "llama.rope.scaling.original_context_length": None,
    "llama.rope.scaling.finetuned": None,
    "llama.expert_shared_count": {0},
    "llama.expert_group_count": {0, 1},
    "llama.expert_gating_func": {0, 1},  # unspecified, softmax
    "llama.expert_weights_norm": {True},
    "llama.expert_weights_scale": {0.0, 1.0},  # llama.cpp takes 0 for "not scaled"
    "llama.leading_dense_block_count": {0},
    "llama.pooling_type": {0},
    "general.type": {"model"},
    "general.quantization_version": {2},
    "split.count": {0, 1},
}


@dataclass(frozen=True, slots=True)
class HParams:
    """What the shapes and the arithmetic of a model follow from."""

    n_layers: int
    dim: int
    ffn_dim: int  # of one expert
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int  # rows of token_embd.weight
    n_ctx_train: int
    norm_eps: float
    rope_theta: float
    n_rot: int  # rotated values of a head; equals head_dim
    n_experts: int  # 0: dense
    n_experts_used: int  # 0: dense
    sliding_window: int  # positions a token attends to; 0: all
    tied_output: bool  # token_embd.weight is the output head, too
    warnings: tuple[str, ...] = ()

    def tensor_shapes(self, *, per_expert: bool = False) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape (numpy order) of every tensor that the model has.

        Args:
            per_expert: in the layout of December 2023, with a tensor for each expert.
        """
        shapes = self._shapes_by_role()
        for role, name in GLOBAL_NAMES.items():
            if not (role is TensorRole.OUTPUT and self.tied_output):
                yield name, shapes[role]
        layer_names = MOE_LAYER_NAMES if self.n_experts else DENSE_LAYER_NAMES
        for layer in range(self.n_layers):
            for role, template in layer_names.items():
                if per_expert and self.n_experts and role in EXPERT_NAMES:
                    for expert in range(self.n_experts):
                        name = EXPERT_NAMES[role].format(layer=layer, expert=expert)
                        yield name, shapes[role][1:]
                else:
                    yield template.format(layer=layer), shapes[role]

    def _shapes_by_role(self) -> dict[TensorRole, tuple[int, ...]]:
        q_dim, kv_dim = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        experts = (self.n_experts,) if self.n_experts else ()
        return {
            TensorRole.TOKEN_EMBD: (self.n_vocab, self.dim),
            TensorRole.OUTPUT_NORM: (self.dim,),
            TensorRole.OUTPUT: (self.n_vocab, self.dim),
            TensorRole.ATTN_NORM: (self.dim,),
            TensorRole.ATTN_Q: (q_dim, self.dim),
            TensorRole.ATTN_K: (kv_dim, self.dim),
            TensorRole.ATTN_V: (kv_dim, self.dim),
            TensorRole.ATTN_OUTPUT: (self.dim, q_dim),
            TensorRole.FFN_NORM: (self.dim,),
            TensorRole.FFN_GATE_INP: (self.n_experts, self.dim),
            TensorRole.FFN_GATE: (*experts, self.ffn_dim, self.dim),
            TensorRole.FFN_UP: (*experts, self.ffn_dim, self.dim),
            TensorRole.FFN_DOWN: (*experts, self.dim, self.ffn_dim),
        }


def read_hparams(gguf: GGUFFile) -> HParams:
    """Read the hyperparameters, and check that the file's tensors are exactly the model's.

    Raises:
        FormatError: a key is missing, out of range or not understood; a tensor is missing, unknown
            or of another shape than the hyperparameters say.
    """
    _check_architecture(gguf)
    _check_keys(gguf)
    hparams = _read_keys(gguf)
    _check_tensors(gguf, hparams)
    return hparams


def _check_architecture(gguf: GGUFFile) -> None:
    key = "general.architecture"
    if key not in gguf.metadata:
        raise gguf.error(key, "is missing")
    if gguf.types[key] is not ValueType.STRING:
        raise gguf.error(key, f"has type {gguf.types[key].name}, must be STRING")
    found = gguf.metadata[key]
    if is_packed(gguf):
        source = gguf.metadata.get(SOURCE_NAME_KEY)
        raise gguf.error(key, f"is {found!r}, a model's packed weights; name the model, {source}")
    if found != ARCHITECTURE:
        raise gguf.error(key, f"is {found!r}, only {ARCHITECTURE!r} (Llama, Mistral, Mixtral) runs")


def _check_keys(gguf: GGUFFile) -> None:
    read = {f"{ARCHITECTURE}.{key}" for key in _READ_KEYS}
    for key, value in gguf.metadata.items():
        if key in read:
            continue
        if key in _NEUTRAL_VALUES:
            accepted = _NEUTRAL_VALUES[key]
            if isinstance(value, list | np.ndarray):
                raise gguf.error(key, "is an array, must be a single value")
            if accepted is not None and value not in accepted:
                raise gguf.error(key, f"is {value!r}, which is not supported")
        elif key.startswith(f"{ARCHITECTURE}."):
            raise gguf.error(key, "is not understood, and may change the model's result")


def _read_keys(gguf: GGUFFile) -> HParams:
    keys = _Keys(gguf)
    warnings: list[str] = []
    dim = keys.integer("embedding_length", 1, MAX_WIDTH)
    n_heads = keys.integer("attention.head_count", 1, MAX_HEADS)
    n_experts = keys.integer("expert_count", 0, MAX_EXPERTS, default=0)
    head_dim = _read_head_dim(keys, dim, n_heads)
    return HParams(
        n_layers=keys.integer("block_count", 1, MAX_LAYERS),
        dim=dim,
        ffn_dim=keys.integer("feed_forward_length", 1, 16 * MAX_WIDTH),
        n_heads=n_heads,
        n_kv_heads=_read_n_kv_heads(keys, n_heads),
        head_dim=head_dim,
        n_vocab=_read_n_vocab(keys),
        n_ctx_train=keys.integer("context_length", 1, MAX_CONTEXT),
        norm_eps=keys.positive("attention.layer_norm_rms_epsilon"),
        rope_theta=_read_rope_theta(keys, n_experts, warnings),
        n_rot=keys.integer("rope.dimension_count", head_dim, head_dim, default=head_dim),
        n_experts=n_experts,
        n_experts_used=_read_n_experts_used(keys, n_experts),
        sliding_window=_read_sliding_window(keys, n_experts, warnings),
        tied_output=GLOBAL_NAMES[TensorRole.OUTPUT] not in gguf.tensors,
        warnings=tuple(warnings),
    )


class _Keys:
    """Reads ``llama.*`` keys, with their bounds."""

    def __init__(self, gguf: GGUFFile) -> None:
        self.gguf = gguf

    def __contains__(self, key: str) -> bool:
        return f"{ARCHITECTURE}.{key}" in self.gguf.metadata

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        field = f"{ARCHITECTURE}.{key}"
        if default is not None and field not in self.gguf.metadata:
            return default
        value = int(self._value(field, INTEGER_TYPES))
        if not low <= value <= high:
            bounds = str(low) if low == high else f"{low} to {high}"
            raise self.gguf.error(field, f"is {value}, must be {bounds}")
        return value

    def positive(self, key: str) -> float:
        field = f"{ARCHITECTURE}.{key}"
        value = float(self._value(field, FLOAT_TYPES))
        if not (math.isfinite(value) and value > 0):
            raise self.gguf.error(field, f"is {value}, must be finite and above 0")
        return value

    def _value(self, field: str, kinds: frozenset[ValueType]) -> float:
        if field not in self.gguf.metadata:
            raise self.gguf.error(field, "is missing")
        kind = self.gguf.types[field]
        if kind not in kinds:
            wanted = "an integer" if kinds is INTEGER_TYPES else "a float"
            raise self.gguf.error(field, f"has type {kind.name}, must be {wanted}")
        value: float = self.gguf.metadata[field]
        return value


def _read_head_dim(keys: _Keys, dim: int, n_heads: int) -> int:
    """key_length where the file gives it, otherwise dim / n_heads."""
    if "attention.key_length" in keys:
        head_dim = keys.integer("attention.key_length", 1, MAX_WIDTH)
    elif dim % n_heads:
        raise keys.gguf.error(
            "llama.attention.head_count", f"is {n_heads}, which does not divide the width {dim}"
        )
    else:
        head_dim = dim // n_heads
    if head_dim % 2:
        raise keys.gguf.error(
            "llama.attention.key_length", f"the head size {head_dim} is odd; RoPE turns pairs"
        )
    keys.integer("attention.value_length", head_dim, head_dim, default=head_dim)
    return head_dim


def _read_n_kv_heads(keys: _Keys, n_heads: int) -> int:
    n_kv_heads = keys.integer("attention.head_count_kv", 1, n_heads, default=n_heads)
    if n_heads % n_kv_heads:
        raise keys.gguf.error(
            "llama.attention.head_count_kv", f"{n_kv_heads} does not divide {n_heads} heads"
        )
    return n_kv_heads


def _read_n_vocab(keys: _Keys) -> int:
    """Rows of the embedding, to which vocab_size and the list of tokens must agree."""
    gguf = keys.gguf
    name = GLOBAL_NAMES[TensorRole.TOKEN_EMBD]
    if name not in gguf.tensors:
        raise gguf.error(f"tensor {name}", "is missing")
    n_vocab = gguf.tensors[name].shape[0]
    keys.integer("vocab_size", n_vocab, n_vocab, default=n_vocab)
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != n_vocab:
        raise gguf.error(
            "tokenizer.ggml.tokens", f"has {len(tokens)} tokens, {name} has {n_vocab} rows"
        )
    return n_vocab


def _read_n_experts_used(keys: _Keys, n_experts: int) -> int:
    if n_experts == 0:
        return keys.integer("expert_used_count", 0, 0, default=0)
    return keys.integer("expert_used_count", 1, n_experts)


def _read_rope_theta(keys: _Keys, n_experts: int, warnings: list[str]) -> float:
    if "rope.freq_base" in keys:
        return keys.positive("rope.freq_base")
    if n_experts == 0:
        return DENSE_ROPE_THETA
    warnings.append(f"llama.rope.freq_base is missing; {MOE_ROPE_THETA:.0f} is used, as in Mixtral")
    return MOE_ROPE_THETA


def _read_sliding_window(keys: _Keys, n_experts: int, warnings: list[str]) -> int:
    window = keys.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0)
    if window and n_experts:
        warnings.append(
            f"llama.attention.sliding_window {window} is ignored: Mixtral attends to everything"
        )
        return 0
    return window


def is_per_expert(gguf: GGUFFile) -> bool:
    """Whether the experts are in tensors of their own, as in files of December 2023."""
    return any(expert_of(name) is not None for name in gguf.tensors)


def _check_tensors(gguf: GGUFFile, hparams: HParams) -> None:
    shapes = dict(hparams.tensor_shapes(per_expert=is_per_expert(gguf)))
    for name in gguf.tensors:
        if name not in shapes:
            raise gguf.error(f"tensor {name}", _why_tensor_is_refused(name, hparams))
    for name, shape in shapes.items():
        if name not in gguf.tensors:
            raise gguf.error(f"tensor {name}", f"is missing, must have shape {shape}")
        found = gguf.tensors[name].shape
        if found != shape:
            raise gguf.error(
                f"tensor {name}", f"has shape {found}, must have {shape} by the hyperparameters"
            )


def _why_tensor_is_refused(name: str, hparams: HParams) -> str:
    if name in dict(hparams.tensor_shapes()):
        return "holds all experts, though the file has tensors that hold one expert each, too"
    if parse_name(name):
        return "does not belong to a model of these hyperparameters"
    return "is not understood, and may change the model's result"
