"""Models in several files: gguf-split's shards and raw byte splits, opened as one."""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from full_disk import run_out_of_disk

from pymixtral import LLM
from pymixtral.formats import GGUFFile, open_gguf
from pymixtral.formats.gguf_shards import open_model_file
from pymixtral.formats.gguf_split import merge_gguf, split_gguf
from pymixtral.formats.quantize import quantize_gguf
from pymixtral.formats.recipes import RECIPES
from pymixtral.formats.verify import verify
from pymixtral.loader import shipped_model

WHOLE = shipped_model()
SIZE = WHOLE.stat().st_size
PAGE = mmap.PAGESIZE


def same_model(one: GGUFFile, other: GGUFFile) -> None:
    """Metadata and tensors are equal, byte for byte and in their order."""
    assert list(one.metadata) == list(other.metadata)
    for key, value in one.metadata.items():
        np.testing.assert_array_equal(value, other.metadata[key])
        assert one.types[key] is other.types[key]
    assert list(one.tensors) == list(other.tensors)
    for name, info in one.tensors.items():
        assert (info.type, info.shape) == (other.tensors[name].type, other.tensors[name].shape)
        assert one.data(name) == other.data(name)


def cut(path: Path, names: Sequence[str], at: Sequence[int]) -> Path:
    """The shipped model cut at these offsets; the path of its first piece."""
    content = WHOLE.read_bytes()
    for name, start, end in zip(names, [0, *at], [*at, len(content)], strict=True):
        (path / name).write_bytes(content[start:end])
    return path / names[0]


# ---- Shards ----


@pytest.mark.parametrize(
    ("limits", "at_least"), [({"max_tensors": 5}, 8), ({"max_bytes": 2_000_000}, 4)]
)
def test_shards(tmp_path: Path, limits: dict[str, int], at_least: int) -> None:
    paths = split_gguf(WHOLE, tmp_path / "st", **limits)
    count = len(paths)
    assert count >= at_least
    assert paths[0].name == f"st-00001-of-{count:05d}.gguf"
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in paths]
    if "max_bytes" in limits:
        assert max(path.stat().st_size for path in paths) <= limits["max_bytes"]
    with open_model_file(paths[0]) as shards, open_gguf(WHOLE) as whole:
        assert shards.paths == tuple(paths)
        same_model(shards, whole)
        headers = [path.read_bytes()[: open_gguf(path).data_offset] for path in paths]
        assert shards.header == b"".join(headers)
        last = list(shards.tensors)[-1]
        assert shards.path_of(last) == paths[-1]
        assert isinstance(shards.data(last).obj, mmap.mmap)
        shards.release(last)
        assert shards.data(last) == whole.data(last)


def test_the_gguf_package_reads_our_shards(tmp_path: Path) -> None:
    paths = split_gguf(WHOLE, tmp_path / "st", max_tensors=9)
    whole = {tensor.name: tensor for tensor in gguf.GGUFReader(WHOLE).tensors}
    names = []
    for index, path in enumerate(paths):
        reader = gguf.GGUFReader(path)
        assert reader.fields["split.no"].contents() == index
        assert reader.fields["split.count"].contents() == len(paths)
        assert reader.fields["split.tensors.count"].contents() == len(whole)
        assert reader.fields["split.count"].types == [gguf.GGUFValueType.UINT16]
        assert reader.fields["split.tensors.count"].types == [gguf.GGUFValueType.INT32]
        assert ("general.architecture" in reader.fields) == (index == 0)
        for tensor in reader.tensors:
            np.testing.assert_array_equal(tensor.data, whole[tensor.name].data)
            names.append(tensor.name)
    assert names == list(whole)


@pytest.mark.parametrize("small_first_shard", [False, True])
def test_we_read_the_gguf_packages_shards(tmp_path: Path, small_first_shard: bool) -> None:
    writer = gguf.GGUFWriter(
        tmp_path / "theirs.gguf",
        "llama",
        split_max_tensors=10,
        small_first_shard=small_first_shard,
    )
    reader = gguf.GGUFReader(WHOLE)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), kind, sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = min(tmp_path.glob("theirs-00001-of-*.gguf"))
    with open_model_file(first) as shards, open_gguf(WHOLE) as whole:
        assert len(shards.paths) > 3
        assert set(shards.tensors) == set(whole.tensors)
        for name in whole.tensors:
            assert shards.data(name) == whole.data(name)
    verify(first)


def test_merging_shards_gives_the_file_back(tmp_path: Path) -> None:
    first, *_ = split_gguf(WHOLE, tmp_path / "st", max_tensors=7)
    merge_gguf(first, tmp_path / "merged.gguf")
    assert (tmp_path / "merged.gguf").read_bytes() == WHOLE.read_bytes()


