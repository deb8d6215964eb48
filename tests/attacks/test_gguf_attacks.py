"""Hostile GGUF files. Every attack ends in one FormatError that names file, field and offset,
quickly, and without taking memory for what the file merely claims."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import (
    Q4_K,
    Q8_0,
    array,
    gguf_bytes,
    key,
    string,
    tensor,
    tiny_metadata,
    tiny_shapes,
    write_model,
)
from hostile import Damage, damaged, damages, refusal, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymixtral.formats import (
    FormatError,
    ValueType,
    mapping,
    open_gguf,
    read_hparams,
    read_vocabulary,
)

U64_MAX = 2**64 - 1
UINT8, UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 4, 6, 7, 8, 9, 10

MEMORY_BYTES = 256 << 10  # beyond what is proportional to the file


def open_and_close(path: Path) -> None:
    with open_gguf(path):
        pass


def gguf_refused(path: Path, read: Callable[[Path], None] = open_and_close) -> FormatError:
    """The error of reading `path`: beyond what all promise, it takes no memory for mere claims."""
    error = refused(path, read)

    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BYTES + 16 * min(path.stat().st_size, 1 << 20)

    line = str(error)
    assert error.file == str(path)
    assert str(path) in line
    assert error.field
    assert error.offset is not None
    assert 0 <= error.offset <= path.stat().st_size
    assert line.endswith(f"(offset {error.offset})")
    return error


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[[bytes], FormatError]:
    def write_and_open(content: bytes) -> FormatError:
        path = tmp_path / "hostile.gguf"
        path.write_bytes(content)
        return gguf_refused(path)

    return write_and_open


Refuse = Callable[[bytes], FormatError]


def test_the_parts_make_a_good_file(tmp_path: Path) -> None:
    """Without this, every attack below might be refused for a reason of the helpers' own."""
    path = tmp_path / "good.gguf"
    path.write_bytes(
        gguf_bytes(
            [key(b"a", UINT32, struct.pack("<I", 7)), key(b"b", ARRAY, array(UINT8, 2, b"\1\2"))],
            [tensor(b"t", [8, 2]), tensor(b"u", [32], Q8_0, offset=64)],
            bytes(128),
        )
    )
    with open_gguf(path) as gguf:
        assert gguf.metadata["a"] == 7
        assert gguf.metadata["b"].tolist() == [1, 2]
        assert gguf.tensors["t"].shape == (2, 8)
        assert gguf.tensors["u"].n_bytes == 34


@pytest.mark.parametrize("count", [U64_MAX, 2**63, 2**32, 1000])
def test_case_01_counts(refuse: Refuse, count: int) -> None:
    error = refuse(gguf_bytes([key(b"k", UINT8, b"\0")], n_keys=count))
    assert (error.field, error.offset) == ("metadata_kv_count", 16)
    error = refuse(gguf_bytes(tensors=[tensor(b"t", [8])], n_tensors=count))
    assert (error.field, error.offset) == ("tensor_count", 8)


def test_case_01_counts_one_too_many(refuse: Refuse) -> None:
    one_key = [key(b"k" * 32, UINT8, b"\0")]
    assert refuse(gguf_bytes(one_key, n_keys=2, alignment=1)).field == "metadata[1].key"
    two_tensors = [tensor(b"t", [8]), tensor(b"u" * 40, [8], offset=32)]
    content = gguf_bytes(tensors=two_tensors, n_tensors=3, alignment=1)
    assert refuse(content).field == "tensors[2].name"


@pytest.mark.parametrize("field", ["metadata_kv_count", "tensor_count"])
def test_case_01_counts_that_a_large_file_could_hold(tmp_path: Path, field: str) -> None:
    """A hole of a gigabyte: there is room for the records, and no reason to read them."""
    path = tmp_path / "large.gguf"
    counts = {"tensor_count": {"n_tensors": 10**6}, "metadata_kv_count": {"n_keys": 10**6}}
    path.write_bytes(gguf_bytes(**counts[field]))
    os.truncate(path, 1 << 30)
    assert gguf_refused(path).field == field


