"""A model file that changes under a running program."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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


READ_WHAT_IS_GONE = """
import mmap, sys, tempfile
import numpy as np
from reference.tiny_engine import tiny_engine
from pymixtral.engine import EngineOptions, explain_bus_errors

explain_bus_errors("error: gone")
engine = tiny_engine(options=EngineOptions(threads=8))
with tempfile.TemporaryFile() as file:
    file.truncate(1 << 26)
    view = np.frombuffer(mmap.mmap(file.fileno(), 1 << 26, access=mmap.ACCESS_READ), np.uint8)
    file.truncate(0)
    print("ready", flush=True)
    engine.read(view)
"""


def test_threads_that_meet_it_together() -> None:
    """The first is kept from saying its line, by a pipe that is full; the others must wait."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    n_filled = 0
    while True:
        try:
            n_filled += os.write(writer, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", READ_WHAT_IS_GONE],
        stdout=subprocess.PIPE,
        stderr=writer,
        env=os.environ | {"PYTHONPATH": paths.rstrip(os.pathsep)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(1)  # the threads are there long before
        assert process.poll() is None
        while n_filled > 0:
            n_filled -= len(os.read(reader, n_filled))
        assert os.read(reader, 100) == b"error: gone\n"
        assert process.wait(10) == 1
    os.close(reader)
    os.close(writer)