def test_splitting_shards_anew(tmp_path: Path) -> None:
    first, *_ = split_gguf(WHOLE, tmp_path / "a", max_tensors=7)
    again, *_ = split_gguf(first, tmp_path / "b", max_tensors=30)
    with open_model_file(again) as shards, open_gguf(WHOLE) as whole:
        assert len(shards.paths) == 2
        same_model(shards, whole)


def test_one_shard_is_enough(tmp_path: Path) -> None:
    (only,) = split_gguf(WHOLE, tmp_path / "st", max_bytes=10**9)
    assert only.name == "st-00001-of-00001.gguf"
    LLM(only).close()
    merge_gguf(only, tmp_path / "merged.gguf")
    assert (tmp_path / "merged.gguf").read_bytes() == WHOLE.read_bytes()
    assert len(split_gguf(only, tmp_path / "st", max_tensors=30)) == 2


def test_a_failure_leaves_no_first_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that cannot be opened as a model yet do not look like one."""

    def fail(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split_gguf(WHOLE, tmp_path / "st", max_tensors=9, progress=fail)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left
    assert all(name.endswith(".gguf") and "-00001-" not in name for name in left)


@pytest.mark.parametrize(
    ("command", "options"), [("merge", []), ("split", ["--max-tensors", "20"])]
)
def test_a_write_that_fails_names_the_file(
    tmp_path: Path, command: str, options: list[str]
) -> None:
    result = run_out_of_disk(command, WHOLE, tmp_path / "o", *options)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path / 'o'}")
    assert result.stderr.endswith(": File too large\n")
    assert not list(tmp_path.iterdir())


# ---- Byte splits ----

SCHEMES = [
    ["st.gguf-split-a", "st.gguf-split-b", "st.gguf-split-c"],
    ["st.gguf.part1of3", "st.gguf.part2of3", "st.gguf.part3of3"],
    ["st.gguf-split0", "st.gguf-split1", "st.gguf-split2"],
]


@pytest.mark.parametrize("names", SCHEMES, ids=lambda names: names[0])
@pytest.mark.parametrize("use_mmap", [True, False])
def test_byte_splits(tmp_path: Path, names: list[str], use_mmap: bool) -> None:
    first = cut(tmp_path, names, [500 * PAGE, 1100 * PAGE])
    with open_model_file(first, use_mmap=use_mmap) as pieces, open_gguf(WHOLE) as whole:
        assert pieces.paths == tuple(first.with_name(name) for name in names)
        assert pieces.header == whole.header == WHOLE.read_bytes()[: whole.data_offset]
        same_model(pieces, whole)


@pytest.mark.parametrize(
    "at", [[1, 2], [100, 30_001], [3_000_001, 5_000_003], [SIZE - 2, SIZE - 1]]
)
def test_cuts_at_any_byte(tmp_path: Path, at: list[int]) -> None:
    """Also inside the header, and such that maps are not aligned to a tensor's numbers."""
    first = cut(tmp_path, SCHEMES[0], at)
    with LLM(first) as one, LLM() as other:
        ids = one.tokenize("Once upon a time", add_bos=True)
        np.testing.assert_array_equal(one.logits(ids), other.logits(ids))


def test_only_what_crosses_a_cut_is_copied(tmp_path: Path) -> None:
    at = [500 * PAGE, 1100 * PAGE]
    with open_model_file(cut(tmp_path, SCHEMES[1], at)) as pieces:
        copied = {name for name in pieces.tensors if isinstance(pieces.data(name).obj, bytes)}
        crossing = {
            name
            for name, info in pieces.tensors.items()
            if any(info.offset < edge < info.offset + info.n_bytes for edge in at)
        }
        assert copied == crossing
        assert len(crossing) == 2


def test_merging_byte_splits(tmp_path: Path) -> None:
    merge_gguf(cut(tmp_path, SCHEMES[0], [100, 30_001]), tmp_path / "merged.gguf")
    assert (tmp_path / "merged.gguf").read_bytes() == WHOLE.read_bytes()


def test_a_split_that_is_whole(tmp_path: Path) -> None:
    """A name alone makes no piece: the content is read."""
    path = tmp_path / "st.gguf-split-a"
    shutil.copy(WHOLE, path)
    with open_model_file(path) as file:
        assert file.paths == (path,)


# ---- Sources of other work ----


@pytest.mark.parametrize("kind", ["shards", "splits"])
def test_quantizing_and_verifying(tmp_path: Path, kind: str) -> None:
    if kind == "shards":
        first, *_ = split_gguf(WHOLE, tmp_path / "st", max_tensors=9)
    else:
        first = cut(tmp_path, SCHEMES[1], [500 * PAGE, 1100 * PAGE])
    found = verify(first)
    assert found.n_tensors == verify(WHOLE).n_tensors
    for source, out in ((first, "a.gguf"), (WHOLE, "b.gguf")):
        quantize_gguf(source, tmp_path / out, RECIPES["bf16"], allow_requantize=True)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