@pytest.mark.parametrize("length", [U64_MAX, 2**63, 2**63 - 1, 2**32, 41])
def test_case_02_string_lengths(refuse: Refuse, length: int) -> None:
    """As a key, a value, an array's element and a tensor's name; 41 is remaining + 1."""
    lie = string(b"x" * 40, length)
    one_key, one_tensor = gguf_bytes(n_keys=1)[:24], gguf_bytes(n_tensors=1)[:24]
    value = string(b"k") + struct.pack("<I", STRING)
    element = string(b"k") + struct.pack("<I", ARRAY) + array(STRING, 1)
    assert refuse(one_key + lie).field == "metadata[0].key"
    assert refuse(one_key + value + lie).field == "k"
    assert refuse(one_key + element + lie).field == "k[0]"
    assert refuse(one_tensor + lie).field == "tensors[0].name"


@pytest.mark.parametrize(
    ("kind", "count"),
    [(UINT64, 2**61), (FLOAT32, 2**62), (UINT8, U64_MAX), (STRING, 2**61), (UINT8, 2**32)],
    ids=str,
)
def test_case_03_array_size_wraps(refuse: Refuse, kind: int, count: int) -> None:
    content = gguf_bytes([key(b"k", ARRAY, array(kind, count))], alignment=1)
    assert len(content) == 49
    assert refuse(content).field == "k"


@pytest.mark.parametrize("depth", [1, 100_000])
def test_case_04_nested_arrays(refuse: Refuse, depth: int) -> None:
    nested = array(ARRAY, 1) * depth + array(UINT8, 0)
    assert "arrays inside arrays" in refuse(gguf_bytes([key(b"k", ARRAY, nested)])).what


@pytest.mark.parametrize("n_dims", [0, 5, 2**31, 2**32 - 1])
def test_case_05_n_dims(refuse: Refuse, n_dims: int) -> None:
    ne = [1] * min(n_dims, 5) or [1]  # at least one, for the record not to be too short
    error = refuse(gguf_bytes(tensors=[tensor(b"t", ne, n_dims=n_dims)], data=bytes(64)))
    assert error.field == "tensor t"
    assert f"has {n_dims} dimensions" in error.what


@pytest.mark.parametrize("bad", [0, U64_MAX, 2**63])
@pytest.mark.parametrize("position", range(4))
def test_case_06_zero_and_negative_dimensions(refuse: Refuse, position: int, bad: int) -> None:
    ne = [1, 1, 1, 1]
    ne[position] = bad
    assert refuse(gguf_bytes(tensors=[tensor(b"t", ne)], data=bytes(64))).field == "tensor t"


@pytest.mark.parametrize(
    "ne",
    [[2**32, 2**32], [2**31, 2**31, 4], [2**62], [2**63 - 1], [2**40, 2**24, 1, 1], [2**61, 2]],
    ids=str,
)
def test_case_07_sizes_overflow(refuse: Refuse, ne: list[int]) -> None:
    assert refuse(gguf_bytes(tensors=[tensor(b"t", ne)], data=bytes(64))).field == "tensor t"


@pytest.mark.parametrize("offset", [U64_MAX - 31, U64_MAX - 63, 2**63, 2**63 - 32])
def test_case_07_sums_overflow(refuse: Refuse, offset: int) -> None:
    records = [tensor(b"t", [8]), tensor(b"u", [16], offset=offset)]
    assert refuse(gguf_bytes(tensors=records, data=bytes(64))).field == "tensor u"


@pytest.mark.parametrize(("kind", "row"), [(Q8_0, 33), (Q8_0, 1), (Q4_K, 32), (Q4_K, 255)])
def test_case_08_row_is_no_multiple_of_its_block(refuse: Refuse, kind: int, row: int) -> None:
    # 256 rows, so that the number of values alone would fill whole blocks
    error = refuse(gguf_bytes(tensors=[tensor(b"t", [row, 256], kind)], data=bytes(1 << 17)))
    assert error.field == "tensor t"
    assert "blocks" in error.what


@pytest.mark.parametrize("kind", [2**32 - 1, 2**31, 42, 1000, 4, 5, 31, 32, 33, 36, 37, 38])
def test_case_09_tensor_type(refuse: Refuse, kind: int) -> None:
    error = refuse(gguf_bytes(tensors=[tensor(b"t", [256], kind)], data=bytes(2048)))
    assert error.field == "tensor t"
    assert str(kind) in error.what


