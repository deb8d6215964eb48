"""Case 23: malformed sentencepiece models end in one FormatError."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hf_folders import piece, proto, proto_field, tokenizer_model, varint
from hostile import Damage, damaged, damages, refusal, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymixtral.formats import FormatError, sentencepiece_model
from pymixtral.formats.sentencepiece_model import read_sentencepiece_model


def piece_field(*fields: tuple[int, int | float | bytes]) -> bytes:
    return proto_field(1, proto(*fields))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x0a",  # a length is missing
        b"\x0a\x05abc",  # longer than the file
        b"\x0a" + varint(2**64 - 1),
        b"\x0a" + varint(2**63),
        b"\xff" * 11,  # a number without an end
        b"\x80" * 9,
        piece("a") + b"\x0b",  # start of a group
        piece("a") + b"\x0f",  # wire type 7
        b"\x09" + bytes(7),  # a fixed64 of 7 bytes
        b"\x08\x01",  # a number where a piece belongs
        proto_field(2, 1),
        b"\x0a\x03\x0a\x05a",  # a text longer than its piece
        piece_field((1, 7)),
        piece_field((1, b"\xff")),
        piece_field((1, b"\xed\xa0\x80")),  # a surrogate
        piece_field((1, b"a"), (2, 1)),
        piece_field((1, b"a"), (2, b"12345")),
        piece_field((1, b"a"), (3, 0)),
        piece_field((1, b"a"), (3, 7)),
        piece_field((1, b"a"), (3, -1)),
        piece_field((1, b"a"), (3, b"x")),
        piece("a") + proto_field(2, proto((40, b"x"))),
        piece("a") + proto_field(3, proto((2, 1))),
        proto_field(2, b""),  # no pieces
    ],
    ids=lambda content: repr(content[:12]),
)
def test_case_23_malformed_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    error = refused(path, read_sentencepiece_model)
    assert error.file == str(path)
    assert error.field
    assert error.offset is not None
    assert 0 <= error.offset <= len(content)


def test_case_23_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(piece("a") * 5)
    monkeypatch.setattr(sentencepiece_model, "MAX_PIECES", 4)
    with pytest.raises(FormatError, match="more than 4"):
        read_sentencepiece_model(path)
    monkeypatch.setattr(sentencepiece_model, "MAX_FILE_BYTES", 10)
    with pytest.raises(FormatError, match="longer than 10 bytes"):
        read_sentencepiece_model(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages(4800), length=st.integers(0, 5000))
def test_damaged_bytes_cause_no_other_error(tmp_path: Path, damage: Damage, length: int) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(damaged(tokenizer_model(), damage)[:length])
    assert refusal(path, read_sentencepiece_model).isprintable()


def test_scores_of_any_bits_are_read(tmp_path: Path) -> None:
    """A NaN is for the vocabulary's reader to refuse."""
    path = tmp_path / "m"
    path.write_bytes(proto_field(1, proto((1, b"a")) + b"\x15" + struct.pack("<I", 0x7FC00000)))
    assert not refusal(path, read_sentencepiece_model)
