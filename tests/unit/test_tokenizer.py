import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference import mistral

from pymixtral.errors import ModelLoadError, ParameterError
from pymixtral.formats import TokenType, Vocabulary, open_gguf, read_vocabulary
from pymixtral.sentencepiece_model import BYTE_PIECES
from pymixtral.tokenizer import Detokenizer, Tokenizer

DATA = Path(__file__).parents[1] / "data" / "tokenizer"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizer"
CORPUS = "mixtral_v1_encode.jsonl"

IM_START = "<|im_start|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Mixtral's tokenizer, after a way through a GGUF file."""
    path = tmp_path_factory.mktemp("tokenizer") / "vocabulary.gguf"
    mistral.write_gguf(path, mistral.vocabulary())
    with open_gguf(path) as gguf:
        return Tokenizer(read_vocabulary(gguf))


def vocabulary_of(pieces: dict[str, TokenType], **fields: object) -> Vocabulary:
    """A small vocabulary; merges are preferred in the order of the pieces."""
    vocab = Vocabulary(
        model="llama",
        tokens=list(pieces),
        scores=-np.arange(len(pieces), dtype=np.float32),
        types=np.array(list(pieces.values()), np.int32),
        add_bos=True,
        add_space_prefix=True,
    )
    return replace(vocab, **fields)


BYTES = dict.fromkeys(BYTE_PIECES, TokenType.BYTE)
LETTERS = dict.fromkeys(("▁", "a", "b", "ab"), TokenType.NORMAL)


def read_corpus(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("folder", [DATA, SHARED], ids=["sample", "whole"])
def test_ids_equal_sentencepiece_on_the_corpus(tokenizer: Tokenizer, folder: Path) -> None:
    if not folder.exists():
        pytest.skip("the whole corpus needs ../shared/data/tokenizer beside the repository")
    lines = read_corpus(folder / CORPUS)
    assert len(lines) == {DATA: 210, SHARED: 1634}[folder]
    wrong = [line["text"] for line in lines if tokenizer.encode(line["text"]) != line["ids"]]
    assert wrong == []


def test_a_clean_vocabulary_loads_without_warnings(tokenizer: Tokenizer) -> None:
    assert tokenizer.warnings == ()
    assert (tokenizer.n_vocab, tokenizer.bos_id, tokenizer.eos_id) == (32000, 1, 2)


def test_add_bos(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Hello world", add_bos=True) == [1, 22557, 1526]
    assert tokenizer.encode("", add_bos=True) == [1]
    with pytest.raises(ParameterError, match="names no bos token"):
        Tokenizer(vocabulary_of(BYTES)).encode("a", add_bos=True)


@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "<0x0A>", "[INST]", " </s> [/INST]<s>"])
def test_user_text_never_becomes_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert min(ids) > 258  # neither control, unknown nor byte tokens
    assert tokenizer.decode(ids) == " " + text


@pytest.mark.parametrize("kind", [TokenType.CONTROL, TokenType.USER_DEFINED])
def test_user_text_never_becomes_an_added_token(kind: TokenType) -> None:
    tokenizer = Tokenizer(mistral.with_tokens(mistral.vocabulary(), (IM_START, kind)))
    text = f"{IM_START}user"
    assert tokenizer.control_id(IM_START) == 32000
    assert tokenizer.encode(text) == mistral.processor().encode(text)
    assert tokenizer.decode([32000]) == ("" if kind is TokenType.CONTROL else IM_START)
    assert tokenizer.piece(32000) == IM_START


def test_control_id(tokenizer: Tokenizer) -> None:
    assert tokenizer.control_id("<s>") == 1
    assert tokenizer.control_id("</s>") == 2
    assert tokenizer.control_id("[INST]") is None  # plain text in v1
    assert tokenizer.control_id("▁the") is None


def test_special_ids_are_control_tokens_whatever_their_type() -> None:
    """Some converters type `</s>` as a normal token, which text could then become."""
    vocab = vocabulary_of(BYTES | {"x": TokenType.NORMAL}, eos_id=256, add_space_prefix=False)
    tokenizer = Tokenizer(vocab)
    assert tokenizer.encode("x") == [ord("x")]
    assert tokenizer.decode([256]) == ""


def test_decode_is_that_of_sentencepiece_with_the_leading_space(tokenizer: Tokenizer) -> None:
    for line in read_corpus(DATA / CORPUS):
        text = tokenizer.decode([1, *line["ids"], 2])
        assert text.removeprefix(" ") == mistral.processor().decode(line["ids"])
    assert tokenizer.decode([22557]) == " Hello"
    assert tokenizer.decode([0, 22557]) == mistral.processor().decode([0, 22557])


def test_pieces_and_bytes(tokenizer: Tokenizer) -> None:
    assert [tokenizer.piece(i) for i in (0, 2, 13, 28705, 22557)] == [
        "<unk>",
        "</s>",
        "<0x0A>",
        "▁",
        "▁Hello",
    ]
    assert [tokenizer.token_bytes(i) for i in (2, 13, 258, 22557)] == [
        b"",
        b"\n",
        b"\xff",
        b" Hello",
    ]