@pytest.mark.parametrize("kind", [13, 99, 2**32 - 1])
def test_case_09_value_type(refuse: Refuse, kind: int) -> None:
    assert "value type" in refuse(gguf_bytes([key(b"k", kind, bytes(8))])).what
    assert "value type" in refuse(gguf_bytes([key(b"k", ARRAY, array(kind, 1, bytes(8)))])).what


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((UINT32, struct.pack("<I", n)) for n in (0, 13, 2**31, 4, 2**32 - 8, 2**32 - 1)),
        (UINT64, struct.pack("<Q", 32)),
        (FLOAT32, struct.pack("<f", 32)),
        (STRING, string(b"32")),
        (ARRAY, array(UINT32, 1, struct.pack("<I", 32))),
    ],
    ids=str,
)
def test_case_10_alignment(refuse: Refuse, kind: int, value: bytes) -> None:
    content = gguf_bytes([key(b"general.alignment", kind, value)], [tensor(b"t", [8])], bytes(64))
    assert refuse(content).field == "general.alignment"


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (0, 1 << 20, "past the end"),
        (0, 64, "past the end"),
        (0, 0, "overlaps"),
        (32, 0, "overlaps"),
        (0, 32, "overlaps"),
        (0, 65, "no multiple"),
        (0, 2**64 - 64, "past the end"),
    ],
)
def test_case_11_offsets(refuse: Refuse, first: int, second: int, what: str) -> None:
    records = [tensor(b"t", [16], offset=first), tensor(b"u", [16], offset=second)]
    error = refuse(gguf_bytes(tensors=records, data=bytes(127)))
    assert what in error.what
    assert error.field in ("tensor t", "tensor u")


@pytest.mark.parametrize("name", [b"", b"a" * 65536, "schl\u00fcssel".encode(), b"a\nb", b"\xff"])
def test_case_12_key_names(refuse: Refuse, name: bytes) -> None:
    assert refuse(gguf_bytes([key(name, UINT8, b"\0")])).field == "metadata[0].key"


def test_case_12_duplicate_key(refuse: Refuse) -> None:
    content = gguf_bytes([key(b"k", UINT8, b"\0"), key(b"k", UINT32, bytes(4))])
    error = refuse(content)
    assert error.field == "k"
    assert error.offset == 24 + len(key(b"k", UINT8, b"\0"))


@pytest.mark.parametrize("name", [b"", b"a" * 65])
def test_case_12_tensor_names(refuse: Refuse, name: bytes) -> None:
    error = refuse(gguf_bytes(tensors=[tensor(name, [8])], data=bytes(32)))
    assert error.field == "tensors[0].name"


def test_case_12_duplicate_tensor(refuse: Refuse) -> None:
    records = [tensor(b"t", [8]), tensor(b"t", [8], offset=32)]
    error = refuse(gguf_bytes(tensors=records, data=bytes(64)))
    assert error.field == "tensor t"
    assert "twice" in error.what


def test_case_12_names_cannot_break_the_line(refuse: Refuse) -> None:
    name = b"a\n\x1b[31mred\r\0\xff\xe2\x80\xae"
    error = refuse(gguf_bytes(tensors=[tensor(name, [0])], data=bytes(64)))
    assert r"\n\x1b[31mred\r\x00\udcff\u202e" in str(error)


def model_refused(
    tmp_path: Path,
    changes: dict[str, Any],
    read: Callable[[Any], object],
    n_experts: int = 0,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> FormatError:
    """The error of a tiny model whose metadata are changed; a value of None drops the key."""
    metadata = tiny_metadata(n_experts) | changes
    metadata = {name: value for name, value in metadata.items() if value is not None}
    path = write_model(tmp_path / "m.gguf", metadata, tiny_shapes(n_experts) | (shapes or {}))

    def open_and_read(path: Path) -> None:
        with open_gguf(path) as gguf:
            read(gguf)

    return gguf_refused(path, open_and_read)


@pytest.mark.parametrize("n_experts", [0, 4])
def test_the_tiny_model_is_good(tmp_path: Path, n_experts: int) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_metadata(n_experts), tiny_shapes(n_experts))
    with open_gguf(path) as gguf:
        assert read_hparams(gguf).n_experts == n_experts
        assert len(read_vocabulary(gguf).tokens) == 262


