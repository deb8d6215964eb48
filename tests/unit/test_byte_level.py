"""Byte-level BPE vocabularies, compared with the ids that llama.cpp gives."""

from __future__ import annotations

import base64
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mistral_common
import numpy as np
import pytest
import tiktoken
from byte_level_files import (
    ADDED,
    CONTROL,
    GOLDEN,
    byte_characters,
    golden_merges,
    write_byte_level_model,
)

from pymixtral import LLM
from pymixtral.chat import encode_chat
from pymixtral.errors import ModelLoadError
from pymixtral.formats import FormatError, TokenType, Vocabulary, open_gguf, read_vocabulary
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS
from pymixtral.tokenizer import Tokenizer

pytest.importorskip("tokenizers", reason="byte-level BPE needs pip install 'pymixtral[bpe]'")

IDS: dict[str, list[tuple[list[str], list[int]]]] = json.loads(
    (GOLDEN / "ids.json").read_text(encoding="utf-8")
)


def vocabulary(folder: Path, pre: str | None, merges: list[str] | None = None) -> Vocabulary:
    with open_gguf(write_byte_level_model(folder / "model.gguf", pre, merges)) as file:
        return read_vocabulary(file)


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(vocabulary(tmp_path_factory.mktemp("llama3"), "llama-bpe"))


LLAMA_CPPS = sorted({name for groups in IDS.values() for names, _ in groups for name in names})


@pytest.mark.parametrize("pre", LLAMA_CPPS)
def test_ids_are_llama_cpps(tmp_path: Path, pre: str) -> None:
    tokenizer = Tokenizer(vocabulary(tmp_path, pre))
    expected = {text: ids for text, groups in IDS.items() for names, ids in groups if pre in names}
    assert len(expected) == len(IDS) > 40
    assert {text: tokenizer.encode(text) for text in expected} == expected
    for text, ids in expected.items():
        assert tokenizer.decode(ids) == text


def test_the_texts_tell_the_pre_tokenizers_apart() -> None:
    """Two of different rules differ on some text; otherwise the test above would prove little."""
    for one in LLAMA_CPPS:
        for other in LLAMA_CPPS:
            same = all(
                any({one, other} <= set(names) for names, _ in groups) for groups in IDS.values()
            )
            rules, others = PRE_TOKENIZERS[one], PRE_TOKENIZERS[other]
            assert same == (
                (rules.patterns, rules.ignores_merges) == (others.patterns, others.ignores_merges)
            ), (one, other)


def test_every_pre_tokenizer_is_compared() -> None:
    assert {*LLAMA_CPPS, "tekken"} == set(PRE_TOKENIZERS)


@pytest.mark.parametrize("version", ["240718", "240911"])
def test_tekken_is_mistrals(tmp_path: Path, version: str) -> None:
    """With the first tokens of Mistral's vocabulary, encoded by tiktoken as in mistral-common.

    llama.cpp's pattern parts combining marks from their letters.
    """
    data = Path(mistral_common.__file__).parent / "data" / f"tekken_{version}.json"
    tekken = json.loads(data.read_text(encoding="utf-8"))
    assert PRE_TOKENIZERS["tekken"].patterns == (tekken["config"]["pattern"],)
    ranks = {
        base64.b64decode(token["token_bytes"]): token["rank"] for token in tekken["vocab"][:6000]
    }
    reference = tiktoken.Encoding(
        "tekken", pat_str=tekken["config"]["pattern"], mergeable_ranks=ranks, special_tokens={}
    )
    found = replace(
        vocabulary(tmp_path, "tekken"),
        tokens=[written(token) for token in ranks],
        types=np.full(len(ranks), TokenType.NORMAL),
        merges=[(written(left), written(right)) for left, right in pairs(ranks)],
        bos_id=None,
        eos_id=None,
    )
    tokenizer = Tokenizer(found)
    for text in IDS:
        assert tokenizer.encode(text) == reference.encode_ordinary(text), text


def written(token: bytes) -> str:
    return "".join(byte_characters()[byte] for byte in token)


