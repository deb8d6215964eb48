"""`pymixtral pack`, and packed files under the other commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from full_disk import run_out_of_disk
from hollow_model import write_hollow_model
from reference.tiny import TinyModel

from pymixtral.formats import packed_writer

ANSWER = ("Once upon a time", "--raw", "--temperature", "0", "--max-tokens", "12")


@pytest.fixture
def model(storyteller: Path, tmp_path: Path) -> Path:
    path = tmp_path / "st.gguf"
    shutil.copyfile(storyteller, path)
    return path


@pytest.fixture
def packed(invoke, model: Path) -> Path:
    result = invoke("pack", model)
    assert (result.exit_code, result.stderr) == (0, "")
    return model.with_name("st.gguf.packed")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pack(invoke, model: Path) -> None:
    before = model.read_bytes()
    result = invoke("pack", model, "--json")
    facts = json.loads(result.stdout)
    out = model.with_name("st.gguf.packed")
    assert facts["file"] == str(out)
    assert facts["n_bytes"] == out.stat().st_size
    assert facts["tensors"] == 29  # of 30 matrices; the embedding is read row by row
    assert names(model.parent) == ["st.gguf", "st.gguf.packed"]
    assert model.read_bytes() == before
    again = invoke("pack", model, "--threads", 1)  # one that exists is replaced, by the same bytes
    assert again.stdout.startswith(f"{out}: 29 tensors, 8.0 MB, ")
    assert names(model.parent) == ["st.gguf", "st.gguf.packed"]


def test_run_says_that_it_is_used(invoke, model: Path, packed: Path) -> None:
    plain = invoke("run", model, *ANSWER, "--no-repack")
    assert "packed weights" not in plain.stderr
    for option in ((), ("--repack",)):
        found = invoke("run", model, *ANSWER, *option)
        assert found.stdout == plain.stdout != ""
        assert ", packed weights\n" in found.stderr
    packed.unlink()
    copied = invoke("run", model, *ANSWER, "--repack")
    assert copied.stdout == plain.stdout
    assert ", copied weights\n" in copied.stderr
    in_vain = invoke("run", model, *ANSWER, "--repack", "--tier", "generic")
    assert "warning: repack changes nothing: tier generic has no other layout" in in_vain.stderr


def test_one_that_is_stale_is_told(invoke, model: Path, packed: Path, storyteller: Path) -> None:
    assert invoke("merge", storyteller, model, "--set", "general.name=another").exit_code == 0
    plain = invoke("run", model, *ANSWER, "--no-repack")
    assert "warning" not in plain.stderr
    for option in ((), ("--repack",)):
        found = invoke("run", model, *ANSWER, *option)
        assert (found.exit_code, found.stdout) == (0, plain.stdout)
        (warning,) = [line for line in found.stderr.splitlines() if "warning: " in line]
        assert warning.startswith(f"warning: {packed}: pymixtral-packed.source.fingerprint: ")
        assert f"run `pymixtral pack {model}` again" in warning
    assert invoke("run", model, *ANSWER, "--quiet").stderr == ""
    verified = invoke("verify", model)
    assert (verified.exit_code, verified.stdout) == (1, "")
    assert f"error: {packed}: " in verified.stderr
    assert invoke("pack", model).exit_code == 0
    assert "warning" not in invoke("run", model, *ANSWER).stderr


def test_shards(invoke, storyteller: Path, tmp_path: Path) -> None:
    invoke("split", storyteller, tmp_path / "st", "--max-tensors", 20)
    first = tmp_path / "st-00001-of-00003.gguf"
    assert invoke("pack", first).exit_code == 0
    assert tmp_path / "st-00001-of-00003.gguf.packed" in tmp_path.iterdir()
    found = invoke("run", first, *ANSWER)
    assert found.stdout == invoke("run", storyteller, *ANSWER).stdout
    assert "packed weights" in found.stderr
    later = invoke("pack", tmp_path / "st-00002-of-00003.gguf")
    assert later.exit_code == 1
    assert f"name the first, {first.name}" in later.stderr


def test_elsewhere(invoke, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere.packed"
    result = invoke("pack", model, "-o", out)
    assert f"it will be used where it lies as {model}.packed" in result.stderr
    assert "packed weights" not in invoke("run", model, *ANSWER).stderr
    os.link(out, f"{model}.packed")
    assert "packed weights" in invoke("run", model, *ANSWER).stderr


# ---- Given as the model ----


@pytest.mark.parametrize(
    "command",
    [("run", "Hello"), ("pack",), ("tokenize", "a"), ("bench",), ("merge", "/nowhere/out.gguf")],
)
def test_given_as_the_model(invoke, packed: Path, command: tuple[str, ...]) -> None:
    result = invoke(command[0], packed, *command[1:])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {packed}: general.architecture: is 'pymixtral-packed'" in result.stderr
    assert "name the model, st.gguf" in result.stderr


def test_inspect(invoke, model: Path, packed: Path) -> None:
    text = invoke("inspect", packed, "--tensors").stdout
    assert "packed weights of st.gguf (8.6 MB)" in text
    assert f"{model}, which it fits" in text
    assert "blk.3.attn_v.weight  " in text
    document = json.loads(invoke("inspect", packed, "--json").stdout)
    assert document.keys() == {"metadata", "tensors", "packed"}
    assert document["packed"] == {
        "version": 2,
        "source": "st.gguf",
        "source_size": model.stat().st_size,
        "model": str(model),
        "fits": True,
    }
    with open(model, "rb+") as changed:
        changed.seek(-1, os.SEEK_END)
        changed.truncate()
    assert not json.loads(invoke("inspect", packed, "--json").stdout)["packed"]["fits"]
    model.unlink()
    assert "is not beside it" in invoke("inspect", packed).stdout


# ---- verify ----


def test_verify(invoke, model: Path, packed: Path) -> None:
    assert invoke("verify", model).stdout.endswith(f"; so is {packed}\n")
    assert json.loads(invoke("verify", model, "--json").stdout)["packed"] == str(packed)
    assert invoke("verify", packed).stdout.endswith(f", all as in {model}\n")
    assert json.loads(invoke("verify", packed, "--json").stdout)["model"] == str(model)
    manifest = packed.with_name("SHA256SUMS")
    manifest.write_text(f"{'0' * 64}  {packed.name}\n")
    assert "the manifest says 000" in invoke("verify", packed, "--manifest", manifest).stderr
    model.unlink()
    alone = invoke("verify", packed)
    assert alone.stdout.endswith("; st.gguf, its model, is not beside it to compare\n")


@pytest.mark.parametrize("has_model", [True, False])
def test_verify_finds_a_changed_byte(invoke, model: Path, packed: Path, has_model: bool) -> None:
    with open(packed, "rb+") as changed:
        changed.seek(packed.stat().st_size // 2)
        changed.write(b"\xa5\x5a")
    assert invoke("run", model, *ANSWER).exit_code == 0  # a load does not look at every byte
    if has_model:
        result = invoke("verify", model)
        assert result.exit_code == 1
        assert f"error: {packed}: tensor blk." in result.stderr
    else:
        model.unlink()
    result = invoke("verify", packed)
    assert result.exit_code == 1
    assert "its bytes do not have the SHA-256 noted for them" in result.stderr


# ---- Writing ----


def test_the_model_is_not_overwritten(invoke, model: Path) -> None:
    before = model.read_bytes()
    result = invoke("pack", model, "-o", model)
    assert result.exit_code == 1
    assert "is a source itself" in result.stderr
    assert model.read_bytes() == before
    assert names(model.parent) == ["st.gguf"]


def test_a_full_disk_is_told_before(
    invoke, model: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = packed.read_bytes()
    monkeypatch.setattr(packed_writer, "free_bytes", lambda out: 1_000_000)
    result = invoke("pack", model)
    assert result.exit_code == 1
    assert f"error: {packed}: needs 7,9" in result.stderr
    assert "1,000,000 are free; the disk is too full" in result.stderr
    assert f"to delete it first frees {len(before):,} bytes" in result.stderr
    assert packed.read_bytes() == before
    assert names(model.parent) == ["st.gguf", "st.gguf.packed"]


def test_a_write_that_fails_leaves_the_old_file(model: Path, packed: Path) -> None:
    before = packed.read_bytes()
    result = run_out_of_disk("pack", model)
    assert result.returncode == 1
    assert result.stderr == f"error: {packed}: File too large\n"
    assert packed.read_bytes() == before
    assert names(model.parent) == ["st.gguf", "st.gguf.packed"]


def test_a_folder_that_is_not_there(invoke, model: Path, tmp_path: Path) -> None:
    result = invoke("pack", model, "-o", tmp_path / "no" / "st.packed")
    assert result.exit_code == 1
    assert "there is no such folder to write to" in result.stderr
    result = invoke("pack", model, "-o", tmp_path)
    assert "is a folder; name a file in it" in result.stderr


def test_a_folder_that_cannot_be_written(start, invoke, storyteller: Path, tmp_path: Path) -> None:
    """Root may write anywhere, except where the kernel makes the files."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        folder = Path("/proc/self/task")
    result = invoke("pack", storyteller, "-o", folder / "st.packed")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {folder}/")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_old_file(
    start, tmp_path: Path, signal_number: signal.Signals, code: int
) -> None:
    """Of a model of 450 MB, so that there is time."""
    large = TinyModel(
        n_heads=8, n_kv_heads=8, head_dim=128, dim=1024, ffn_dim=4096, n_experts=8,
        n_experts_used=2, n_vocab=32000, n_layers=8,
    )  # fmt: skip
    model = write_hollow_model(tmp_path / "m.gguf", large)
    packed = tmp_path / "m.gguf.packed"
    packed.write_bytes(b"the old file")
    process = start("pack", model)
    while not any(path.stat().st_size > 1 << 20 for path in tmp_path.glob(".m.gguf.packed.*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal_number)
    assert process.wait(20) == code
    assert b"Traceback" not in process.stderr.read()
    assert packed.read_bytes() == b"the old file"
    assert names(tmp_path) == ["m.gguf", "m.gguf.packed"]


def test_what_a_killed_run_left_is_told(start, invoke, model: Path) -> None:
    """And does not stand in the way."""
    left = model.with_name(".st.gguf.packed.0123abcd.tmp")
    left.write_bytes(b"some of it")
    result = invoke("pack", model)
    assert result.exit_code == 0
    assert f"{left} (0.0 MB) is left of a run that was killed: delete it" in result.stderr


def test_truncated_while_mapped_ends_with_a_line(start, model: Path, packed: Path) -> None:
    process = start("chat", model)
    assert b"packed weights" in process.stderr.readline()
    os.truncate(packed, 10_000)
    stdout, stderr = process.communicate(b"Hello!\n")
    assert process.returncode == 1
    assert b"error: the model's file was truncated while it was in use, or the packed" in stderr
    assert b"Traceback" not in stderr
