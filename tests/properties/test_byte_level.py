"""Byte-level BPE on any text."""

from __future__ import annotations

import pytest
from byte_level_files import ADDED, CONTROL, write_byte_level_model
from hypothesis import given
from hypothesis import strategies as st

from pymixtral.formats import open_gguf, read_vocabulary
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS
from pymixtral.tokenizer import Detokenizer, Tokenizer

pytest.importorskip("tokenizers", reason="byte-level BPE needs pip install 'pymixtral[bpe]'")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    found = {}
    for pre in PRE_TOKENIZERS:
        path = tmp_path_factory.mktemp("byte-level") / f"{pre}.gguf"
        with open_gguf(write_byte_level_model(path, pre)) as file:
            found[pre] = Tokenizer(read_vocabulary(file))
    return found


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([*CONTROL, *ADDED, " "])
).map("".join)


@given(text=TEXTS, pre=st.sampled_from(sorted(PRE_TOKENIZERS)))
def test_ids_are_the_text_and_nothing_inserted(
    tokenizers: dict[str, Tokenizer], text: str, pre: str
) -> None:
    tokenizer = tokenizers[pre]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.control_id(token) for token in (*CONTROL, *ADDED)} & set(ids)
    detokenizer = Detokenizer(tokenizer)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == text
