"""The stream of text that a stream of ids gives, against Python's own decoder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import mistral

from pymixtral.tokenizer import Detokenizer, Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(mistral.vocabulary())


texts = st.text() | st.text("a é語🧿▁\n")
byte_ids = st.integers(3, 258)
ids = st.lists(st.integers(0, 31999) | byte_ids)


@given(ids)
def test_pushes_concatenate_to_the_decoded_bytes(tokenizer: Tokenizer, ids: list[int]) -> None:
    detokenizer = Detokenizer(tokenizer)
    pushed = [detokenizer.push(i) for i in ids]
    joined = b"".join(map(tokenizer.token_bytes, ids))
    expected = joined.decode("utf-8", errors="replace")
    assert "".join(pushed) + detokenizer.flush() == expected == tokenizer.decode(ids)


@given(texts)
def test_valid_text_is_never_emitted_in_halves(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(tokenizer, strip_leading_space=True)
    pushed = [detokenizer.push(i) for i in tokenizer.encode(text)]
    assert detokenizer.flush() == ""
    assert "".join(pushed) == text.replace("▁", " ")
    assert text.count("\ufffd") == sum(piece.count("\ufffd") for piece in pushed)
