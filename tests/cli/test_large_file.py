"""A file of Mixtral-8x7B's real size, which costs nothing here: its data are a hole."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hollow_model import write_hollow_model
from reference.mistral import processor
from reference.tiny import TinyModel

from pymixtral import memory
from pymixtral.formats import open_gguf
from pymixtral.packer import packed_header

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
    """26 GB."""
    return write_hollow_model(
        tmp_path_factory.mktemp("mixtral") / "mixtral-8x7b.gguf", MIXTRAL_8X7B
    )


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


def test_a_packed_file_is_checked_with_little_reading(mixtral: Path) -> None:
    before = faults(resource.RUSAGE_SELF)
    with open_gguf(mixtral) as gguf:
        header = packed_header(gguf)
    assert faults(resource.RUSAGE_SELF) - before < FEW_FAULTS
    assert len(header.sizes) == 1 + 7 * MIXTRAL_8X7B.n_layers
    assert sum(header.sizes.values()) > 26e9


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
    assert result.stderr.startswith("error: not enough memory: 27.00 GB")
    assert "weights 26." in result.stderr
    assert "KV cache 536.9 MB" in result.stderr  # 32 layers, K and V, 4096, 1024 values, f16
    assert "--no-memory-check" in result.stderr
