"""Reading good safetensors files. Hostile ones are in tests/attacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hf_folders import safetensors_bytes, write_shards

from pymixtral.formats import FormatError
from pymixtral.formats.blocks import TypeId, dequantize
from pymixtral.formats.safetensors import SafetensorsFile
from pymixtral.formats.shards import open_indexed

ARRAYS = {
    "scalar": np.array(2.5, np.float32),
    "vector": np.arange(5, dtype=np.float32),
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "none": np.zeros((0, 4), np.float32),
    "experts": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_arrays_come_back_as_float32(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(ARRAYS, dtype))
    with SafetensorsFile(path) as file:
        assert file.metadata == {"format": "pt"}
        assert set(file.tensors) == set(ARRAYS)
        for name, expected in ARRAYS.items():
            assert file.tensors[name].dtype == dtype
            found = file.array(name)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected)


def test_the_reference_library_agrees(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors.numpy", reason="needs the PyPI package safetensors")
    path = tmp_path / "theirs.safetensors"
    theirs.save_file(ARRAYS, path, metadata={"k": "v"})
    with SafetensorsFile(path) as file:
        assert file.metadata == {"k": "v"}
        for name, expected in ARRAYS.items():
            np.testing.assert_array_equal(file.array(name), expected)
    ours = theirs.load(safetensors_bytes(ARRAYS))  # the helper of these tests is right, too
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(ours[name], expected)


def test_shards(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"replaced")
    write_shards(tmp_path, ARRAYS, 3)
    index = tmp_path / "model.safetensors.index.json"
    with open_indexed(index, SafetensorsFile) as model:
        assert set(model) == set(ARRAYS)
        assert [path.name for path in model.paths] == [
            f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
        ]
        for name, expected in ARRAYS.items():
            assert model.shape(name) == expected.shape
            stored, type_id = model.stored(name)
            assert type_id is TypeId.BF16
            np.testing.assert_array_equal(dequantize(stored.data, type_id, stored.shape), expected)


def test_a_type_we_do_not_decode_is_refused_on_use(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({"t": ARRAYS["vector"]}).replace(b'"F32"', b'"I32"'))
    with SafetensorsFile(path) as file:
        assert file.tensors["t"].shape == (5,)
        with pytest.raises(FormatError, match="tensor t: has type I32"):
            file.array("t")
