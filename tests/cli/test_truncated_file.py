"""A model file that changes under a running program."""

from __future__ import annotations

import os
from pathlib import Path


def test_truncated_while_mapped_ends_with_a_line(start, storyteller: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(storyteller.read_bytes())
    process = start("chat", path)
    process.stderr.readline()  # the model is loaded
    os.truncate(path, 100_000)
    stdout, stderr = process.communicate(b"Hello!\n")
    assert process.returncode == 1
    assert b"error: the model's file was truncated while it was in use" in stderr
    assert b"Traceback" not in stderr


def test_truncated_after_a_copy_is_harmless(start, storyteller: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(storyteller.read_bytes())
    process = start("chat", path, "--no-mmap", "--max-tokens", 4, "--temperature", 0)
    process.stderr.readline()
    os.truncate(path, 100_000)
    stdout, _ = process.communicate(b"Hello!\n")
    assert process.returncode == 0
    assert stdout.strip()
