"""A tokenizer.json made of Mixtral's sentencepiece model, and what else a folder may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hf_folders import TRAINER, piece, tokenizer_model
from reference import mistral

from pymixtral.formats import FormatError, TokenType
from pymixtral.formats.hf_vocabulary import read_hf_vocabulary
from pymixtral.formats.tokenizer_json import read_tokenizer_json
from pymixtral.tokenizer import Tokenizer

CORPUS = Path(__file__).parents[1] / "data" / "tokenizer" / "mixtral_v1_encode.jsonl"
SPACE = "\u2581"


def small(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json whose merges make `ab`, then `▁ab`; the changes are to its `model`."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [f"{SPACE}ab", "ab", SPACE, "a", "b"]
    model = {
        "type": "BPE",
        "byte_fallback": True,
        "unk_token": "<unk>",
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": ["a b", f"{SPACE} ab"],
    }
    return {
        "added_tokens": [
            {"id": i, "content": token, "special": True} for i, token in enumerate(tokens[:3])
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "model": model | changes,
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def mixtral_json() -> dict[str, Any]:
    """As transformers makes it of the sentencepiece model: a piece's merges are all its cuts into
    two pieces, and the pieces' order is that of their scores."""
    vocab = mistral.vocabulary("v1")
    ids = {token: i for i, token in enumerate(vocab.tokens)}
    normal = [i for i, kind in enumerate(vocab.types) if kind == TokenType.NORMAL]
    merges = [
        [token[:cut], token[cut:]]
        for token in (vocab.tokens[i] for i in sorted(normal, key=lambda i: -vocab.scores[i]))
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    return small(vocab=ids, merges=merges)


def test_ids_of_mixtral(tmp_path: Path) -> None:
    """A folder with this file alone gives the ids that sentencepiece gives."""
    write(tmp_path, mixtral_json())
    found, warnings = read_hf_vocabulary(tmp_path, 32000)
    assert (warnings, found.bos_id, found.eos_id, found.unk_id) == ([], 1, 2, 0)
    assert found.add_space_prefix
    tokenizer = Tokenizer(found)
    lines = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in lines if tokenizer.encode(line["text"]) != line["ids"]] == []


def test_pieces_types_and_order(tmp_path: Path) -> None:
    found = read_tokenizer_json(write(tmp_path, small()))
    assert found.types[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, 6]
    score = dict(zip(found.pieces, found.scores, strict=True))
    assert score["ab"] > score[f"{SPACE}ab"] > max(score[c] for c in (SPACE, "a", "b"))
    assert (found.unk_id, found.bos_id, found.eos_id) == (0, 1, 2)


@pytest.mark.parametrize(
    ("changes", "adds_prefix"),
    [
        ({}, True),
        ({"normalizer": None}, False),
        (
            {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"}},
            True,
        ),
        (
            {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}},
            False,
        ),
        ({"normalizer": {"type": "Prepend", "prepend": SPACE}}, True),
        ({"normalizer": {"type": "Sequence", "normalizers": 7}}, False),
    ],
)
def test_space_prefix(tmp_path: Path, changes: dict[str, Any], adds_prefix: bool) -> None:
    found = read_tokenizer_json(write(tmp_path, small() | changes))
    assert found.add_dummy_prefix is adds_prefix


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": "Unigram"}, "model.type"),
        ({"byte_fallback": False}, "model.byte_fallback"),
        ({"vocab": {}}, "model.vocab"),
        ({"vocab": ["a"]}, "model.vocab"),
        ({"vocab": {"a": 0, "b": 2}}, "model.vocab"),
        ({"vocab": {"a": True}}, "model.vocab"),
        ({"merges": None}, "model.merges"),
        ({"merges": ["a"]}, "model.merges[0]"),
        ({"merges": [["a", "b", "a"]]}, "model.merges[0]"),
        ({"merges": [[["a"], "b"]]}, "model.merges[0]"),
        ({"merges": ["a b", "a a"]}, "model.merges[1]"),
        ({"merges": ["a b", f"{SPACE} ab", "a b"]}, "model.merges[2]"),
    ],
    ids=str,
)
def test_refused(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_tokenizer_json(write(tmp_path, small(**changes)))
    assert caught.value.field == field


def test_added_tokens_that_are_no_text(tmp_path: Path) -> None:
    content = small() | {"added_tokens": [{"content": ["<s>"], "special": True}, 7]}
    found = read_tokenizer_json(write(tmp_path, content))
    assert found.types[1] == TokenType.NORMAL


def test_a_file_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="only BPE is supported"):
        read_tokenizer_json(write(tmp_path, {"model": None}))


# ---- Which of several tokenizers ----


def sized_model(n_more: int) -> bytes:
    more = b"".join(piece(f"x{i}", -100.0 - i) for i in range(n_more))
    return tokenizer_model(more + TRAINER)


N_PIECES = len(small()["model"]["vocab"])


@pytest.mark.parametrize(
    ("n_vocab", "n_more"), [(N_PIECES, 0), (N_PIECES + 2, 2), (N_PIECES + 3, 3)]
)
def test_the_model_of_the_vocabulary_s_size(tmp_path: Path, n_vocab: int, n_more: int) -> None:
    for version, more in (("v1", 0), ("v2", 2), ("v3", 3)):
        (tmp_path / f"tokenizer.model.{version}").write_bytes(sized_model(more))
    found, warnings = read_hf_vocabulary(tmp_path, n_vocab)
    assert warnings == []
    assert found.tokens[N_PIECES:] == [f"x{i}" for i in range(n_more)]


def test_none_of_the_vocabulary_s_size(tmp_path: Path) -> None:
    """The newest is taken, and filled up."""
    for version, more in (("v1", 0), ("v3", 3)):
        (tmp_path / f"tokenizer.model.{version}").write_bytes(sized_model(more))
    found, (warning,) = read_hf_vocabulary(tmp_path, N_PIECES + 9)
    assert "tokenizer.model.v3" in warning
    assert found.types[-6:].tolist() == [TokenType.UNUSED] * 6


def test_sentencepiece_goes_before_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model())
    write(tmp_path, small() | {"added_tokens": []})
    found, _ = read_hf_vocabulary(tmp_path, N_PIECES)
    assert found.scores[N_PIECES - 1] == -4  # sentencepiece's own


# ---- Chat templates ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model())
    return tmp_path


def chat_template(folder: Path) -> str | None:
    return read_hf_vocabulary(folder, N_PIECES)[0].chat_template


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        (None, None),
        ("{{ a }}", "{{ a }}"),
        ([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}], "d"),
        ([{"name": "rag", "template": "r"}], None),
        (7, None),
    ],
)
def test_chat_template_of_the_config(
    folder: Path, configured: object, expected: str | None
) -> None:
    config = {} if configured is None else {"chat_template": configured}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert chat_template(folder) == expected


def test_chat_template_of_its_own_file(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"chat_template": "of the config"}')
    (folder / "chat_template.jinja").write_bytes("{{ messages }}\n\u00e9".encode())
    assert chat_template(folder) == "{{ messages }}\n\u00e9"


def test_a_chat_template_that_is_too_long(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(FormatError, match="longer than 1048576 bytes"):
        chat_template(folder)