@pytest.mark.parametrize(
    "scores",
    [
        (np.zeros(262, np.int32), ValueType.ARRAY),
        (np.zeros(262, np.float64), ValueType.ARRAY),
        (np.zeros(262, np.uint8), ValueType.ARRAY),
        (["0"] * 262, ValueType.ARRAY),
        (0.0, ValueType.FLOAT32),
        ("", ValueType.STRING),
        (np.full(262, np.nan, np.float32), ValueType.ARRAY),
        None,
    ],
    ids=lambda value: (
        "missing" if value is None else f"{value[1].name} of {type(value[0]).__name__}"
    ),
)
def test_case_13_scores_of_the_wrong_type(tmp_path: Path, scores: Any) -> None:
    error = model_refused(tmp_path, {"tokenizer.ggml.scores": scores}, read_vocabulary)
    assert error.field.startswith("tokenizer.ggml.scores")


@pytest.mark.parametrize("n", [0, 1, 261, 263])
@pytest.mark.parametrize("name", ["scores", "token_type"])
def test_case_14_lists_of_different_lengths(tmp_path: Path, name: str, n: int) -> None:
    values = np.ones(n, np.float32 if name == "scores" else np.int32)
    changes = {f"tokenizer.ggml.{name}": (values, ValueType.ARRAY)}
    assert model_refused(tmp_path, changes, read_vocabulary).field == f"tokenizer.ggml.{name}"


def test_case_14_no_tokens(tmp_path: Path) -> None:
    changes = {"tokenizer.ggml.tokens": ([], ValueType.ARRAY)}
    assert model_refused(tmp_path, changes, read_vocabulary).field == "tokenizer.ggml.tokens"


@pytest.mark.parametrize("name", ["bos", "eos", "unknown"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (262, ValueType.UINT32),
        (2**32 - 1, ValueType.UINT32),
        (-1, ValueType.INT32),
        (1.0, ValueType.FLOAT32),
        (True, ValueType.BOOL),
    ],
)
def test_case_14_special_ids(tmp_path: Path, name: str, value: Any, kind: ValueType) -> None:
    field = f"tokenizer.ggml.{name}_token_id"
    assert model_refused(tmp_path, {field: (value, kind)}, read_vocabulary).field == field


@pytest.mark.parametrize("text", ["<0x-1>", "<0x100>", "<0xG0>", "<0x0>", "0x00", "", "<0x00>\n"])
def test_case_14_byte_tokens(tmp_path: Path, text: str) -> None:
    tokens = list(tiny_metadata()["tokenizer.ggml.tokens"][0])
    tokens[3] = text
    error = model_refused(
        tmp_path, {"tokenizer.ggml.tokens": (tokens, ValueType.ARRAY)}, read_vocabulary
    )
    assert error.field == "tokenizer.ggml.tokens[3]"


@pytest.mark.parametrize("kind", [0, 7, -1, 2**31 - 1])
def test_case_14_token_types(tmp_path: Path, kind: int) -> None:
    types = tiny_metadata()["tokenizer.ggml.token_type"][0].copy()
    types[260] = kind
    changes = {"tokenizer.ggml.token_type": (types, ValueType.ARRAY)}
    assert (
        model_refused(tmp_path, changes, read_vocabulary).field == "tokenizer.ggml.token_type[260]"
    )


def integer(value: int) -> tuple[int, ValueType]:
    return value, ValueType.UINT32


