"""Reading and writing GGUF, against the PyPI package `gguf`."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from cpu_time import bounded_cpu_time
from gguf_files import (
    F32,
    Q8_0,
    gguf_bytes,
    key,
    string,
    tensor,
    tiny_metadata,
    tiny_shapes,
    write_model,
)

from pymixtral.formats import FormatError, ValueType, open_gguf
from pymixtral.formats.gguf_writer import GGUFWriter

SCALARS: dict[str, tuple[Any, ValueType]] = {
    "u8": (255, ValueType.UINT8),
    "i8": (-128, ValueType.INT8),
    "u16": (65535, ValueType.UINT16),
    "i16": (-32768, ValueType.INT16),
    "u32": (2**32 - 1, ValueType.UINT32),
    "i32": (-(2**31), ValueType.INT32),
    "f32": (0.5, ValueType.FLOAT32),
    "bool": (True, ValueType.BOOL),
    "string": ("r\u00e9sum\u00e9 \u2581", ValueType.STRING),
    "u64": (2**64 - 1, ValueType.UINT64),
    "i64": (-(2**63), ValueType.INT64),
    "f64": (1e300, ValueType.FLOAT64),
    "strings": (["a", "", "\u2581b"], ValueType.ARRAY),
    "floats": (np.array([1.5, -2.5], np.float32), ValueType.ARRAY),
    "ints": (np.array([-1, 2], np.int32), ValueType.ARRAY),
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file by our writer, with a key of each type and three tensors."""
    path = tmp_path / "ours.gguf"
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama", ValueType.STRING)
        for name, (value, kind) in SCALARS.items():
            writer.add(name, value, kind)
        writer.declare("a", F32, (2, 3))
        writer.declare("b", Q8_0, (2, 32))
        writer.declare("c", F32, (5,))
        writer.write("a", np.arange(6, dtype=np.float32).tobytes())
        writer.write("b", bytes(range(34)))
        writer.write("b", bytes(range(34, 68)))
        writer.write("c", np.arange(5, dtype=np.float32).data)
    return path


def test_gguf_reads_our_file(written: Path) -> None:
    reader = gguf.GGUFReader(written)
    for name, (value, kind) in SCALARS.items():
        field = reader.fields[name]
        assert int(field.types[0]) == kind
        found = field.contents()
        np.testing.assert_array_equal(found, value)
    a, b, c = reader.tensors
    np.testing.assert_array_equal(a.data, [[0, 1, 2], [3, 4, 5]])
    assert b.tensor_type.name == "Q8_0"
    assert b.data.tobytes() == bytes(range(68))
    assert [t.data_offset % 32 for t in reader.tensors] == [0, 0, 0]
    np.testing.assert_array_equal(c.data, range(5))


def test_we_read_the_file_of_gguf(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("u32", 7)
    writer.add_float32("f32", 0.5)
    writer.add_bool("yes", True)
    writer.add_string("name", "\u2581x")
    writer.add_array("strings", ["a", "bc"])
    writer.add_array("floats", [0.5, 1.5])
    writer.add_array("flags", [True, False])
    matrix = np.arange(64, dtype=np.float32).reshape(2, 32)
    writer.add_tensor("m", matrix)
    writer.add_tensor("h", matrix.astype(np.float16))
    quantized = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(path) as ours:
        assert ours.version == 3
        assert ours.metadata["general.architecture"] == "llama"
        assert (ours.metadata["u32"], ours.metadata["f32"], ours.metadata["yes"]) == (7, 0.5, True)
        assert ours.metadata["name"] == "\u2581x"
        assert ours.metadata["strings"] == ["a", "bc"]
        assert ours.metadata["floats"].tolist() == [0.5, 1.5]
        assert ours.metadata["flags"].tolist() == [True, False]
        assert ours.types["u32"] is ValueType.UINT32
        assert ours.tensors["m"].shape == (2, 32)
        assert ours.tensors["m"].ne == (32, 2)
        assert [info.type_name for info in ours.tensors.values()] == ["F32", "F16", "Q8_0"]
        for info in ours.tensors.values():
            np.testing.assert_allclose(ours.array(info.name), matrix, atol=0.26)
        np.testing.assert_array_equal(ours.array("m"), matrix)


@pytest.mark.parametrize("use_mmap", [True, False])
def test_data_is_read_only_and_outlives_close(written: Path, use_mmap: bool) -> None:
    with open_gguf(written, use_mmap=use_mmap) as ours:
        view = ours.data("b")
        assert view.nbytes == ours.tensors["b"].n_bytes == 68
        assert np.frombuffer(ours.data("a"), np.float32).ctypes.data % 32 == 0
    assert view.readonly
    assert bytes(view) == bytes(range(68))
    with pytest.raises(ValueError, match="closed"):
        ours.data("b")


def test_without_mmap_a_later_change_of_the_file_is_not_seen(written: Path) -> None:
    with open_gguf(written, use_mmap=False) as ours:
        written.write_bytes(bytes(written.stat().st_size))
        assert bytes(ours.data("b")) == bytes(range(68))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 24, 32, 64, 4096])
