"""What the writer is given, the reader gives back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pymixtral.formats import ValueType, open_gguf
from pymixtral.formats.blocks import TYPES, row_bytes
from pymixtral.formats.gguf import NUMPY_TYPES, element_type
from pymixtral.formats.gguf_writer import GGUFWriter

INTEGERS = {kind: np.iinfo(dtype) for kind, dtype in NUMPY_TYPES.items() if dtype.kind in "iu"}

# Lone surrogates that stand for bytes (PEP 383) are written as those bytes, others cannot be. Two
# of them in a row may be a valid character, which reads back as itself: they come one at a time.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
)

VALUES: st.SearchStrategy[tuple[Any, ValueType]] = st.one_of(
    *(
        st.tuples(st.integers(int(info.min), int(info.max)), st.just(kind))
        for kind, info in INTEGERS.items()
    ),
    st.tuples(st.floats(width=32), st.just(ValueType.FLOAT32)),
    st.tuples(st.floats(), st.just(ValueType.FLOAT64)),
    st.tuples(st.booleans(), st.just(ValueType.BOOL)),
    st.tuples(TEXTS, st.just(ValueType.STRING)),
    st.tuples(st.lists(TEXTS), st.just(ValueType.ARRAY)),
    st.tuples(
        st.sampled_from(list(NUMPY_TYPES.values())).flatmap(
            lambda dtype: hnp.arrays(dtype, st.integers(0, 20))
        ),
        st.just(ValueType.ARRAY),
    ),
)
KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)
METADATA = st.dictionaries(KEYS.filter(lambda key: key != "general.alignment"), VALUES, max_size=8)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[int, tuple[int, ...], bytes]:
    """Type, shape and bytes of a tensor of any type."""
    type_id = draw(st.sampled_from(list(TYPES)))
    n_columns = draw(st.integers(1, 3)) * TYPES[type_id].block_size
    shape = (*draw(st.lists(st.integers(1, 3), max_size=3)), n_columns)
    n_bytes = math.prod(shape[:-1]) * row_bytes(type_id, n_columns)
    return type_id, shape, draw(st.randoms(use_true_random=False)).randbytes(n_bytes)


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], max_codepoint=0x7FF), min_size=1, max_size=32
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=METADATA,
    contents=st.dictionaries(NAMES, tensors(), max_size=5),
    version=st.sampled_from([2, 3]),
    alignment=st.sampled_from([8, 24, 32, 128]),
    cut=st.integers(0, 100),
)
def test_the_reader_gives_back_what_the_writer_got(
    tmp_path: Path,
    metadata: dict[str, tuple[Any, ValueType]],
    contents: dict[str, tuple[int, tuple[int, ...], bytes]],
    version: int,
    alignment: int,
    cut: int,
) -> None:
    path = tmp_path / "m.gguf"
    with GGUFWriter(path, version=version, alignment=alignment) as writer:
        for key, (value, kind) in metadata.items():
            writer.add(key, value, kind)
        for name, (type_id, shape, _) in contents.items():
            writer.declare(name, type_id, shape)
        for name, (_, _, data) in contents.items():
            if 0 < cut < len(data):  # in two parts
                writer.write(name, data[:cut])
                data = data[cut:]
            writer.write(name, data)

    with open_gguf(path) as gguf:
        assert (gguf.version, gguf.alignment) == (version, alignment)
        found = {key: gguf.metadata[key] for key in gguf.metadata if key != "general.alignment"}
        assert list(found) == list(metadata)
        for key, (value, kind) in metadata.items():
            assert gguf.types[key] is kind
            if kind is ValueType.ARRAY:
                assert element_type(found[key]) is element_type(value)
                np.testing.assert_array_equal(found[key], value)
            else:
                np.testing.assert_equal(found[key], value)
                assert type(found[key]) is type(value)
        assert list(gguf.tensors) == list(contents)
        for name, (type_id, shape, data) in contents.items():
            info = gguf.tensors[name]
            assert (info.type, info.shape, info.ne) == (type_id, shape, shape[::-1])
            assert info.offset % alignment == 0
            assert bytes(gguf.data(name)) == data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(metadata=METADATA)
def test_a_copy_by_way_of_the_reader_is_the_same_file(
    tmp_path: Path, metadata: dict[str, tuple[Any, ValueType]]
) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    with GGUFWriter(first) as writer:
        for key, (value, kind) in metadata.items():
            writer.add(key, value, kind)
    with open_gguf(first) as gguf, GGUFWriter(second) as writer:
        for key, value in gguf.metadata.items():
            writer.add(key, value, gguf.types[key])
    assert second.read_bytes() == first.read_bytes()
