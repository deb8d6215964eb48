"""Reading mapped files ahead: what is read, when not, and that nobody waits for it."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from pymixtral._cengine import ffi

from pymixtral import LLM
from pymixtral.engine.engine import Engine
from pymixtral.engine.read_ahead import STEP, ReadAhead

N_BYTES = 3 * STEP + 5000


def share_in_memory(mapped: mmap.mmap) -> float:
    """Of the pages, by mincore(2)."""
    n_pages = -(-len(mapped) // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * n_pages)()
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), states) == 0
    return sum(state & 1 for state in states) / n_pages


@contextmanager
def mapped_file(path: Path) -> Iterator[mmap.mmap]:
    """Of N_BYTES that are on the disk alone."""
    path.write_bytes(bytes(N_BYTES))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with closing(mmap.mmap(file.fileno(), N_BYTES, access=mmap.ACCESS_READ)) as mapped:
            yield mapped


def can_read_ahead() -> bool:
    release = os.uname().release.split(".")
    return os.uname().sysname == "Linux" and (int(release[0]), int(release[1])) >= (5, 14)


needs_linux = pytest.mark.skipif(not can_read_ahead(), reason="needs Linux 5.14")


@needs_linux
def test_what_is_on_the_disk_alone_is_read(tmp_path: Path) -> None:
    with mapped_file(tmp_path / "weights") as mapped:
        if share_in_memory(mapped) > 0.5:
            pytest.skip("this file system keeps its files in memory")
        part = ffi.from_buffer(memoryview(mapped)[100 : N_BYTES - 100])  # no multiples of pages
        ReadAhead([part]).wait()
        assert share_in_memory(mapped) == 1
        ffi.release(part)


@needs_linux
def test_stop_lets_go_of_the_buffers(tmp_path: Path) -> None:
    with mapped_file(tmp_path / "weights") as mapped:
        buffer = ffi.from_buffer(mapped)
        reader = ReadAhead([buffer])
        reader.stop()
        ffi.release(buffer)
        mapped.close()  # a BufferError if it were still held


@needs_linux
def test_a_file_that_was_truncated_ends_it(tmp_path: Path) -> None:
    with mapped_file(tmp_path / "weights") as mapped:
        os.truncate(tmp_path / "weights", 0)
        buffer = ffi.from_buffer(mapped)
        ReadAhead([buffer]).wait()  # no SIGBUS
        ffi.release(buffer)


@pytest.mark.parametrize(
    ("available", "repack", "is_read"),
    [
        (None, None, True),
        (1 << 40, None, True),
        (1000, None, False),  # it would push out what it has read
        (None, True, False),  # what was copied is not read again
    ],
)
def test_which_models_are_read(
    available: int | None, repack: bool | None, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Engine] = []
    monkeypatch.setattr(Engine, "read_ahead", lambda engine: calls.append(engine))
    monkeypatch.setattr("pymixtral.loader.available_bytes", lambda: available)
    with LLM(check_memory=False, repack=repack) as llm:
        assert calls == [llm.engine] * is_read


def test_closing_a_model_ends_it() -> None:
    for _ in range(20):
        with LLM() as llm:
            llm.engine.read_ahead()  # a second time changes nothing
        assert not [t for t in threading.enumerate() if t.name == "pymixtral-read-ahead"]
