"""Files of one model that contradict one another, are missing, or are other than they seem.

Each ends in one FormatError that names the file at fault, and what to do where there is something.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import tiny_metadata, tiny_shapes, write_model
from hostile import refused

from pymixtral.formats import FormatError, ValueType, read_hparams
from pymixtral.formats.gguf_shards import open_model_file
from pymixtral.formats.gguf_split import merge_gguf, split_gguf

Metadata = dict[str, tuple[Any, ValueType]]
Shapes = dict[str, tuple[int, ...]]


def read(path: Path) -> None:
    with open_model_file(path) as file:
        read_hparams(file)


def split_keys(index: object, count: object, n_tensors: object) -> Metadata:
    return {
        "split.no": (index, ValueType.UINT16),
        "split.count": (count, ValueType.UINT16),
        "split.tensors.count": (n_tensors, ValueType.INT32),
    }


def write_shards(
    folder: Path, change: Callable[[list[Metadata], list[Shapes]], None] = lambda *_: None
) -> Path:
    """Three shards of a tiny dense model, after `change`; the path of the first."""
    shapes = list(tiny_shapes().items())
    tensors: list[Shapes] = [dict(shapes[i::3]) for i in range(3)]
    metadata: list[Metadata] = [split_keys(i, 3, len(shapes)) for i in range(3)]
    metadata[0] |= tiny_metadata()
    change(metadata, tensors)
    paths = [folder / f"m-0000{i + 1}-of-00003.gguf" for i in range(3)]
    for path, keys, own in zip(paths, metadata, tensors, strict=True):
        write_model(path, keys, own)
    return paths[0]


def test_the_parts_make_a_good_model(tmp_path: Path) -> None:
    """Without this, every attack below might be refused for a reason of the helpers' own."""
    with open_model_file(write_shards(tmp_path)) as file:
        assert read_hparams(file).n_layers == 2


def test_missing_shard(tmp_path: Path) -> None:
    first = write_shards(tmp_path)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    error = refused(first, read)
    assert error.file == str(first)
    assert "m-00002-of-00003.gguf is missing" in error.what


def test_a_later_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    error = refused(tmp_path / "m-00003-of-00003.gguf", read)
    assert error.field == "split.no"
    assert "name the first, m-00001-of-00003.gguf" in error.what


@pytest.mark.parametrize("name", ["m.gguf", "m-1-of-3.gguf", "m-00001-of-00004.gguf"])
def test_a_shard_of_another_name(tmp_path: Path, name: str) -> None:
    error = refused(write_shards(tmp_path).rename(tmp_path / name), read)
    assert error.field == "split.count"
    assert "NAME-00001-of-00003.gguf" in error.what


SHARD_CHANGES: dict[str, tuple[Callable[[list[Metadata], list[Shapes]], None], int, str, str]] = {
    # name: what is changed, the shard and the field at fault, part of the message
    "number": (
        lambda keys, _: keys[1].update(split_keys(2, 3, 21)),
        1,
        "split.no",
        "is 2, must be 1",
    ),
    "count": (
        lambda keys, _: keys[2].update(split_keys(2, 4, 21)),
        2,
        "split.count",
        "is 4, must be 3",
    ),
    "no count": (lambda keys, _: keys[1].pop("split.count"), 1, "split.count", "is 0, must be 3"),
    "tensors in all": (
        lambda keys, _: keys[0].update({"split.tensors.count": (20, ValueType.INT32)}),
        0,
        "split.tensors.count",
        "is 20, the shards have 21",
    ),
    "negative tensors": (
        lambda keys, _: keys[0].update({"split.tensors.count": (-1, ValueType.INT32)}),
        0,
        "split.tensors.count",
        "is -1",
    ),
    "type": (
        lambda keys, _: keys[0].update({"split.count": ("3", ValueType.STRING)}),
        0,
        "split.count",
        "must be an integer",
    ),
    "array": (
        lambda keys, _: keys[0].update({"split.no": (np.zeros(3, np.int32), ValueType.ARRAY)}),
        0,
        "split.no",
        "must be an integer",
    ),
    "duplicate tensor": (
        lambda _, tensors: tensors[2].update({"token_embd.weight": (262, 16)}),
        2,
        "tensor token_embd.weight",
        "is in m-00001-of-00003.gguf, too",
    ),
    "metadata that differ": (
        lambda keys, _: keys[1].update({"llama.rope.freq_base": (1e4, ValueType.FLOAT32)}),
        1,
        "llama.rope.freq_base",
        "contradicts m-00001-of-00003.gguf",
    ),
    "metadata of its own": (
        lambda keys, _: keys[2].update({"llama.expert_count": (8, ValueType.UINT32)}),
        2,
        "llama.expert_count",
        "contradicts m-00001-of-00003.gguf",
    ),
}


@pytest.mark.parametrize("name", SHARD_CHANGES)
def test_shards_that_contradict_one_another(tmp_path: Path, name: str) -> None:
    change, index, field, what = SHARD_CHANGES[name]
    error = refused(write_shards(tmp_path, change), read)
    assert error.file == str(tmp_path / f"m-0000{index + 1}-of-00003.gguf")
    assert error.field == field
    assert what in error.what