def real(value: float) -> tuple[float, ValueType]:
    return value, ValueType.FLOAT32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention.head_count", integer(0)),
        ("attention.head_count", integer(3)),
        ("attention.head_count", integer(2**32 - 1)),
        ("attention.head_count", (-4, ValueType.INT32)),
        ("attention.head_count", real(4.0)),
        ("attention.head_count", (np.full(2, 4, np.uint32), ValueType.ARRAY)),
        ("attention.head_count_kv", integer(0)),
        ("attention.head_count_kv", integer(3)),
        ("attention.head_count_kv", integer(8)),
        ("attention.key_length", integer(0)),
        ("attention.key_length", integer(3)),
        ("attention.value_length", integer(2)),
        ("block_count", integer(0)),
        ("block_count", integer(10**6)),
        ("block_count", (True, ValueType.BOOL)),
        ("embedding_length", integer(0)),
        ("embedding_length", (2**63, ValueType.UINT64)),
        ("feed_forward_length", integer(0)),
        ("context_length", integer(0)),
        ("context_length", integer(2**32 - 1)),
        ("vocab_size", integer(0)),
        ("vocab_size", integer(263)),
        ("rope.dimension_count", integer(0)),
        ("rope.dimension_count", integer(2)),
        ("rope.freq_base", real(0.0)),
        ("rope.freq_base", real(-1.0)),
        ("rope.freq_base", real(float("nan"))),
        ("rope.freq_base", real(float("inf"))),
        ("rope.freq_base", integer(10000)),
        ("attention.layer_norm_rms_epsilon", real(float("nan"))),
        ("attention.layer_norm_rms_epsilon", real(float("inf"))),
        ("attention.layer_norm_rms_epsilon", real(0.0)),
        ("attention.layer_norm_rms_epsilon", real(-1e-5)),
        ("attention.layer_norm_rms_epsilon", ("1e-5", ValueType.STRING)),
        ("expert_count", integer(65)),
        ("expert_count", integer(2**32 - 1)),
        ("expert_used_count", integer(0)),
        ("expert_used_count", integer(5)),
        ("attention.sliding_window", (-1, ValueType.INT32)),
        ("context_length", None),
        ("embedding_length", None),
        ("block_count", None),
        ("feed_forward_length", None),
        ("attention.head_count", None),
        ("attention.layer_norm_rms_epsilon", None),
        ("expert_used_count", None),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value and value[0]),
)
def test_case_15_hyperparameters(tmp_path: Path, field: str, value: Any) -> None:
    error = model_refused(tmp_path, {f"llama.{field}": value}, read_hparams, n_experts=4)
    assert error.field.startswith("llama.attention" if "attention" in field else f"llama.{field}")


def test_case_15_zero_experts_with_expert_tensors(tmp_path: Path) -> None:
    changes = {"llama.expert_count": integer(0), "llama.expert_used_count": integer(0)}
    error = model_refused(tmp_path, changes, read_hparams, n_experts=4)
    assert error.field == "tensor blk.0.ffn_gate_inp.weight"


@pytest.mark.parametrize("kind", [ValueType.ARRAY, ValueType.UINT32])
def test_case_15_an_architecture_that_is_no_text(tmp_path: Path, kind: ValueType) -> None:
    value = np.arange(2, dtype=np.int32) if kind is ValueType.ARRAY else 3
    error = model_refused(tmp_path, {"general.architecture": (value, kind)}, read_hparams)
    assert error.field == "general.architecture"
    assert "must be STRING" in error.what


@pytest.mark.parametrize("n_experts", [0, 4])
def test_case_16_missing_tensors(tmp_path: Path, n_experts: int) -> None:
    for name in set(tiny_shapes(n_experts)) - {"output.weight"}:
        shapes = tiny_shapes(n_experts)
        del shapes[name]
        path = write_model(tmp_path / "m.gguf", tiny_metadata(n_experts), shapes)
        with open_gguf(path) as gguf, pytest.raises(FormatError) as caught:
            read_hparams(gguf)
        assert caught.value.field == f"tensor {name}"
        assert "missing" in caught.value.what


@pytest.mark.parametrize("n_experts", [0, 4])
def test_case_16_shapes_that_contradict(tmp_path: Path, n_experts: int) -> None:
    for name, shape in tiny_shapes(n_experts).items():
        if name == "token_embd.weight":  # its rows are the vocabulary's size: see vocab_size
            continue
        for dimension in range(len(shape)):
            wrong = list(shape)
            wrong[dimension] += 8
            shapes = tiny_shapes(n_experts) | {name: tuple(wrong)}
            path = write_model(tmp_path / "m.gguf", tiny_metadata(n_experts), shapes)
            with open_gguf(path) as gguf, pytest.raises(FormatError) as caught:
                read_hparams(gguf)
            assert caught.value.field == f"tensor {name}"
            assert str(shape) in caught.value.what
            assert str(tuple(wrong)) in caught.value.what


