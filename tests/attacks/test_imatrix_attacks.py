"""Hostile importance matrices, of both layouts: a FormatError, or a matrix of finite numbers."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymixtral.formats import FormatError
from pymixtral.formats.imatrix import Calibration, TensorSums, read_imatrix, write_calibration

NAME = "blk.0.ffn_up_exps.weight"


def gguf_bytes(folder: Path) -> bytes:
    path = folder / "good.gguf"
    sums = TensorSums(np.full((2, 4), 3, np.float32), np.full((2, 1), 2, np.float32))
    write_calibration(path, Calibration({NAME: sums}, ["text"], 1, 512, "digest"))
    return path.read_bytes()


def dat_bytes() -> bytes:
    values = struct.pack("<8f", *range(1, 9))
    return struct.pack(f"<ii{len(NAME)}sii", 1, len(NAME), NAME.encode(), 2, 8) + values


def check(path: Path) -> None:
    columns, line = {}, str(path)
    try:
        columns = read_imatrix(path, n_experts=2).columns
    except FormatError as error:
        line = str(error)
    assert line.isprintable()
    assert line.startswith(str(path))
    for values in columns.values():
        assert np.isfinite(values).all()
        assert (values >= 0).all()


@pytest.mark.parametrize("layout", ["gguf", "dat"])
@settings(max_examples=300, deadline=None, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_any_damage(tmp_path: Path, layout: str, data: st.DataObject) -> None:
    content = bytearray(gguf_bytes(tmp_path) if layout == "gguf" else dat_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 4))
        content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    length = data.draw(st.sampled_from([len(content), data.draw(st.integers(0, len(content)))]))
    path = tmp_path / "hostile"
    path.write_bytes(content[:length])
    check(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[*HealthCheck])
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(content)
    check(path)


@pytest.mark.parametrize("layout", ["gguf", "dat"])
def test_truncation_at_every_byte(tmp_path: Path, layout: str) -> None:
    """The data of its tensors, a few bytes each, included."""
    content = gguf_bytes(tmp_path) if layout == "gguf" else dat_bytes()
    content = content.rstrip(b"\0")  # padding may be cut
    path = tmp_path / "cut"
    path.write_bytes(content)
    assert read_imatrix(path, n_experts=2).columns
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(FormatError) as caught:
            read_imatrix(path, n_experts=2)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("values", [(3e38,) * 8, (1e-45,) * 8, (0.0,) * 7 + (3e38,)])
def test_extreme_values(tmp_path: Path, values: tuple[float, ...]) -> None:
    path = tmp_path / "extreme"
    path.write_bytes(dat_bytes()[:-32] + struct.pack("<8f", *values))
    check(path)