@pytest.mark.parametrize("token_id", [-1, 32000])
def test_ids_outside_the_vocabulary(tokenizer: Tokenizer, token_id: int) -> None:
    for use in (tokenizer.piece, tokenizer.token_bytes, lambda i: tokenizer.decode([i])):
        with pytest.raises(ParameterError, match=f"token id {token_id} is outside .* 0 to 31999"):
            use(token_id)


def test_lone_surrogate(tokenizer: Tokenizer) -> None:
    with pytest.raises(ParameterError, match="character 2 is a lone surrogate"):
        tokenizer.encode("ab\ud800")


@pytest.mark.parametrize("character", ["a", " ", "\n", "語", "🧿"])
def test_a_megabyte_of_one_character(tokenizer: Tokenizer, character: str) -> None:
    text = character * (1_000_000 // len(character.encode()))
    assert tokenizer.decode(tokenizer.encode(text)) == " " + text


def test_no_space_prefix() -> None:
    vocab = vocabulary_of(BYTES | LETTERS)
    a_id = 256 + list(LETTERS).index("a")
    assert Tokenizer(vocab).encode("a") == [256, a_id]
    assert Tokenizer(replace(vocab, add_space_prefix=False)).encode("a") == [a_id]


def test_another_kind_of_vocabulary_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer\.ggml\.model is 'bert'"):
        Tokenizer(replace(mistral.vocabulary(), model="bert"))


def test_tokens_that_sentencepiece_refuses_keep_their_ids_and_warn() -> None:
    vocab = vocabulary_of(BYTES | LETTERS)
    flawed = mistral.with_tokens(
        vocab,
        ("", TokenType.NORMAL),
        ("ab", TokenType.NORMAL),
        ("abab", TokenType.NORMAL),
        ("<0x41>", TokenType.BYTE),
        ("a\0", TokenType.NORMAL),
    )
    with pytest.warns(UserWarning, match=r"tokenizer\.ggml\.tokens") as caught:
        tokenizer = Tokenizer(flawed)
    assert tokenizer.warnings == tuple(str(warning.message) for warning in caught)
    assert [line.split(": ")[1] for line in tokenizer.warnings] == [
        "1 empty tokens, the first at id 260",
        "1 tokens with a null character, the first at id 264",
        "2 tokens that repeat an earlier one, the first at id 261",
    ]
    assert tokenizer.encode("abA") == [256, 259, 0x41]
    assert tokenizer.encode("abab") == [256, 262]
    assert tokenizer.decode([260, 261, 262, 263, 264]) == "abababAa\0"


@pytest.mark.parametrize("n_missing", [1, 256])
def test_missing_byte_tokens(n_missing: int) -> None:
    present = dict.fromkeys(BYTE_PIECES[n_missing:], TokenType.BYTE)
    vocab = vocabulary_of(present | LETTERS, add_space_prefix=False)
    first_letter = len(present)
    with pytest.warns(UserWarning, match=rf"{n_missing} of 256 byte tokens are missing.*<0x00>"):
        tokenizer = Tokenizer(vocab)
    assert tokenizer.encode("a") == [first_letter + 1]
    with pytest.raises(ParameterError, match="cannot express"):
        tokenizer.encode("a\0")

    unknown_id = len(vocab.tokens)
    with pytest.warns(UserWarning, match="missing"):
        tokenizer = Tokenizer(mistral.with_tokens(vocab, ("<unk>", TokenType.UNKNOWN)))
    assert tokenizer.encode("a\0") == [first_letter + 1, unknown_id]


def test_two_unknown_tokens() -> None:
    vocab = mistral.with_tokens(
        vocabulary_of(BYTES), ("<unk>", TokenType.UNKNOWN), ("[UNK]", TokenType.UNKNOWN)
    )
    with pytest.warns(UserWarning, match="repeat an earlier one, the first at id 257"):
        tokenizer = Tokenizer(vocab)
    assert tokenizer.decode([256]) == tokenizer.decode([257]) == " \u2047 "


@pytest.mark.parametrize("kind", [TokenType.BYTE, TokenType.NORMAL])
def test_lower_case_and_mistyped_byte_tokens(kind: TokenType) -> None:
    pieces = {piece.lower(): kind for piece in BYTE_PIECES}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = Tokenizer(vocabulary_of(pieces, add_space_prefix=False))
    assert tokenizer.encode("é") == [0xC3, 0xA9]
    assert tokenizer.decode([0xC3, 0xA9]) == "é"


def test_tokens_that_are_no_utf8() -> None:
    """The file's bytes come as surrogate escapes; they decode to those bytes again."""
    vocab = mistral.with_tokens(vocabulary_of(BYTES), ("\udcc3", TokenType.NORMAL))
    tokenizer = Tokenizer(vocab)
    assert tokenizer.token_bytes(256) == b"\xc3"
    assert tokenizer.piece(256) == "\ufffd"
    assert tokenizer.decode([256, 0xA9]) == "é"


def test_detokenizer_holds_back_incomplete_characters(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    byte_ids = [3 + byte for byte in "🧿".encode()]
    assert [detokenizer.push(i) for i in byte_ids] == ["", "", "", "🧿"]
    assert detokenizer.push(byte_ids[0]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_detokenizer_strips_exactly_one_space(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, strip_leading_space=True)
    space, hello, eos = 28705, 22557, 2
    assert [detokenizer.push(i) for i in (eos, space, hello, hello)] == ["", "", " Hello", " Hello"]
