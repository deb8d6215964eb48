"""Hostile byte-level vocabularies: one ModelLoadError, or a tokenizer that works on any text."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from byte_level_files import byte_characters
from hypothesis import given, settings
from hypothesis import strategies as st

from pymixtral.errors import ModelLoadError
from pymixtral.formats import TokenType, Vocabulary
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS
from pymixtral.tokenizer import Tokenizer

pytest.importorskip("tokenizers", reason="byte-level BPE needs pip install 'pymixtral[bpe]'")

BYTES = byte_characters()


def tokenizer_of(
    tokens: list[str],
    merges: list[tuple[str, str]],
    types: list[int] | None = None,
    pre: str = "llama-bpe",
) -> Tokenizer:
    vocabulary = Vocabulary(
        model="gpt2",
        tokens=tokens,
        scores=np.zeros(len(tokens), np.float32),
        types=np.array(types or [TokenType.NORMAL] * len(tokens), np.int32),
        eos_id=0,
        pre=pre,
        merges=merges,
    )
    with warnings.catch_warnings(action="ignore"):
        return Tokenizer(vocabulary)


PIECES = st.text(st.sampled_from("abĠĊ \x00\udc80é一\U0001f600"), max_size=4)


@settings(max_examples=500)
@given(
    tokens=st.lists(PIECES | st.sampled_from(BYTES), min_size=1, max_size=40),
    merges=st.lists(st.tuples(PIECES, PIECES), max_size=20),
    kinds=st.lists(st.sampled_from(TokenType), min_size=40, max_size=40),
    with_bytes=st.booleans(),
    pre=st.sampled_from([*PRE_TOKENIZERS, "", "\x00", "default"]),
    text=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_vocabulary(
    tokens: list[str],
    merges: list[tuple[str, str]],
    kinds: list[TokenType],
    with_bytes: bool,
    pre: str,
    text: str,
) -> None:
    types = [int(kind) for kind in kinds[: len(tokens)]]
    if with_bytes:
        tokens, types = [*tokens, *BYTES], [*types, *[TokenType.NORMAL] * len(BYTES)]
    try:
        tokenizer = tokenizer_of(tokens, merges, types, pre)
    except ModelLoadError:
        assert pre not in PRE_TOKENIZERS
        return
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.n_vocab for i in ids)
    assert not {TokenType.CONTROL, TokenType.USER_DEFINED} & {types[i] for i in ids}
    if with_bytes:
        assert tokenizer.decode(ids) == text


def test_merges_that_repeat_and_cross() -> None:
    """Doubling merges make tokens as long as the file pays for, no longer."""
    merges = [("a" * 2**i, "a" * 2**i) for i in range(12)]
    tokens = [*BYTES, *("a" * 2**i for i in range(1, 13))]
    tokenizer = tokenizer_of(tokens, merges * 50)
    assert len(tokenizer.encode("a" * 4096 + "b")) == 2


@pytest.mark.parametrize("text", ["a", " ", "\n", " a", "\r\n ", "'", "'s", "1", "é", "\U0001f600"])
@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "smollm", "tekken"])
def test_time_is_near_linear(pre: str, text: str) -> None:
    """No pattern backtracks over a run of one kind of character."""
    tokenizer = tokenizer_of([*BYTES, "aa", "ĠĠ"], [("a", "a"), ("Ġ", "Ġ")], pre=pre)
    seconds = []
    for n in (20_000, 200_000):
        started = time.process_time()
        tokenizer.encode(text * (n // len(text.encode())))
        seconds.append(time.process_time() - started)
    assert seconds[1] < 0.2 + 40 * seconds[0]
