"""Hyperparameters that are good, defaults, warnings, and keys that are refused by name.

Hostile values are in tests/attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import Shapes, tiny_metadata, tiny_shapes, write_model

from pymixtral.formats import FormatError, HParams, ValueType, open_gguf, read_hparams


def hparams_of(
    tmp_path: Path,
    n_experts: int = 0,
    changes: dict[str, Any] | None = None,
    shapes: Shapes | None = None,
) -> HParams:
    """Of the tiny model with changed metadata; a value of None drops the key."""
    metadata = tiny_metadata(n_experts) | (changes or {})
    metadata = {key: value for key, value in metadata.items() if value is not None}
    path = write_model(tmp_path / "m.gguf", metadata, shapes or tiny_shapes(n_experts))
    with open_gguf(path) as gguf:
        return read_hparams(gguf)


def integer(value: int) -> tuple[int, ValueType]:
    return value, ValueType.UINT32


def test_a_moe_model(tmp_path: Path) -> None:
    assert hparams_of(tmp_path, n_experts=4) == HParams(
        n_layers=2,
        dim=16,
        ffn_dim=24,
        n_heads=4,
        n_kv_heads=2,
        head_dim=4,
        n_vocab=262,
        n_ctx_train=64,
        norm_eps=float(np.float32(1e-5)),
        rope_theta=1e6,
        n_rot=4,
        n_experts=4,
        n_experts_used=2,
        sliding_window=0,
        tied_output=False,
        warnings=(),
    )


def test_tensor_shapes_are_those_written_by_hand(tmp_path: Path) -> None:
    for n_experts in (0, 4):
        assert dict(hparams_of(tmp_path, n_experts).tensor_shapes()) == tiny_shapes(n_experts)


def test_rope_theta_defaults_to_the_models_own(tmp_path: Path) -> None:
    without = {"llama.rope.freq_base": None}
    moe = hparams_of(tmp_path, 4, without)
    assert moe.rope_theta == 1e6
    assert len(moe.warnings) == 1
    assert "rope.freq_base is missing" in moe.warnings[0]
    dense = hparams_of(tmp_path, 0, without)
    assert dense.rope_theta == 10000
    assert not dense.warnings


def test_sliding_window_is_for_dense_models_only(tmp_path: Path) -> None:
    window = {"llama.attention.sliding_window": integer(32)}
    assert hparams_of(tmp_path, 0, window).sliding_window == 32
    moe = hparams_of(tmp_path, 4, window)
    assert moe.sliding_window == 0
    assert "sliding_window 32 is ignored" in moe.warnings[0]


def test_a_head_size_other_than_dim_over_heads(tmp_path: Path) -> None:
    changes = {
        "llama.attention.key_length": integer(6),
        "llama.attention.value_length": integer(6),
        "llama.rope.dimension_count": integer(6),
    }
    shapes = tiny_shapes()
    for layer in range(2):
        shapes[f"blk.{layer}.attn_q.weight"] = (24, 16)
        shapes[f"blk.{layer}.attn_k.weight"] = (12, 16)
        shapes[f"blk.{layer}.attn_v.weight"] = (12, 16)
        shapes[f"blk.{layer}.attn_output.weight"] = (16, 24)
    assert hparams_of(tmp_path, 0, changes, shapes).head_dim == 6


def test_defaults_of_absent_keys(tmp_path: Path) -> None:
    absent = ("llama.rope.dimension_count", "llama.vocab_size")
    found = hparams_of(tmp_path, 0, dict.fromkeys(absent))
    assert (found.n_rot, found.n_vocab) == (4, 262)


def test_head_count_kv_defaults_to_head_count(tmp_path: Path) -> None:
    shapes = tiny_shapes()
    for layer in range(2):
        shapes[f"blk.{layer}.attn_k.weight"] = shapes[f"blk.{layer}.attn_v.weight"] = (16, 16)
    found = hparams_of(tmp_path, 0, {"llama.attention.head_count_kv": None}, shapes)
    assert found.n_kv_heads == 4


def test_a_file_without_output_weight_ties_the_embedding(tmp_path: Path) -> None:
    shapes = tiny_shapes()
    del shapes["output.weight"]
    assert hparams_of(tmp_path, 0, None, shapes).tied_output


@pytest.mark.parametrize("value", [1, 64])
def test_numbers_of_experts(tmp_path: Path, value: int) -> None:
    changes = {"llama.expert_used_count": integer(1)}
    assert hparams_of(tmp_path, value, changes).n_experts == value


@pytest.mark.parametrize("kind", [ValueType.UINT64, ValueType.INT32, ValueType.UINT16])
def test_any_integer_type_will_do(tmp_path: Path, kind: ValueType) -> None:
    assert hparams_of(tmp_path, 0, {"llama.block_count": (2, kind)}).n_layers == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", ("qwen2", ValueType.STRING)),
        ("general.architecture", ("mixtral", ValueType.STRING)),
        ("general.architecture", None),
        ("general.type", ("adapter", ValueType.STRING)),
        ("general.quantization_version", integer(1)),
        ("split.count", (5, ValueType.UINT16)),
        ("llama.rope.scaling.type", ("yarn", ValueType.STRING)),
        ("llama.rope.scaling.type", (["none"], ValueType.ARRAY)),
        ("llama.rope.scaling.factor", (4.0, ValueType.FLOAT32)),
        ("llama.rope.scaling.attn_factor", (0.5, ValueType.FLOAT32)),
        ("llama.rope.scale_linear", (2.0, ValueType.FLOAT32)),
        ("llama.expert_shared_count", integer(1)),
        ("llama.expert_gating_func", integer(2)),
        ("llama.expert_weights_norm", (False, ValueType.BOOL)),
        ("llama.expert_weights_scale", (2.0, ValueType.FLOAT32)),
        ("llama.attention.causal", (False, ValueType.BOOL)),
        ("llama.attention.clamp_kqv", (8.0, ValueType.FLOAT32)),
        ("llama.final_logit_softcapping", (30.0, ValueType.FLOAT32)),
        ("llama.tensor_data_layout", ("other", ValueType.STRING)),
        ("llama.invented_tomorrow", integer(0)),
    ],
    ids=str,
)
def test_keys_that_change_the_result_are_refused_by_name(
    tmp_path: Path, key: str, value: Any
) -> None:
    with pytest.raises(FormatError) as caught:
        hparams_of(tmp_path, 4, {key: value})
    assert caught.value.field == key


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ({"key": 4, "value": 8}, "llama.attention.value_length"),
        ({"key": 8, "value": 8}, "llama.rope.dimension_count"),
        ({"key": 8, "value": 8, "rope": 8}, "tensor blk.0.attn_q.weight"),
    ],
)
def test_head_sizes_that_contradict(tmp_path: Path, sizes: dict[str, int], field: str) -> None:
    keys = {
        "key": "llama.attention.key_length",
        "value": "llama.attention.value_length",
        "rope": "llama.rope.dimension_count",
    }
    with pytest.raises(FormatError) as caught:
        hparams_of(tmp_path, 0, {keys[name]: integer(size) for name, size in sizes.items()})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.type", ("none", ValueType.STRING)),
        ("llama.rope.scaling.factor", (1.0, ValueType.FLOAT32)),
        ("llama.rope.scaling.original_context_length", integer(32768)),
        ("llama.expert_shared_count", integer(0)),
        ("llama.expert_gating_func", integer(1)),
        ("general.quantization_version", integer(2)),
        ("general.name", ("any", ValueType.STRING)),
        ("quantize.imatrix.file", ("any", ValueType.STRING)),
        ("split.count", (1, ValueType.UINT16)),
    ],
)
def test_keys_that_change_nothing_are_accepted(tmp_path: Path, key: str, value: Any) -> None:
    assert hparams_of(tmp_path, 4, {key: value}) == hparams_of(tmp_path, 4)


@pytest.mark.parametrize(
    ("name", "shape", "what"),
    [
        ("rope_freqs.weight", (2,), "not understood"),
        ("blk.0.ffn_gate_up_exps.weight", (4, 48, 16), "not understood"),
        ("blk.1.attn_q.bias", (16,), "not understood"),
        ("blk.0.ffn_gate.weight", (24, 16), "does not belong"),
        ("blk.2.attn_norm.weight", (16,), "does not belong"),
    ],
)
def test_unknown_tensors_are_refused_by_name(
    tmp_path: Path, name: str, shape: tuple[int, ...], what: str
) -> None:
    with pytest.raises(FormatError) as caught:
        hparams_of(tmp_path, 4, None, tiny_shapes(4) | {name: shape})
    assert caught.value.field == f"tensor {name}"
    assert what in caught.value.what


def test_the_list_of_tokens_must_fit_the_embedding(tmp_path: Path) -> None:
    tokens = (["a"] * 261, ValueType.ARRAY)
    with pytest.raises(FormatError, match="has 261 tokens, token_embd.weight has 262 rows"):
        hparams_of(tmp_path, 0, {"tokenizer.ggml.tokens": tokens})
