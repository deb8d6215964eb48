"""Importance matrices: files as llama.cpp writes them (by PyPI's gguf, and by hand), and ours."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from pymixtral.formats import FormatError
from pymixtral.formats.imatrix import (
    Calibration,
    TensorSums,
    read_calibration,
    read_imatrix,
    write_calibration,
)

EXPERTS, DENSE = "blk.0.ffn_up_exps.weight", "blk.0.attn_q.weight"
COUNTS = np.array([[4], [0], [2]], np.float32)
SQUARES = np.array([[4, 8, 12], [0, 0, 0], [2, 2, 8]], np.float32)


def write_with_gguf(path: Path, tensors: dict[str, NDArray[np.float32]]) -> Path:
    """As llama.cpp's imatrix tool lays it out."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a.txt", "b.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def example(path: Path) -> Path:
    return write_with_gguf(
        path,
        {
            f"{EXPERTS}.in_sum2": SQUARES,
            f"{EXPERTS}.counts": COUNTS,
            f"{DENSE}.in_sum2": np.array([[3, 9]], np.float32),
            f"{DENSE}.counts": np.array([[6]], np.float32),
        },
    )


def test_gguf_layout(tmp_path: Path) -> None:
    matrix = read_imatrix(example(tmp_path / "i.gguf"))
    np.testing.assert_allclose(matrix.columns[DENSE], [[0.5, 1.5]])
    np.testing.assert_allclose(
        matrix.columns[EXPERTS],
        [
            [0.5, 1, 1.5],  # (1, 2, 3), of mean 1
            np.array([1, 1.5, 3.5]) / 2,  # never used: the mean of (1, 2, 3) and (1, 1, 4)
            [0.5, 0.5, 2],
        ],
    )
    assert matrix.unseen == [f"{EXPERTS}, expert 1"]


def test_a_tensor_that_was_never_used(tmp_path: Path) -> None:
    zeros = np.zeros((2, 3), np.float32)
    tensors = {f"{EXPERTS}.in_sum2": zeros, f"{EXPERTS}.counts": zeros[:, :1]}
    matrix = read_imatrix(write_with_gguf(tmp_path / "i.gguf", tensors))
    assert (matrix.columns, matrix.unseen) == ({}, [EXPERTS])


def test_sums_come_back(tmp_path: Path) -> None:
    found = read_calibration(example(tmp_path / "i.gguf"))
    np.testing.assert_array_equal(found.tensors[EXPERTS].squares, SQUARES)
    np.testing.assert_array_equal(found.tensors[EXPERTS].counts, COUNTS)
    assert (found.datasets, found.n_chunks, found.chunk_size) == (["a.txt", "b.txt"], 7, 512)
    assert found.source == ""


def test_what_is_written_is_what_gguf_reads(tmp_path: Path) -> None:
    path = tmp_path / "i.gguf"
    tensors = {EXPERTS: TensorSums(SQUARES, COUNTS)}
    write_calibration(path, Calibration(tensors, ["a.txt"], 3, 512, "digest"))
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "imatrix"
    assert fields["imatrix.datasets"] == ["a.txt"]
    assert (fields["imatrix.chunk_count"], fields["imatrix.chunk_size"]) == (3, 512)
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found[f"{EXPERTS}.in_sum2"].shape.tolist() == [3, 3]
    assert found[f"{EXPERTS}.counts"].shape.tolist() == [1, 3]
    np.testing.assert_array_equal(found[f"{EXPERTS}.in_sum2"].data, SQUARES)
    assert read_calibration(path).source == "digest"


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (DENSE, (5, 2), [[0.5, 1.5]]),
        ("blk.0.ffn_up.2.weight", (5, 3), [[0.5, 0.5, 2]]),  # a tensor for each expert
        ("blk.0.attn_k.weight", (5, 2), None),
    ],
)
def test_importance_of_a_tensor(
    tmp_path: Path, name: str, shape: tuple[int, ...], expected: list[list[float]] | None
) -> None:
    found = read_imatrix(example(tmp_path / "i.gguf")).of(name, shape)
    if expected is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(("name", "shape"), [(DENSE, (5, 3)), (EXPERTS, (4, 5, 3))])