def test_versions_and_alignments(tmp_path: Path, version: int, alignment: int) -> None:
    path = tmp_path / "m.gguf"
    with GGUFWriter(path, version=version, alignment=alignment) as writer:
        for name in ("a", "b"):
            writer.declare(name, F32, (3,))
        for name in ("a", "b"):
            writer.write(name, np.full(3, ord(name), np.float32).tobytes())
    with open_gguf(path) as ours:
        assert (ours.version, ours.alignment) == (version, alignment)
        for name, info in ours.tensors.items():
            assert info.offset % alignment == 0
            np.testing.assert_array_equal(ours.array(name), [ord(name)] * 3)


def test_strings_that_are_not_utf8_survive(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes([key(b"k", ValueType.STRING, string(b"\xff\xc3("))]))
    with open_gguf(path) as ours:
        value = ours.metadata["k"]
    copy = tmp_path / "copy.gguf"
    with GGUFWriter(copy) as writer:
        writer.add("k", value, ValueType.STRING)
    assert copy.read_bytes() == path.read_bytes()


def test_tensors_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    records = [tensor(b"last", [8], offset=64), tensor(b"first", [8])]
    path.write_bytes(gguf_bytes(tensors=records, data=struct.pack("<24f", *range(24))))
    with open_gguf(path) as ours:
        assert list(ours.tensors) == ["last", "first"]
        assert ours.array("first")[0] == 0
        assert ours.array("last")[0] == 16


def test_a_file_of_metadata_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes([key(b"k", ValueType.UINT8, b"\7")], alignment=1))
    with open_gguf(path) as ours:
        assert ours.metadata == {"k": 7}
        assert ours.tensors == {}


def test_the_header_of_a_26_gb_file_is_read_quickly(tmp_path: Path) -> None:
    """32000 tokens, 995 tensors, and 26 GB of data that are a hole in the file."""
    path = tmp_path / "large.gguf"
    tokens = b"".join(string(b"token%d" % i) for i in range(32000))
    scores = bytes(4 * 32000)
    row_bytes, n_rows = 4096 // 32 * 34, 6016
    content = gguf_bytes(
        [
            key(b"tokens", ValueType.ARRAY, struct.pack("<IQ", ValueType.STRING, 32000) + tokens),
            key(b"scores", ValueType.ARRAY, struct.pack("<IQ", ValueType.FLOAT32, 32000) + scores),
        ],
        [tensor(b"t%d" % i, [4096, n_rows], Q8_0, i * row_bytes * n_rows) for i in range(995)],
    )
    with open(path, "wb") as file:
        file.write(content)
        file.truncate(len(content) + 995 * row_bytes * n_rows)
    with bounded_cpu_time(0.5):
        ours = open_gguf(path)
    with ours:
        assert path.stat().st_size > 26e9
        assert ours.metadata["tokens"][-1] == "token31999"
        assert not any(ours.data("t994")[:100])


def test_error_names_file_field_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(gguf_bytes([key(b"k", ValueType.BOOL, b"\2")]))
    with pytest.raises(FormatError) as caught:
        open_gguf(path)
    error = caught.value
    assert (error.file, error.field, error.offset) == (str(path), "k", 24 + 8 + 1 + 4)
    assert str(error) == f"{path}: k: a bool is 0 or 1, not 2 (offset 37)"


