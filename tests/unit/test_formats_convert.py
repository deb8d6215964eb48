"""Hugging Face folders to GGUF, read back with the PyPI package `gguf`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hf_folders import (
    DIM,
    FFN,
    HEAD_DIM,
    N_EXPERTS,
    N_HEADS,
    N_KV_HEADS,
    N_LAYERS,
    N_VOCAB,
    NORMALIZER,
    PIECES,
    TRAINER,
    Arrays,
    dense_config,
    mixtral_config,
    packed,
    proto,
    proto_field,
    tokenizer_model,
    weights,
    write_folder,
    write_shards,
)

import pymixtral
from pymixtral.formats import FormatError, open_gguf, read_hparams, read_vocabulary
from pymixtral.formats.convert import convert

SHIPPED = Path(pymixtral.__path__[0]) / "models" / "storyteller-Q8_0.gguf"
STORYTELLER = Path(__file__).parents[3] / "shared" / "models" / "storyteller"

BLOCK_TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}


def rope_rows(n_heads: int) -> list[int]:
    """Source row of each row: row 2i of a head was row i, row 2i + 1 was row i + head_dim / 2."""
    half = HEAD_DIM // 2
    return [
        head * HEAD_DIM + i + side * half
        for head in range(n_heads)
        for i in range(half)
        for side in (0, 1)
    ]


def expected_tensors(arrays: Arrays, *, is_moe: bool) -> dict[str, np.ndarray[Any, Any]]:
    """GGUF name to weights, written out name by name."""
    expected = {
        "token_embd.weight": arrays["model.embed_tokens.weight"],
        "output_norm.weight": arrays["model.norm.weight"],
        "output.weight": arrays["lm_head.weight"],
    }
    for layer in range(N_LAYERS):
        hf, block = f"model.layers.{layer}", f"blk.{layer}"
        expected |= {
            f"{block}.attn_norm.weight": arrays[f"{hf}.input_layernorm.weight"],
            f"{block}.attn_q.weight": arrays[f"{hf}.self_attn.q_proj.weight"][rope_rows(N_HEADS)],
            f"{block}.attn_k.weight": arrays[f"{hf}.self_attn.k_proj.weight"][
                rope_rows(N_KV_HEADS)
            ],
            f"{block}.attn_v.weight": arrays[f"{hf}.self_attn.v_proj.weight"],
            f"{block}.attn_output.weight": arrays[f"{hf}.self_attn.o_proj.weight"],
            f"{block}.ffn_norm.weight": arrays[f"{hf}.post_attention_layernorm.weight"],
        }
        if is_moe:
            moe = f"{hf}.block_sparse_moe"
            expected[f"{block}.ffn_gate_inp.weight"] = arrays[f"{moe}.gate.weight"]
            for name, w in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
                expected[f"{block}.ffn_{name}_exps.weight"] = np.stack(
                    [arrays[f"{moe}.experts.{e}.{w}.weight"] for e in range(N_EXPERTS)]
                )
        else:
            for name in ("gate", "down", "up"):
                expected[f"{block}.ffn_{name}.weight"] = arrays[f"{hf}.mlp.{name}_proj.weight"]
    return expected


def check_tensors(path: Path, arrays: Arrays, type_name: str, *, is_moe: bool) -> None:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    expected = expected_tensors(arrays, is_moe=is_moe)
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        is_small = "norm" in name or "gate_inp" in name
        kind = gguf.GGMLQuantizationType["F32" if is_small else type_name]
        assert tensors[name].tensor_type == kind
        assert tuple(tensors[name].shape) == array.shape[::-1]
        assert tensors[name].data.tobytes() == gguf.quants.quantize(array, kind).tobytes()


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_mixtral(tmp_path: Path, type_name: str) -> None:
    out = tmp_path / "out.gguf"
    convert(write_folder(tmp_path / "hf"), out, type_name)
    check_tensors(out, weights(), BLOCK_TYPES[type_name], is_moe=True)
    fields = {name: field.contents() for name, field in gguf.GGUFReader(out).fields.items()}
    expected = {
        "general.architecture": "llama",
        "general.name": "hf",
        "general.file_type": {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}[type_name],
        "general.quantization_version": 2,
        "llama.vocab_size": N_VOCAB,
        "llama.context_length": 512,
        "llama.embedding_length": DIM,
        "llama.block_count": N_LAYERS,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": N_HEADS,
        "llama.attention.head_count_kv": N_KV_HEADS,
        "llama.attention.key_length": HEAD_DIM,
        "llama.attention.value_length": HEAD_DIM,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        "llama.rope.dimension_count": HEAD_DIM,
        "llama.rope.freq_base": 1e6,
        "llama.expert_count": N_EXPERTS,
        "llama.expert_used_count": 2,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
    }
    assert {name: fields[name] for name in expected} == expected
    assert "llama.attention.sliding_window" not in fields
    assert "general.license" not in fields
    n_pieces = len(PIECES)
    assert fields["tokenizer.ggml.tokens"][:n_pieces] == [text for text, _, _ in PIECES]
    assert fields["tokenizer.ggml.scores"][:n_pieces] == [score for _, score, _ in PIECES]
    assert fields["tokenizer.ggml.token_type"][:n_pieces] == [kind for _, _, kind in PIECES]
    assert set(fields["tokenizer.ggml.token_type"][n_pieces:]) == {5}  # unused
    assert len(set(fields["tokenizer.ggml.tokens"])) == N_VOCAB


@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "LlamaForCausalLM"])
def test_dense(tmp_path: Path, architecture: str) -> None:
    config = dense_config() | {"architectures": [architecture], "sliding_window": 128}
    arrays = weights(n_experts=0)
    out = tmp_path / "out.gguf"
    convert(write_folder(tmp_path / "hf", config, arrays), out, "q8_0")
    check_tensors(out, arrays, "Q8_0", is_moe=False)
    with open_gguf(out) as found:
        hparams = read_hparams(found)
    assert hparams.n_experts == 0
    assert hparams.sliding_window == (128 if architecture == "MistralForCausalLM" else 0)


def test_every_container_gives_the_same_file(tmp_path: Path) -> None:
    """Experts one by one or packed, bfloat16 or float32, one file or shards, old config or new."""
    arrays = weights()
    plain = write_folder(tmp_path / "plain")
    wide = write_folder(tmp_path / "wide", dtype="F32")
    one = write_folder(tmp_path / "packed", arrays=packed(arrays))
    shards = write_folder(tmp_path / "shards")
    write_shards(shards, arrays, 4)
    config = mixtral_config()
    del config["rope_theta"], config["torch_dtype"]
    config |= {
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
        "dtype": "bfloat16",
    }
    new = write_folder(tmp_path / "new", config)
    digests = set()
    for folder in (plain, wide, one, shards, new):
        out = tmp_path / "out.gguf"
        convert(folder, out, "q8_0", name="same")
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_rows_that_do_not_fill_blocks_become_f16(tmp_path: Path) -> None:
    """With an expert width of 24, ffn_down has rows of 24."""
    config = mixtral_config() | {"intermediate_size": 24}
    arrays = weights()
    for name in list(arrays):
        if "experts" in name:
            arrays[name] = arrays[name][:24] if "w2" not in name else arrays[name][:, :24].copy()
    out = tmp_path / "out.gguf"
    convert(write_folder(tmp_path / "hf", config, arrays), out, "q8_0")
    with open_gguf(out) as found:
        assert found.tensors["blk.0.ffn_down_exps.weight"].type_name == "F16"
        assert found.tensors["blk.0.ffn_up_exps.weight"].type_name == "Q8_0"


@pytest.mark.parametrize("has_head", [True, False])
def test_tied_embeddings(tmp_path: Path, has_head: bool) -> None:
    """The head that transformers may have saved anyway is left out."""
    arrays = weights()
    if not has_head:
        del arrays["lm_head.weight"]
    config = mixtral_config() | {"tie_word_embeddings": True}
    out = tmp_path / "out.gguf"
    convert(write_folder(tmp_path / "hf", config, arrays), out, "f16")
    with open_gguf(out) as found:
        assert read_hparams(found).tied_output


@pytest.mark.parametrize(
    ("architecture", "theta"), [("MixtralForCausalLM", 1e6), ("LlamaForCausalLM", 1e4)]
)
def test_theta_defaults_to_the_class_default(
    tmp_path: Path, architecture: str, theta: float
) -> None:
    is_moe = architecture == "MixtralForCausalLM"
    config = (mixtral_config() if is_moe else dense_config()) | {"architectures": [architecture]}
    del config["rope_theta"]
    out = tmp_path / "out.gguf"
    folder = write_folder(tmp_path / "hf", config, weights(N_EXPERTS if is_moe else 0))
    convert(folder, out, "f16")
    with open_gguf(out) as found:
        assert read_hparams(found).rope_theta == theta


def test_added_tokens_and_chat_template(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    n = len(PIECES)
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_start|>": n, "</s>": 2}))
    tokenizer_config = {
        "added_tokens_decoder": {
            "0": {"content": "<unk>", "special": True},
            str(n + 1): {"content": "<|im_end|>", "special": True},
        },
        "chat_template": "{{ messages }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    out = tmp_path / "out.gguf"
    convert(folder, out, "f16")
    with open_gguf(out) as found:
        vocabulary = read_vocabulary(found)
    assert vocabulary.tokens[n : n + 2] == ["<|im_start|>", "<|im_end|>"]
    assert vocabulary.types[n : n + 3].tolist() == [4, 3, 5]
    assert vocabulary.types[:3].tolist() == [2, 3, 3]
    assert vocabulary.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, "architectures"),
        ({"architectures": None}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_theta": "1e6"}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_key_value_heads": None}, "num_key_value_heads"),
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"num_local_experts": -8}, "num_local_experts"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"eos_token_id": N_VOCAB}, "special token"),
    ],
    ids=str,
)
def test_configs_that_are_refused(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    folder = write_folder(tmp_path / "hf", mixtral_config() | change)
    with pytest.raises(FormatError) as caught:
        convert(folder, tmp_path / "out.gguf", "f16")
    assert caught.value.field == field
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("trainer", "normalizer", "field"),
    [
        (proto_field(2, proto((3, 1))), NORMALIZER, "model_type"),
        (TRAINER, proto_field(3, proto((2, b"x"), (4, 0))), "precompiled_charsmap"),
        (TRAINER, proto_field(3, proto((4, 1))), "remove_extra_whitespaces"),
        (TRAINER, proto_field(3, proto((4, 0), (5, 0))), "escape_whitespaces"),
    ],
    ids=["unigram", "charsmap", "extra-whitespace", "no-escape"],
)
def test_tokenizers_that_are_refused(
    tmp_path: Path, trainer: bytes, normalizer: bytes, field: str
) -> None:
    folder = write_folder(tmp_path / "hf")
    (folder / "tokenizer.model").write_bytes(tokenizer_model(trainer, normalizer))
    with pytest.raises(FormatError) as caught:
        convert(folder, tmp_path / "out.gguf", "f16")
    assert caught.value.field == field


@pytest.mark.parametrize(
    "content",
    [
        {"added_tokens_decoder": {"-1": {"content": "x"}}},
        {"added_tokens_decoder": {str(N_VOCAB): {"content": "x"}}},
        {"added_tokens_decoder": {"9" * 30: {"content": "x"}}},
        {"added_tokens_decoder": {"1": {"content": 7}}},
        {"added_tokens_decoder": {"1": "x"}},
        {"added_tokens_decoder": {"1": {"content": "other"}}},
    ],
    ids=str,
)
def test_added_tokens_that_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    folder = write_folder(tmp_path / "hf")
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(FormatError):
        convert(folder, tmp_path / "out.gguf", "f16")


def test_tensors_that_are_refused(tmp_path: Path) -> None:
    def refused_with(arrays: Arrays, type_name: str = "f16") -> FormatError:
        folder = write_folder(tmp_path / "hf", arrays=arrays)
        with pytest.raises(FormatError) as caught:
            convert(folder, tmp_path / "out.gguf", type_name)
        assert list(tmp_path.iterdir()) == [folder]
        return caught.value

    router = "model.layers.1.block_sparse_moe.gate.weight"
    bias = "model.layers.0.self_attn.q_proj.bias"
    error = refused_with(weights() | {bias: np.zeros(DIM, np.float32)})
    assert (error.field, error.what) == (
        f"tensor {bias}",
        "is not understood, and may change the model's result",
    )
    error = refused_with({name: array for name, array in weights().items() if name != router})
    assert error.field == f"tensor {router}"
    assert "is missing" in error.what
    error = refused_with(weights() | {router: np.zeros((N_EXPERTS + 1, DIM), np.float32)})
    assert error.field == f"tensor {router}"
    assert "has shape (4, 64), must have (3, 64)" in error.what
    head = np.zeros((N_VOCAB, DIM), np.float32)
    head[3, 7] = 2.0**17
    error = refused_with(weights() | {"lm_head.weight": head})
    assert error.field == "tensor lm_head.weight"
    assert "too large for F16" in error.what
    head[3, 7] = np.nan
    assert "not finite" in refused_with(weights() | {"lm_head.weight": head}, "q8_0").what


def test_inverse_frequencies_are_ignored(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = write_folder(tmp_path / "hf", arrays=weights() | {name: np.ones(8, np.float32)})
    convert(folder, tmp_path / "out.gguf", "f16")


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    for name in ("model.safetensors", "tokenizer.model", "config.json"):
        before = (folder / name).read_bytes()
        link = tmp_path / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(folder / name)
        for out in (folder / name, link):
            with pytest.raises(FormatError, match="source of this conversion"):
                convert(folder, out, "f16")
        assert (folder / name).read_bytes() == before


def test_missing_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(FormatError, match=r"tokenizer.model: file: is missing"):
        convert(folder, tmp_path / "out.gguf", "f16")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "absent", tmp_path / "out.gguf", "f16")
    with pytest.raises(ValueError, match="q4_k"):
        convert(folder, tmp_path / "out.gguf", "q4_k")


def test_progress_names_every_tensor(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    out = tmp_path / "out.gguf"
    convert(write_folder(tmp_path / "hf"), out, "f16", lambda *step: seen.append(step))
    with open_gguf(out) as found:
        total = sum(info.n_bytes for info in found.tensors.values())
        assert list(dict.fromkeys(name for name, _, _ in seen)) == list(found.tensors)
    done = [n for _, n, _ in seen]
    assert done == sorted(set(done))
    assert done[-1] == total
    assert {n for _, _, n in seen} == {total}


def test_the_shipped_model() -> None:
    with open_gguf(SHIPPED) as found:
        hparams = read_hparams(found)
        vocabulary = read_vocabulary(found)
        types = {info.type_name for info in found.tensors.values()}
        assert found.metadata["general.license"] == "Apache-2.0"
    assert (hparams.n_experts, hparams.n_experts_used, hparams.n_vocab) == (8, 2, 2048)
    assert (hparams.rope_theta, hparams.n_ctx_train, hparams.warnings) == (1e6, 512, ())
    assert vocabulary.types[:4].tolist() == [2, 3, 3, 6]
    assert types == {"F32", "Q8_0"}


def test_the_card_tells_how_the_shipped_model_was_made(tmp_path: Path) -> None:
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert digest in (SHIPPED.parent / "README.md").read_text()
    if not STORYTELLER.exists():
        pytest.skip(f"the source of the shipped model is not at {STORYTELLER}")
    out = tmp_path / "out.gguf"
    convert(STORYTELLER, out, "q8_0", license="Apache-2.0")
    assert hashlib.sha256(out.read_bytes()).hexdigest() == digest
