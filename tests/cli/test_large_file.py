"""A file of Mixtral-8x7B's real size, which costs nothing here: its data are a hole."""

from __future__ import annotations

import os
import resource
from math import prod
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from reference.mistral import processor, vocabulary
from reference.tiny import TinyModel, tensor_shapes

from pymixtral import memory
from pymixtral.formats.blocks import row_bytes

MIXTRAL_8X7B = TinyModel(
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    dim=4096,
    ffn_dim=14336,
    n_experts=8,
    n_experts_used=2,
    n_vocab=32000,
    n_layers=32,
    n_ctx_train=32768,
)
TEXT = "Once upon a time, there was a fox."


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its header, written by ggml's own package, and 26 GB of Q4_K zeros that are not stored."""
    path = tmp_path_factory.mktemp("mixtral") / "mixtral-8x7b.gguf"
    writer = GGUFWriter(path, "llama")
    add_metadata(writer, MIXTRAL_8X7B)
    n_bytes = 0
    for name, shape in tensor_shapes(MIXTRAL_8X7B).items():
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


def add_metadata(writer: GGUFWriter, model: TinyModel) -> None:
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


# Time would depend on the machine, so page faults are counted: touching all of a mapped 26 GB file
# takes 400,000 at least, with 16 pages to a fault.
FEW_FAULTS = 100_000


def faults(who: int) -> int:
    return resource.getrusage(who).ru_minflt


def run(start, *args: object) -> str:
    """A command's stdout, once it is sure that it has left the tensors alone."""
    before = faults(resource.RUSAGE_CHILDREN)
    process = start(*args)
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, b"")
    assert faults(resource.RUSAGE_CHILDREN) - before < FEW_FAULTS
    return stdout.decode()


def test_inspect_reads_only_the_header(start, mixtral: Path) -> None:
    assert mixtral.stat().st_size > 26e9
    stdout = run(start, "inspect", mixtral, "--ctx", 32768)
    assert "46.7 B parameters, 12.9 B active per token, 4.5" in stdout
    assert "v1 (recognised by the model's name)" in stdout


def test_tokenize_reads_only_the_header(start, mixtral: Path) -> None:
    stdout = run(start, "tokenize", mixtral, TEXT)
    assert [int(line.split()[0]) for line in stdout.splitlines()] == processor().encode(TEXT)


def test_refused_before_loading_where_memory_lacks(
    invoke, mixtral: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    before = faults(resource.RUSAGE_SELF)
    result = invoke("run", mixtral, TEXT, "--ctx", 4096, "--tier", "generic")  # scratch by tier
    assert faults(resource.RUSAGE_SELF) - before < FEW_FAULTS
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: not enough memory: 26.99 GB")
    assert "weights 26." in result.stderr
    assert "KV cache 536.9 MB" in result.stderr  # 32 layers, K and V, 4096, 1024 values, f16
    assert "--no-memory-check" in result.stderr
