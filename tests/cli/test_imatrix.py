"""`imatrix`: a file that `quantize` uses, resuming, Ctrl-C, refusals."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from pymixtral.formats.imatrix import read_calibration

TEXT = Path(__file__).parents[1] / "data" / "tinystories_60k.txt"


@pytest.fixture
def measure(invoke, storyteller: Path):
    def run(out: Path, *args: object):
        return invoke("imatrix", storyteller, TEXT, out, "--ctx", 64, *args)

    return run


def test_measured_and_used(invoke, measure, storyteller: Path, tmp_path: Path) -> None:
    out, quantized = tmp_path / "i.gguf", tmp_path / "q.gguf"
    facts = json.loads(measure(out, "--chunks", 5, "--json").stdout)
    assert (facts["chunks"], facts["chunk_size"]) == (5, 64)
    args = ("quantize", storyteller, quantized, "q2_k", "--allow-requantize")
    assert invoke(*args).exit_code == 0
    without = quantized.read_bytes()
    result = invoke(*args, "--imatrix", out)
    assert result.exit_code == 0
    assert quantized.read_bytes() != without
    for matrix in facts["unseen"]:
        assert matrix in result.stderr


def test_resumed(measure, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "resumed"
    measure(whole, "--chunks", 5)
    measure(out, "--chunks", 2)
    assert measure(out, "--chunks", 5, "--resume").exit_code == 0
    assert out.read_bytes() == whole.read_bytes()
    again = measure(out, "--chunks", 5, "--resume")
    assert "5 chunks of 64 tokens" in again.stdout
    assert out.read_bytes() == whole.read_bytes()


def test_another_run_is_not_resumed(measure, tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    measure(out, "--chunks", 2)
    before = out.read_bytes()
    result = measure(out, "--chunks", 5, "--resume", "--ctx", 32)
    assert (result.exit_code, out.read_bytes()) == (1, before)
    assert "is not of this model, text and --ctx; leave --resume out" in result.stderr


def test_ctrl_c_keeps_the_chunks_that_are_done(
    start, measure, storyteller: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i.gguf"
    process = start("imatrix", storyteller, TEXT, out, "--ctx", 64, "--save-every", 1)
    while not out.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    n_done = read_calibration(out).n_chunks
    assert f"has {n_done} chunks; --resume goes on from there" in process.stderr.read().decode()
    whole = tmp_path / "whole"
    measure(whole, "--chunks", n_done)
    assert out.read_bytes() == whole.read_bytes()


def test_sources_are_not_overwritten(invoke, storyteller: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(TEXT.read_bytes())
    before = storyteller.read_bytes()
    for out in (storyteller, text):
        result = invoke("imatrix", storyteller, text, out, "--ctx", 64)
        assert result.exit_code == 1
        assert "is read by this command" in result.stderr
    assert (storyteller.read_bytes(), text.read_bytes()) == (before, TEXT.read_bytes())


@pytest.mark.parametrize(("out", "said"), [("none/i", "no such folder"), (".", "is a folder")])
def test_a_place_where_no_file_can_be(measure, tmp_path: Path, out: str, said: str) -> None:
    """Told before the model is loaded, not when the first chunks are done."""
    result = measure(tmp_path / out)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert said in result.stderr