class TestWriter:
    """What the writer promises to the disk, and refuses."""

    def test_an_error_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        path.write_bytes(b"old")

        def write_and_stop() -> None:
            with GGUFWriter(path) as writer:
                writer.declare("a", F32, (1000,))
                writer.write("a", bytes(100))
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            write_and_stop()
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_incomplete_tensor_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"

        def write_half() -> None:
            with GGUFWriter(path) as writer:
                writer.declare("a", F32, (2,))
                writer.write("a", bytes(4))

        with pytest.raises(ValueError, match="a: is not complete"):
            write_half()
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_check_leaves_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        seen = []

        def check(temporary: Path) -> None:
            open_gguf(temporary).close()
            seen.append(temporary)
            raise FormatError(temporary, "file", "is not what we want")

        with pytest.raises(FormatError, match="not what we want"), GGUFWriter(path, check=check):
            pass
        assert seen[0].parent == tmp_path
        assert list(tmp_path.iterdir()) == []

    def test_a_reader_of_the_old_file_is_not_disturbed(self, tmp_path: Path) -> None:
        path = write_model(tmp_path / "m.gguf", tiny_metadata(), tiny_shapes())
        with open_gguf(path) as old:
            before = bytes(old.data("output.weight"))
            with GGUFWriter(path):
                pass
            assert bytes(old.data("output.weight")) == before
        with open_gguf(path) as new:
            assert not new.tensors

    def test_the_file_has_the_usual_permissions(self, tmp_path: Path) -> None:
        path, plain = tmp_path / "m.gguf", tmp_path / "plain"
        with GGUFWriter(path):
            pass
        plain.touch()
        assert path.stat().st_mode == plain.stat().st_mode

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (256, ValueType.UINT8),
            (-1, ValueType.UINT32),
            (1.5, ValueType.INT32),
            ("1", ValueType.FLOAT32),
            (7, ValueType.STRING),
            ([1, 2], ValueType.ARRAY),
            (np.zeros(2, np.complex64), ValueType.ARRAY),
            ("\ud800", ValueType.STRING),
        ],
    )
    def test_values_that_do_not_fit(self, tmp_path: Path, value: Any, kind: ValueType) -> None:
        with GGUFWriter(tmp_path / "m.gguf") as writer, pytest.raises(ValueError, match=r"^k: "):
            writer.add("k", value, kind)

    def test_what_the_reader_would_refuse(self, tmp_path: Path) -> None:
        with GGUFWriter(tmp_path / "m.gguf") as writer:
            writer.add("k", 1, ValueType.UINT8)
            for name in ("k", "", "\u00fc", "a" * 65536):
                with pytest.raises(ValueError, match="key|twice"):
                    writer.add(name, 1, ValueType.UINT8)
            writer.declare("t", F32, (1,))
            for name in ("t", "", "a" * 65):
                with pytest.raises(ValueError, match="name of 1 to 64"):
                    writer.declare(name, F32, (1,))
            for shape in ((), (0,), (1, 1, 1, 1, 1), (-1,)):
                with pytest.raises(ValueError, match="dimensions"):
                    writer.declare("u", F32, shape)
            with pytest.raises(ValueError, match="no tensor type 4"):
                writer.declare("u", 4, (32,))
            with pytest.raises(ValueError, match="overflows"):
                writer.declare("u", F32, (2**40, 2**40))
            with pytest.raises(ValueError, match="Q8_0"):
                writer.declare("u", Q8_0, (33,))
            with pytest.raises(ValueError, match="t expected"):
                writer.write("u", bytes(4))
            with pytest.raises(ValueError, match="more than its 4 bytes"):
                writer.write("t", bytes(5))
            writer.write("t", bytes(4))
            with pytest.raises(ValueError, match="no more tensors"):
                writer.write("t", bytes(4))
            with pytest.raises(ValueError, match="before"):
                writer.declare("v", F32, (1,))
            with pytest.raises(ValueError, match="before"):
                writer.add("l", 1, ValueType.UINT8)

    @pytest.mark.parametrize("alignment", [0, 4, 13, 2**31, -8])
    def test_alignment(self, tmp_path: Path, alignment: int) -> None:
        with pytest.raises(ValueError, match="alignment"):
            GGUFWriter(tmp_path / "m.gguf", alignment=alignment)
        with pytest.raises(ValueError, match="version"):
            GGUFWriter(tmp_path / "m.gguf", version=1)
