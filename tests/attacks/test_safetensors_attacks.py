"""Hostile safetensors files: each is refused with one line that names file, field and offset."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_folders import safetensors_bytes, write_shards
from hostile import Damage, damaged, damages, refusal, refused
from hypothesis import HealthCheck, given, settings

from pymixtral.formats import FormatError, shards
from pymixtral.formats.safetensors import MAX_HEADER_BYTES, SafetensorsFile
from pymixtral.formats.shards import open_indexed

INDEX_NAME = "model.safetensors.index.json"


def file_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with any header: bytes, or something for json."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> Any:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


Refuse = Callable[[bytes], FormatError]


@pytest.fixture
def refuse(tmp_path: Path) -> Refuse:
    def write_and_open(content: bytes) -> FormatError:
        path = tmp_path / "hostile.safetensors"
        path.write_bytes(content)
        error = refused(path, SafetensorsFile)
        assert error.file == str(path)
        assert error.field
        return error

    return write_and_open


def test_the_parts_make_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(file_bytes({"a": entry(0, 8), "b": entry(8, 12)}, bytes(12)))
    with SafetensorsFile(path) as file:
        assert file.array("a").shape == (2,)


@pytest.mark.parametrize("length", [0, 1, 3, MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_case_18_header_length(refuse: Refuse, length: int) -> None:
    error = refuse(file_bytes(b"{}", length=length))
    assert error.field == "header length"
    assert error.offset == 0


def test_case_18_header_over_100_mb(refuse: Refuse, tmp_path: Path) -> None:
    """Also where the file is that long: a hole."""
    path = tmp_path / "long.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(FormatError, match="header length"):
        SafetensorsFile(path)


@pytest.mark.parametrize("content", [b"\0" * n for n in range(1, 9)] + [b"{}"])
def test_case_18_file_too_short(refuse: Refuse, content: bytes) -> None:
    assert refuse(content).field == "header length"


@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xfe{}",
        b'{"\xff": 1}',
        b"[]",
        b"null",
        b"77",
        b"{} {}",
        b'{"a": }',
        b"{" * 50,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 2}',
    ],
    ids=lambda header: str(header[:12]),
)
def test_case_18_bad_json(refuse: Refuse, header: bytes) -> None:
    assert refuse(file_bytes(header)).field == "header"


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "overlaps"),
        ({"a": entry(0, 12), "b": entry(4, 8)}, "overlaps"),
        ({"a": entry(0, 12), "b": entry(0, 12)}, "overlaps"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, "leaves a hole"),
        ({"a": entry(4, 12)}, "leaves a hole"),
        ({"a": entry(0, 8)}, "left over"),
        ({}, "left over"),
        ({"a": entry(0, 16)}, "missing"),
        ({"a": entry(0, 12), "b": entry(2**62, 2**62 + 4)}, "leaves a hole"),
    ],
)
def test_case_19_spans_must_tile_the_file(refuse: Refuse, tensors: Any, what: str) -> None:
    error = refuse(file_bytes(tensors, bytes(12)))
    assert what in error.what
    assert error.offset is not None


@pytest.mark.parametrize(
    "bad",
    [
        entry(0, 12, [4]),
        entry(0, 12, [2]),
        entry(0, 12, [3], "F64"),
        entry(0, 12, [2**32, 2**32]),
        entry(0, 12, [2**62, 4, 3]),
        entry(0, 12, [-3]),
        entry(0, 12, [-1, -3]),
        entry(0, 12, [3.0]),
        entry(0, 12, [True, 3]),
        entry(0, 12, ["3"]),
        entry(0, 12, [1] * 9 + [3]),
        entry(0, 12, [3], "F32 "),
        entry(0, 12, [3], "Q4"),
        entry(0, 12) | {"dtype": 7},
        entry(0, 12) | {"dtype": ["F32"]},
        entry(0, 12) | {"shape": 3},
        entry(0, 12) | {"shape": None},
        entry(0, 12) | {"data_offsets": [12, 0]},
        entry(0, 12) | {"data_offsets": [0]},
        entry(0, 12) | {"data_offsets": [0, 6, 12]},
        entry(0, 12) | {"data_offsets": [-12, 0]},
        entry(0, 12) | {"data_offsets": [0, 12.0]},
        entry(0, 12) | {"data_offsets": [0, 2**64]},
        entry(0, 12) | {"extra": 1},
        {"dtype": "F32", "shape": [3]},
        [],
        None,
    ],
    ids=str,
)
def test_case_20_entries(refuse: Refuse, bad: Any) -> None:
    error = refuse(file_bytes({"a": bad}, bytes(12)))
    assert error.field == "tensor a"
    assert error.offset == 8


@pytest.mark.parametrize("metadata", [[], "x", {"a": 1}, {"a": None}])
def test_case_20_metadata(refuse: Refuse, metadata: Any) -> None:
    assert refuse(file_bytes({"__metadata__": metadata})).field == "__metadata__"


def test_case_20_names_cannot_break_the_line(refuse: Refuse) -> None:
    refuse(file_bytes({"a\n\u001b[31m\ud800\u202e": None}))


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/../../b.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        "..",
        ".",
        "",
        "model.gguf",
        "a\0.safetensors",
        7,
        None,
        ["a.safetensors"],
    ],
)
def test_case_20_file_names_of_an_index(tmp_path: Path, shard: Any) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(FormatError, match="weight_map") as caught:
        open_indexed(tmp_path / INDEX_NAME, SafetensorsFile)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"[" * 100_000, b"\xff"],
    ids=lambda content: str(content[:16]),
)
def test_case_20_malformed_index(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        open_indexed(tmp_path / INDEX_NAME, SafetensorsFile)
    assert caught.value.file.endswith("index.json")


def test_case_20_an_index_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(b" " * 101)
    monkeypatch.setattr(shards, "MAX_INDEX_BYTES", 100)
    with pytest.raises(FormatError, match="longer than 100 bytes"):
        open_indexed(tmp_path / INDEX_NAME, SafetensorsFile)


def test_case_20_an_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    arrays = {name: np.zeros(2, np.float32) for name in "abcd"}
    index = tmp_path / "model.safetensors.index.json"

    def refused_with(weight_map: dict[str, str]) -> str:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(FormatError) as caught:
            open_indexed(tmp_path / INDEX_NAME, SafetensorsFile)
        return caught.value.what

    (tmp_path / "model.safetensors").touch()
    write_shards(tmp_path, arrays, 2)
    good = json.loads(index.read_text())["weight_map"]
    assert "is not in" in refused_with(good | {"absent": good["a"]})
    assert "is not in" in refused_with(good | {"a": good["b"]})
    assert "lacks a" in refused_with({name: file for name, file in good.items() if name != "a"})
    (tmp_path / good["b"]).write_bytes((tmp_path / good["a"]).read_bytes())
    assert "earlier shard" in refused_with(good)


def read_everything(path: Path) -> None:
    with SafetensorsFile(path) as file:
        for tensor in file.tensors.values():
            if tensor.dtype in ("F32", "F16", "BF16"):
                assert file.array(tensor.name).shape == tensor.shape


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages(250))
def test_damaged_bytes_cause_no_other_error(tmp_path: Path, damage: Damage) -> None:
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.ones(5, np.float32)}
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged(safetensors_bytes(arrays), damage))
    assert refusal(path, read_everything).isprintable()


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    content = safetensors_bytes({"a": np.zeros((2, 3), np.float32), "b": np.ones(5, np.float16)})
    path = tmp_path / "cut.safetensors"
    for n in range(len(content)):
        path.write_bytes(content[:n])
        assert refusal(path, read_everything)
    path.write_bytes(content)
    assert not refusal(path, read_everything)