def test_case_16_transposed_and_flattened(tmp_path: Path) -> None:
    shape = tiny_shapes(4)["blk.1.ffn_down_exps.weight"]
    for wrong in (shape[::-1], (shape[0] * shape[1], shape[2]), (*shape, 1)):
        error = model_refused(tmp_path, {}, read_hparams, 4, {"blk.1.ffn_down_exps.weight": wrong})
        assert error.field == "tensor blk.1.ffn_down_exps.weight"


@pytest.mark.parametrize("value", [2, 255])
def test_bool_other_than_0_and_1(refuse: Refuse, value: int) -> None:
    assert refuse(gguf_bytes([key(b"k", BOOL, bytes([value]))])).field == "k"
    assert refuse(gguf_bytes([key(b"k", ARRAY, array(BOOL, 2, bytes([1, value])))])).field == "k"


@pytest.mark.parametrize("magic", [b"GGML", b"gguf", b"FUGG", b"\0\0\0\0"])
def test_other_magic(refuse: Refuse, magic: bytes) -> None:
    assert refuse(gguf_bytes(magic=magic)).field == "magic"


@pytest.mark.parametrize(
    ("version", "what"),
    [(0, "big-endian"), (1, "2023"), (4, "supported"), (3 << 24, "big-endian"), (2**32 - 1, "")],
)
def test_other_versions(refuse: Refuse, version: int, what: str) -> None:
    error = refuse(gguf_bytes(version=version))
    assert error.field == "version"
    assert what in error.what


def test_truncation_at_every_byte_of_the_header(tmp_path: Path) -> None:
    """And at the edges of each tensor."""
    path = write_model(tmp_path / "m.gguf", tiny_metadata(4), tiny_shapes(4))
    with open_gguf(path) as gguf:
        ends = {info.offset + info.n_bytes for info in gguf.tensors.values()}
        header_end = gguf.data_offset
    os.truncate(path, max(ends))  # without the padding at the end, the file is whole
    open_gguf(path).close()
    lengths = {end + delta for end in ends - {max(ends)} for delta in (-1, 0, 1)}
    lengths.add(max(ends) - 1)
    for length in sorted(lengths | set(range(header_end)), reverse=True):
        os.truncate(path, length)
        assert refusal(path, open_and_close)


def test_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "m.gguf", tiny_metadata(), tiny_shapes())
    size = path.stat().st_size
    load = mapping.FileView.load

    def shrink_then_load(view: mapping.FileView) -> None:
        os.truncate(path, size - 100)
        load(view)

    monkeypatch.setattr(mapping.FileView, "load", shrink_then_load)
    with pytest.raises(FormatError, match="shrank"):
        open_gguf(path, use_mmap=False)


def test_not_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a regular file"):
        open_gguf(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FormatError, match="not a regular file"):
        open_gguf(tmp_path / "fifo")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(FormatError, match="empty"):
        open_gguf(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        open_gguf(tmp_path / "absent")


def read_everything(path: Path) -> None:
    with open_gguf(path) as gguf:
        read_hparams(gguf)
        read_vocabulary(gguf)
        for name, info in gguf.tensors.items():
            assert len(gguf.data(name)) == info.n_bytes


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages(8000, longest=8))
def test_damaged_bytes_cause_no_other_error(tmp_path: Path, damage: Damage) -> None:
    """A few bytes of a good header are overwritten: it is refused, or still reads."""
    whole = tmp_path / "whole.gguf"
    if not whole.exists():
        write_model(whole, tiny_metadata(4), tiny_shapes(4))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged(whole.read_bytes(), damage))
    assert refusal(path, read_everything).isprintable()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=400), n_tensors=st.integers(0, 4), n_keys=st.integers(0, 4))
def test_random_bytes_cause_no_other_error(
    tmp_path: Path, tail: bytes, n_tensors: int, n_keys: int
) -> None:
    path = tmp_path / "random.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + tail)
    assert refusal(path, open_and_close).isprintable()