def test_importance_of_another_model(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    path = example(tmp_path / "i.gguf")
    with pytest.raises(FormatError, match=f"{path}: {name}: has shape .* of another model"):
        read_imatrix(path).of(name, shape)


# ---- The older layout ----


def dat(entries: dict[str, tuple[int, list[float]]], tail: bytes = b"") -> bytes:
    """int32 n_entries; each: int32 length, name, int32 n_calls, int32 n_values, float32 values."""
    data = struct.pack("<i", len(entries))
    for name, (n_calls, values) in entries.items():
        encoded = name.encode()
        data += struct.pack(f"<i{len(encoded)}sii", len(encoded), encoded, n_calls, len(values))
        data += struct.pack(f"<{len(values)}f", *values)
    return data + tail


DAT = dat(
    {DENSE: (3, [3, 9]), EXPERTS: (2, [2, 6, 0, 0, 1, 3])},
    struct.pack("<ii5s", 7, 5, b"a.txt"),  # chunks, and the dataset's name
)


def test_dat_layout(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(DAT)
    matrix = read_imatrix(path, n_experts=3)
    np.testing.assert_allclose(matrix.columns[DENSE], [[0.5, 1.5]])
    np.testing.assert_allclose(matrix.columns[EXPERTS], [[0.5, 1.5]] * 3)
    assert matrix.unseen == [f"{EXPERTS}, expert 1"]


def test_dat_of_another_number_of_experts(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(DAT)
    with pytest.raises(FormatError, match="6 values are not of 4 experts"):
        read_imatrix(path, n_experts=4)


def test_dat_of_experts_apart(tmp_path: Path) -> None:
    """As llama.cpp wrote it while each expert had a tensor of its own."""
    path = tmp_path / "imatrix.dat"
    rows = {2: [1, 3], 0: [2, 6], 1: [0, 0]}
    path.write_bytes(dat({f"blk.0.ffn_up.{e}.weight": (2, row) for e, row in rows.items()}))
    matrix = read_imatrix(path, n_experts=3)
    np.testing.assert_allclose(matrix.columns[EXPERTS], [[0.5, 1.5]] * 3)
    assert matrix.unseen == [f"{EXPERTS}, expert 1"]


@pytest.mark.parametrize("rows", [{0: [1, 2], 2: [1, 2]}, {0: [1, 2], 1: [1]}])
def test_dat_of_some_experts(tmp_path: Path, rows: dict[int, list[float]]) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat({f"blk.0.ffn_up.{e}.weight": (2, row) for e, row in rows.items()}))
    with pytest.raises(FormatError, match="ffn_up_exps.weight: an expert is missing"):
        read_imatrix(path)


def test_every_truncation_of_a_dat_file(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    n_entries_bytes = len(DAT) - 13
    for length in range(n_entries_bytes):
        path.write_bytes(DAT[:length])
        with pytest.raises(FormatError):
            read_imatrix(path, n_experts=3)


# ---- Files that are refused ----


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x.in_sum2": SQUARES}, "needs x.counts beside it"),
        ({"x.in_sum2": SQUARES.astype(np.float16), "x.counts": COUNTS}, "both F32"),
        ({"x.in_sum2": SQUARES, "x.counts": COUNTS[:2]}, "has 3 matrices, but 2 counts"),
        ({"x.in_sum2": -SQUARES, "x.counts": COUNTS}, "negative"),
        ({"x.in_sum2": SQUARES * np.nan, "x.counts": COUNTS}, "no finite numbers"),
        ({"x.weight": SQUARES}, "hold no importance matrix"),
    ],
)
def test_refused(tmp_path: Path, tensors: dict[str, NDArray[np.float32]], said: str) -> None:
    path = write_with_gguf(tmp_path / "i.gguf", tensors)
    with pytest.raises(FormatError, match=said):
        read_imatrix(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "n_entries"),
        (struct.pack("<i", -1), "n_entries"),
        (struct.pack("<i", 2**31 - 1), "n_entries"),
        (struct.pack("<ii", 1, 2**31 - 1), "name length"),
        (dat({"x": (-1, [1])}), "n_calls"),
        (struct.pack("<ii1sii", 1, 1, b"x", 1, 2**30), "n_values"),
        (dat({"x": (1, [float("inf")])}), "no finite numbers"),
        (dat({"x": (1, [-1])}), "negative"),
    ],
)
def test_refused_dat(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=said):
        read_imatrix(path)