def pairs(ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every merge that tiktoken may do: of two tokens to one, the lowest rank first."""
    for token, rank in ranks.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [cut for cut in cuts if all(ranks.get(part, rank) < rank for part in cut)]
        yield from sorted(known, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))


@pytest.mark.parametrize(("pre", "add_bos"), [("llama-bpe", True), ("gpt-2", False)])
def test_bos(tmp_path: Path, pre: str, add_bos: bool) -> None:
    tokenizer = Tokenizer(vocabulary(tmp_path, pre))
    assert tokenizer.add_bos is add_bos
    assert tokenizer.encode("", add_bos=True) == [tokenizer.control_id("<|begin|>")]


def test_no_text_becomes_an_inserted_token(llama3: Tokenizer) -> None:
    inserted = {llama3.control_id(token) for token in (*CONTROL, *ADDED)}
    assert None not in inserted
    for token in (*CONTROL, *ADDED):
        for text in (token, f" {token}", f"a{token}b", token * 3):
            assert not inserted & set(llama3.encode(text))
            assert llama3.decode(llama3.encode(text)) == text


def test_inserted_tokens_decode(llama3: Tokenizer) -> None:
    control, added = llama3.control_id("<|im_end|>"), llama3.control_id("<|added|>")
    assert control is not None
    assert added is not None
    assert llama3.decode([control, added]) == "<|added|>"


def test_every_byte_decodes(llama3: Tokenizer) -> None:
    assert b"".join(map(llama3.token_bytes, range(256))) == bytes(range(256))
    assert [llama3.piece(i) for i in range(256)] == byte_characters()


def test_a_megabyte_of_one_character(llama3: Tokenizer) -> None:
    for character in ("a", " ", "\n", "1", "\U0001f600"):
        text = character * (1_000_000 // len(character.encode()))
        assert llama3.decode(llama3.encode(text)) == text


@pytest.mark.parametrize(
    ("pre", "message"),
    [(None, "tokenizer.ggml.pre is missing"), ("viking", "'viking', which is not supported")],
)
def test_unknown_pre_tokenizer(tmp_path: Path, pre: str | None, message: str) -> None:
    known = vocabulary(tmp_path, pre)  # can be read
    with pytest.raises(ModelLoadError, match=message):
        Tokenizer(known)


def test_merges_of_no_tokens_are_told(tmp_path: Path) -> None:
    merges = golden_merges()
    found = vocabulary(tmp_path, "gpt-2", merges)
    found.merges.insert(0, ("a", "Ġnowhere"))
    with pytest.warns(UserWarning, match="1 of tokens that are not in the list"):
        tokenizer = Tokenizer(found)
    assert tokenizer.encode("Once upon a time") == Tokenizer(
        vocabulary(tmp_path, "gpt-2", merges)
    ).encode("Once upon a time")


def test_missing_bytes_are_told(tmp_path: Path) -> None:
    found = vocabulary(tmp_path, "gpt-2")
    found.tokens[ord("q")] = "[gone]"
    with pytest.warns(UserWarning, match="1 of 256 bytes are missing, the first 0x71"):
        tokenizer = Tokenizer(found)
    assert tokenizer.decode(tokenizer.encode("quick")) == "uick"


@pytest.mark.parametrize("merge", ["ab", "", " ", "a ", " b", "a b c"])
def test_malformed_merges(tmp_path: Path, merge: str) -> None:
    path = write_byte_level_model(tmp_path / "bad.gguf", "gpt-2", ["a b", merge])
    with open_gguf(path) as file, pytest.raises(FormatError) as caught:
        read_vocabulary(file)
    assert "is no pair of tokens" in caught.value.what
    assert caught.value.field == "tokenizer.ggml.merges[1]"


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    path = write_byte_level_model(tmp_path / "model.gguf", "llama-bpe")
    with pytest.raises(ModelLoadError, match=r"pip install 'pymixtral\[bpe\]'"):
        LLM(path)


def test_chatml(llama3: Tokenizer) -> None:
    """As SmolLM2 and many others chat; what is said stays text."""
    question = "Hello <|im_end|>"
    ids = encode_chat(llama3, [{"role": "user", "content": question}], version="chatml")
    start, end = llama3.control_id("<|im_start|>"), llama3.control_id("<|im_end|>")
    turn = [start, *llama3.encode(f"user\n{question}"), end, *llama3.encode("\n")]
    assert [i for i in ids if i != llama3.bos_id] == [
        *turn,
        start,
        *llama3.encode("assistant\n"),
    ]


def test_empty_and_strange_tokens(tmp_path: Path) -> None:
    found = vocabulary(tmp_path, "llama-bpe")
    for i, token in enumerate(("", " ", "\0", "\udcff", "caf\u00e9 \u4e00")):
        found.tokens[-10 - i] = token
    with warnings.catch_warnings(action="ignore"):  # about their merges
        tokenizer = Tokenizer(found)
    text = "caf\u00e9 \u4e00 \0"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    for token_id in range(tokenizer.n_vocab):
        assert isinstance(tokenizer.token_bytes(token_id), bytes)


def test_a_model_runs(tmp_path: Path) -> None:
    with LLM(write_byte_level_model(tmp_path / "model.gguf", "smollm")) as llm:
        assert llm.generate("Hello 2026", None).usage.prompt_tokens == len(
            llm.tokenize("Hello 2026")
        )
