"""`merge` and `split`, and every command on a model in several files."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from byte_level_files import write_byte_level_model

PROMPT = ("Once upon a time", "--raw", "--temperature", "0", "--max-tokens", "5")


@pytest.fixture
def shards(invoke, storyteller: Path, tmp_path: Path) -> list[Path]:
    result = invoke("split", storyteller, tmp_path / "st.gguf", "--max-size", "3MB", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert all(0 < shard["n_bytes"] <= 3_000_000 for shard in found)
    return [Path(shard["file"]) for shard in found]


@pytest.fixture
def pieces(storyteller: Path, tmp_path: Path) -> list[Path]:
    content = storyteller.read_bytes()
    paths = [tmp_path / f"st.gguf.part{i}of2" for i in (1, 2)]
    paths[0].write_bytes(content[:5_000_000])
    paths[1].write_bytes(content[5_000_000:])
    return paths


@pytest.mark.parametrize("kind", ["shards", "pieces"])
def test_commands(invoke, request, storyteller: Path, tmp_path: Path, kind: str) -> None:
    paths = request.getfixturevalue(kind)
    text = tmp_path / "text"
    text.write_text("Once upon a time there was a fox. " * 30)
    for command, *rest in (
        ("run", *PROMPT),
        ("tokenize", "Once upon a time"),
        ("perplexity", text, "--ctx", 64),
    ):
        found, expected = (
            invoke(command, path, *rest, "--json") for path in (paths[0], storyteller)
        )
        assert found.exit_code == 0, found.stderr
        if command == "run":
            assert json.loads(found.stdout)["token_ids"] == json.loads(expected.stdout)["token_ids"]
        else:
            assert found.stdout == expected.stdout
    verified = json.loads(invoke("verify", paths[0], "--json").stdout)
    assert verified["n_bytes"] == sum(path.stat().st_size for path in paths)
    assert invoke("bench", paths[0], "-p", 4, "-n", 2, "-r", 1).exit_code == 0
    plan = ("quantize", paths[0], tmp_path / "q.gguf", "q4_0", "--allow-requantize", "--dry-run")
    assert invoke(*plan).exit_code == 0


@pytest.mark.parametrize("kind", ["shards", "pieces"])
def test_inspect(invoke, request, kind: str) -> None:
    paths = request.getfixturevalue(kind)
    n_more = len(paths) - 1
    summary = invoke("inspect", paths[0]).stdout
    assert f"{paths[0]} and {n_more} more file{'s' * (n_more > 1)}, GGUF" in summary
    document = json.loads(invoke("inspect", paths[0], "--json").stdout)
    assert {tensor["file"] for tensor in document["tensors"]} <= set(map(str, paths))
    assert not [key for key in document["metadata"] if key.startswith("split.")]


def test_manifest_of_several_files(invoke, shards: list[Path], tmp_path: Path) -> None:
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards]
    manifest = tmp_path / "SHA256SUMS"
    lines = [f"{digest}  {path.name}\n" for digest, path in zip(digests, shards, strict=True)]
    manifest.write_text("".join(lines))
    result = invoke("verify", shards[0], "--manifest", manifest, "--json")
    assert json.loads(result.stdout)["sha256"] == digests
    manifest.write_text("".join(lines[:-1]))
    assert "has no line" in invoke("verify", shards[0], "--manifest", manifest).stderr


def test_merge(invoke, shards: list[Path], storyteller: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.gguf"
    facts = json.loads(invoke("merge", shards[0], out, "--json").stdout)
    assert facts["n_bytes"] == out.stat().st_size
    assert out.read_bytes() == storyteller.read_bytes()


def test_layouts(invoke, storyteller: Path, tmp_path: Path) -> None:
    apart, back = tmp_path / "apart.gguf", tmp_path / "back.gguf"
    assert invoke("merge", storyteller, apart, "--layout", "per-expert").exit_code == 0
    assert "a tensor for each" in invoke("inspect", apart).stdout
    answers = [invoke("run", path, *PROMPT).stdout for path in (apart, storyteller)]
    assert answers[0] == answers[1] != ""
    assert invoke("merge", apart, back).stdout.startswith(f"{back}: ")
    assert back.read_bytes() == storyteller.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --max-size or --max-tensors"),
        (("--max-size", "4 floppies"), "no size such as 4GB"),
        (("--max-size", "0"), "no size such as 4GB"),
        (("--max-tensors", "0"), "0 is not in the range"),
    ],
)
def test_split_usage(invoke, storyteller: Path, tmp_path: Path, options, message: str) -> None:
    result = invoke("split", storyteller, tmp_path / "st", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_later_shard(invoke, shards: list[Path]) -> None:
    result = invoke("run", shards[1], *PROMPT)
    assert result.exit_code == 1
    assert f"name the first, {shards[0].name}" in result.stderr


def test_inspect_needs_no_library(invoke, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    path = write_byte_level_model(tmp_path / "model.gguf", "llama-bpe")
    assert invoke("inspect", path).exit_code == 0
    result = invoke("tokenize", path, "Hello")
    assert result.exit_code == 1
    assert "pip install 'pymixtral[bpe]'" in result.stderr
