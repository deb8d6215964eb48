"""A file cut at any bytes reads as the whole one does."""

from __future__ import annotations

from pathlib import Path

from gguf_files import tiny_metadata, tiny_shapes, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymixtral.formats import open_gguf


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cuts(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "whole.gguf"
    if not path.exists():
        write_model(path, tiny_metadata(4), tiny_shapes(4))
    content = path.read_bytes()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(content) - 1), max_size=5)))
    edges = [0, *cuts, len(content)]
    for old in tmp_path.glob("cut*"):
        old.unlink()
    for letter, start, end in zip("abcdef", edges, edges[1:], strict=False):
        (tmp_path / f"cut-split-{letter}").write_bytes(content[start:end])
    with open_gguf(tmp_path / "cut-split-a") as pieces, open_gguf(path) as whole:
        assert pieces.tensors == whole.tensors
        assert list(pieces.metadata) == list(whole.metadata)
        for name in whole.tensors:
            assert pieces.data(name) == whole.data(name)
            pieces.release(name)
        start, n_bytes = data.draw(st.tuples(*[st.integers(0, len(content) + 9)] * 2))
        assert pieces._file.read(start, n_bytes) == content[start : start + n_bytes]
