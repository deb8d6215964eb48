"""`merge` and `split` that are killed, and go on with --resume: the bytes are those of one run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pymixtral.formats.expert_layout import ExpertLayout
from pymixtral.formats.gguf_split import Progress, merge_gguf, split_gguf

MAX_TENSORS = 9


def killed_at(call: int, work: Callable[[Progress], object]) -> None:
    """Do `work` in a process of its own, killed with SIGKILL at a call of its progress function."""
    child = os.fork()
    if child == 0:
        calls = iter(range(call))

        def progress(*_: object) -> None:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        work(progress)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("call", [0, 30, 100])
def test_merge(invoke, storyteller: Path, tmp_path: Path, call: int) -> None:
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    layout = ExpertLayout.PER_EXPERT
    merge_gguf(storyteller, whole, layout)
    out.write_bytes(b"the old file")
    killed_at(call, lambda progress: merge_gguf(storyteller, out, layout, progress))
    assert out.read_bytes() == b"the old file"
    again = ("merge", storyteller, out, "--layout", "per-expert", "--json", "--resume")
    assert json.loads(invoke(*again).stdout)["resumed"] == call + 1  # a tensor is one chunk here
    assert out.read_bytes() == whole.read_bytes()
    assert set(contents(tmp_path)) == {"out.gguf", "whole.gguf"}


def test_another_layout_is_not_resumed(invoke, storyteller: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    killed_at(30, lambda progress: merge_gguf(storyteller, out, ExpertLayout.PER_EXPERT, progress))
    found = invoke("merge", storyteller, out, "--json", "--resume")
    assert json.loads(found.stdout)["resumed"] == 0
    assert out.read_bytes() == storyteller.read_bytes()


@pytest.mark.parametrize("call", [0, 5, 20, 40])
def test_split(invoke, storyteller: Path, tmp_path: Path, call: int) -> None:
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    whole.mkdir()
    apart.mkdir()
    split_gguf(storyteller, whole / "st", max_tensors=MAX_TENSORS)
    killed_at(
        call,
        lambda progress: split_gguf(
            storyteller, apart / "st", max_tensors=MAX_TENSORS, progress=progress
        ),
    )
    kept = {path: path.stat().st_ino for path in apart.glob("st-*.gguf")}
    again = ("split", storyteller, apart / "st", "--max-tensors", MAX_TENSORS, "--resume")
    assert invoke(*again).exit_code == 0
    assert contents(apart) == contents(whole)
    assert kept == {path: path.stat().st_ino for path in kept}  # not written again


def test_a_shard_of_another_model_is_written_again(
    invoke, storyteller: Path, tmp_path: Path
) -> None:
    """It has the name, the metadata and the tensors that are wanted, but other numbers."""
    paths = split_gguf(storyteller, tmp_path / "st", max_tensors=MAX_TENSORS)
    expected = contents(tmp_path)
    with open(paths[-1], "rb+") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"other")
    assert contents(tmp_path) != expected
    again = ("split", storyteller, tmp_path / "st", "--max-tensors", MAX_TENSORS, "--resume")
    assert invoke(*again).exit_code == 0
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("command", ["merge", "split"])
def test_what_a_killed_run_left_is_told(
    invoke, storyteller: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out.gguf"
    works: dict[str, Callable[[Progress], object]] = {
        "merge": lambda progress: merge_gguf(storyteller, out, progress=progress),
        "split": lambda progress: split_gguf(
            storyteller, tmp_path / "out", max_tensors=MAX_TENSORS, progress=progress
        ),
    }
    killed_at(5, works[command])
    options = ("--max-tensors", MAX_TENSORS) if command == "split" else ()
    result = invoke(command, storyteller, out, *options)
    assert "is left of a run that was killed: --resume or delete it" in result.stderr
