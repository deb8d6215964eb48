"""Reading tokenizer.model, against the PyPI package `sentencepiece`."""

from __future__ import annotations

from pathlib import Path

import mistral_common
import pytest
import sentencepiece
from hf_folders import NORMALIZER, PIECES, TRAINER, piece, proto, proto_field, tokenizer_model

from pymixtral.formats.sentencepiece_model import read_sentencepiece_model
from pymixtral.formats.sentencepiece_proto import BPE
from pymixtral.formats.vocabulary import TokenType

MISTRAL_MODELS = Path(mistral_common.__file__).parent / "data"


@pytest.mark.parametrize(
    "name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3", "tiny"]
)
def test_equal_to_sentencepiece(tmp_path: Path, name: str) -> None:
    path = MISTRAL_MODELS / name
    if name == "tiny":
        path = tmp_path / name
        path.write_bytes(tokenizer_model())
    ours = read_sentencepiece_model(path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ids = range(theirs.vocab_size())
    assert ours.pieces == [theirs.id_to_piece(i) for i in ids]
    assert ours.scores == [theirs.get_score(i) for i in ids]
    predicates = {
        TokenType.UNKNOWN: theirs.is_unknown,
        TokenType.CONTROL: theirs.is_control,
        TokenType.UNUSED: theirs.is_unused,
        TokenType.BYTE: theirs.is_byte,
    }
    for i in ids:
        expected = [kind for kind, holds in predicates.items() if holds(i)]
        # The library does not tell user-defined pieces from normal ones.
        assert ours.types[i] in (expected or [TokenType.NORMAL, TokenType.USER_DEFINED])
    assert (ours.unk_id, ours.bos_id, ours.eos_id) == (
        theirs.unk_id(),
        theirs.bos_id(),
        theirs.eos_id(),
    )
    assert ours.model_type == BPE
    assert (ours.has_charsmap, ours.remove_extra_whitespaces) == (False, False)
    assert (ours.add_dummy_prefix, ours.escape_whitespaces) == (True, True)


def test_defaults_are_those_of_the_proto_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(proto_field(1, proto((1, b"x"))))
    model = read_sentencepiece_model(path)
    assert (model.pieces, model.scores, model.types) == (["x"], [0.0], [TokenType.NORMAL])
    assert model.model_type == 1  # unigram
    assert (model.unk_id, model.bos_id, model.eos_id) == (0, 1, 2)
    assert model.add_dummy_prefix
    assert model.remove_extra_whitespaces
    assert model.escape_whitespaces
    assert not model.has_charsmap


def test_flags_negative_ids_and_unknown_fields(tmp_path: Path) -> None:
    path = tmp_path / "m"
    trainer = proto_field(2, proto((3, 1), (41, -1), (99, b"new"), (100, 7), (101, 0.5)))
    normalizer = proto_field(3, proto((2, b"map"), (3, 0), (4, 1), (5, 0)))
    fixed64 = bytes([9 << 3 | 1]) + bytes(8)
    later = proto_field(4, fixed64)
    path.write_bytes(piece("x") + trainer + normalizer + later)
    model = read_sentencepiece_model(path)
    assert model.bos_id == -1
    assert model.has_charsmap
    assert not model.add_dummy_prefix
    assert model.remove_extra_whitespaces
    assert not model.escape_whitespaces


def test_the_helper_of_these_tests_writes_what_it_says() -> None:
    assert tokenizer_model().endswith(TRAINER + NORMALIZER)
    assert len(PIECES) == 264
