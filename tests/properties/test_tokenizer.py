"""Any vocabulary that the reader lets through gives a tokenizer; Mixtral's is sentencepiece's."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import mistral

from pymixtral.errors import ParameterError
from pymixtral.formats import TokenType, Vocabulary
from pymixtral.sentencepiece_model import BYTE_PIECES
from pymixtral.tokenizer import Tokenizer

texts = st.text() | st.lists(
    st.sampled_from(["</s>", "<s>", "[INST]", "<0x0A>", " ", "\n", "▁", "é", "語", "🧿", "the"])
).map("".join)


@pytest.fixture(scope="module")
def mixtral() -> Tokenizer:
    return Tokenizer(mistral.vocabulary())


@given(texts)
def test_encode_equals_sentencepiece(mixtral: Tokenizer, text: str) -> None:
    assert mixtral.encode(text) == mistral.processor().encode(text)


@given(texts)
def test_decoding_what_was_encoded(mixtral: Tokenizer, text: str) -> None:
    expected = (" " + text if text else "").replace("▁", " ")
    assert mixtral.decode(mixtral.encode(text)) == expected


any_token = st.one_of(
    st.tuples(st.sampled_from(BYTE_PIECES), st.just(TokenType.BYTE)),
    st.tuples(
        st.text("ab▁<>", max_size=3)
        | st.sampled_from(
            ["<unk>", "unknown", "control 0", "<control 1>", "\udcff", "a\0", "<0x00>"]
        ),
        st.sampled_from([kind for kind in TokenType if kind is not TokenType.BYTE]),
    ),
)


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    all_bytes = [(piece, TokenType.BYTE) for piece in BYTE_PIECES]
    tokens = draw(st.sampled_from([[], all_bytes])) + draw(st.lists(any_token, min_size=1))
    scores = st.floats(width=32, allow_nan=False)
    special_id = st.none() | st.integers(0, len(tokens) - 1)
    return Vocabulary(
        model="llama",
        tokens=[token for token, _ in tokens],
        scores=np.array([draw(scores) for _ in tokens], np.float32),
        types=np.array([kind for _, kind in tokens], np.int32),
        bos_id=draw(special_id),
        eos_id=draw(special_id),
        unk_id=draw(special_id),
        add_bos=True,
        add_eos=False,
        add_space_prefix=draw(st.booleans()),
        chat_template=None,
    )


@given(vocabularies(), st.text("ab▁<> é"))
def test_any_vocabulary_loads_and_encodes(vocab: Vocabulary, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = Tokenizer(vocab)
    try:
        ids = tokenizer.encode(text)
    except ParameterError:  # neither bytes nor an unknown token for some character
        assert vocab.unk_id is None or vocab.unk_id in (vocab.bos_id, vocab.eos_id)
        return
    assert all(0 <= i < len(vocab.tokens) for i in ids)
    assert not {vocab.bos_id, vocab.eos_id} & set(ids)
    outside = {TokenType.CONTROL, TokenType.USER_DEFINED}
    assert not any(vocab.types[i] in outside for i in ids if i != vocab.unk_id)