def test_metadata_may_be_repeated(tmp_path: Path) -> None:
    def repeat(keys: list[Metadata], _: list[Shapes]) -> None:
        keys[1] |= tiny_metadata()

    open_model_file(write_shards(tmp_path, repeat)).close()


def test_a_tensor_that_no_shard_has(tmp_path: Path) -> None:
    def lose(keys: list[Metadata], tensors: list[Shapes]) -> None:
        del tensors[1]["output_norm.weight"]
        for each in keys:
            each["split.tensors.count"] = (20, ValueType.INT32)

    error = refused(write_shards(tmp_path, lose), read)
    assert error.field == "tensor output_norm.weight"
    assert "is missing" in error.what


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    first, second = write_shards(tmp_path), tmp_path / "m-00002-of-00003.gguf"
    os.truncate(second, second.stat().st_size // 2)
    assert refused(first, read).file == str(second)
    second.write_bytes(b"")
    assert refused(first, read).file == str(second)
    second.unlink()
    os.mkfifo(second)
    assert "not a regular file" in refused(first, read).what


def test_a_count_beyond_all_bounds(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-65535.gguf"
    write_model(path, tiny_metadata() | split_keys(0, 65535, 21), tiny_shapes())
    assert "m-00002-of-65535.gguf is missing" in refused(path, read).what


# ---- Byte splits ----


def write_pieces(folder: Path, *names: str) -> Path:
    content = write_model(folder / "whole", tiny_metadata(), tiny_shapes()).read_bytes()
    size = len(content) // len(names) + 1
    for i, name in enumerate(names):
        (folder / name).write_bytes(content[i * size : (i + 1) * size])
    return folder / names[0]


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        (["m.part1of3", "m.part3of3"], "m.part2of3"),
        (["m.part1of3", "m.part2of3"], "m.part3of3"),
        (["m-split-a", "m-split-c"], "m-split-b"),
        (["m-split0", "m-split2"], "m-split1"),
    ],
)
def test_missing_piece(tmp_path: Path, there: list[str], missing: str) -> None:
    error = refused(write_pieces(tmp_path, *there), read)
    assert f"{missing} is missing" in error.what


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["m.part1of2", "m.part2of2"], "m.part1of2"),
        (["m-split-a", "m-split-b"], "m-split-a"),
        (["m-split0", "m-split1"], "m-split0"),
    ],
)
def test_a_later_piece_is_named(tmp_path: Path, names: list[str], named: str) -> None:
    write_pieces(tmp_path, *names)
    assert f"name the first, {named}" in refused(tmp_path / names[1], read).what


def test_a_piece_too_many(tmp_path: Path) -> None:
    write_pieces(tmp_path, "m.part1of2", "m.part2of2", "m.part3of2")
    assert "m.part3of2 is one more" in refused(tmp_path / "m.part1of2", read).what


def test_the_last_piece_of_letters_is_missing(tmp_path: Path) -> None:
    """Names do not tell, but the tensors do."""
    first = write_pieces(tmp_path, "m-split-a", "m-split-b", "m-split-c")
    (tmp_path / "m-split-c").unlink()
    assert "past the end of the file" in refused(first, read).what


def test_pieces_of_two_sets(tmp_path: Path) -> None:
    """Those of another count are another file's."""
    first = write_pieces(tmp_path, "m.part1of2", "m.part2of2")
    (tmp_path / "m.part2of3").write_bytes(b"of another file")
    open_model_file(first).close()


def test_pieces_that_are_no_files(tmp_path: Path) -> None:
    first = write_pieces(tmp_path, "m-split-a", "m-split-b")
    (tmp_path / "m-split-b").unlink()
    os.mkfifo(tmp_path / "m-split-b")
    assert "not a regular file" in refused(first, read).what
    (tmp_path / "m-split-b").unlink()
    (tmp_path / "m-split-b").write_bytes(b"")
    error = refused(first, read)
    assert error.file == str(tmp_path / "m-split-b")
    assert "empty" in error.what


# ---- Writing ----


def test_a_source_is_not_overwritten(tmp_path: Path) -> None:
    first = write_shards(tmp_path)
    before = first.read_bytes()
    with pytest.raises(FormatError, match="is a source itself"):
        merge_gguf(first, tmp_path / "m-00002-of-00003.gguf")
    with pytest.raises(FormatError, match="is a source itself"):
        split_gguf(first, tmp_path / "m", max_tensors=7)
    assert first.read_bytes() == before


@pytest.mark.parametrize(("limit", "what"), [(1000, "metadata"), (16_000, "tensor token_embd")])
def test_shards_too_small(tmp_path: Path, limit: int, what: str) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_metadata(), tiny_shapes())
    with pytest.raises(FormatError, match=f"{what}.*a shard may have"):
        split_gguf(path, tmp_path / "s", max_bytes=limit)
    assert [each.name for each in tmp_path.iterdir()] == ["m.gguf"]
