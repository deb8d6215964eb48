"""Hostile packed files: each is refused with one line, or has every tensor where and as large as
the model wants it. What becomes of the load is in unit/test_packed.py."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hostile import Damage, damaged, damages, refusal, refused
from hypothesis import HealthCheck, given, settings
from packed_files import SMALL, write_small_packed

from pymixtral.formats import open_gguf, read_hparams
from pymixtral.formats.packed import HASHES, is_packed, looks_packed, open_packed

N_HEADER = 900  # bytes of the small file's header, about


def read(path: Path) -> None:
    """Opens it as a load does, and looks at what C would be given."""
    with open_packed(path, SMALL) as packed:
        for name, size in SMALL.sizes.items():
            data = packed.data(name)
            assert len(data) == size
            assert np.frombuffer(data, np.uint8).ctypes.data % 64 == 0
            assert data.readonly


def test_the_small_file_is_good(tmp_path: Path) -> None:
    """Without this, every attack below might be refused for a reason of the helpers' own."""
    path = write_small_packed(tmp_path / "m.gguf.packed")
    read(path)
    assert looks_packed(path)
    with open_gguf(path) as gguf:
        assert 0.5 * N_HEADER < gguf.data_offset < N_HEADER


def test_truncation_at_every_byte_of_a_packed_file(tmp_path: Path) -> None:
    path = write_small_packed(tmp_path / "m.gguf.packed")
    with open_gguf(path) as gguf:
        last = gguf.tensors[HASHES]
    for length in range(last.offset + last.n_bytes - 1, -1, -1):
        os.truncate(path, length)
        assert refusal(path, read)


@pytest.mark.parametrize("offset", [1, 32, 2**31, 2**62, 2**63 - 1, 2**64 - 64, 2**64 - 1])
@pytest.mark.parametrize("name", [*SMALL.sizes, HASHES])
def test_offsets_of_packed_tensors(tmp_path: Path, name: str, offset: int) -> None:
    path = write_small_packed(tmp_path / "m.gguf.packed")
    patch(path, name, struct.pack("<Q", offset), at_offset=True)
    error = refused(path, read)
    assert error.field == f"tensor {name}"


@pytest.mark.parametrize("size", [0, 2, 63, 99, 101, 2**31, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("name", SMALL.sizes)
def test_sizes_of_packed_tensors(tmp_path: Path, name: str, size: int) -> None:
    path = write_small_packed(tmp_path / "m.gguf.packed")
    patch(path, name, struct.pack("<Q", size), at_offset=False)
    error = refused(path, read)
    assert name in (error.field + error.what)


def patch(path: Path, name: str, new: bytes, *, at_offset: bool) -> None:
    """Overwrites a tensor's offset, or its first dimension."""
    content = bytearray(path.read_bytes())
    n_dims = 2 if name == HASHES else 1
    begin = content.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name) + 4
    begin += (8 * n_dims + 4) * at_offset
    content[begin : begin + 8] = new
    path.write_bytes(content)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages(N_HEADER, longest=8))
def test_damaged_packed_files_cause_no_other_error(tmp_path: Path, damage: Damage) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        write_small_packed(whole)
    path = tmp_path / "m.gguf.packed"
    path.write_bytes(damaged(whole.read_bytes(), damage))
    assert refusal(path, read).isprintable()
    if looks_packed(path):
        with open_gguf(path) as gguf:
            assert is_packed(gguf)
        error = refusal(path, read_as_a_model)
        assert "a model's packed weights; name the model" in error


def read_as_a_model(path: Path) -> None:
    with open_gguf(path) as gguf:
        read_hparams(gguf)
