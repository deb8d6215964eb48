"""A tokenizer.json whose BPE is over bytes: the ids after conversion are those of `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from byte_level_files import byte_characters, golden_merges
from hf_folders import DIM, dense_config, weights, write_folder
from tokenizers import Tokenizer as HFTokenizer

from pymixtral.formats import FormatError, TokenType, Vocabulary, open_gguf, read_vocabulary
from pymixtral.formats.convert import convert
from pymixtral.formats.hf_vocabulary import read_hf_vocabulary
from pymixtral.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "byte_level"
CORPUS = Path(__file__).parents[1] / "data" / "tokenizer" / "mixtral_v1_encode.jsonl"

ADDED = ["<|begin|>", "<|end|>", "<|im_start|>"]  # ids behind the merges, all special but the last

# As the models' authors published them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(**changes: Any) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    } | changes


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return sequence(cut, byte_level(use_regex=False))


DIGITS = {"type": "Digits", "individual_digits": True}

# The name of the pre-tokenizer, what is published, and ignore_merges.
PUBLISHED: list[tuple[str, dict[str, Any], bool]] = [
    ("gpt-2", byte_level(), False),
    ("smollm", sequence(DIGITS, byte_level()), False),
    ("llama-bpe", split(LLAMA3), True),
    ("smaug-bpe", split(LLAMA3), False),
    ("qwen2", split(QWEN2), False),
    ("tekken", split(TEKKEN), True),
]


def tokenizer_json(
    pre: dict[str, Any] | None = None, *, ignore_merges: bool = False, **changes: Any
) -> dict[str, Any]:
    """A whole file; the changes are to its `model`."""
    merges = golden_merges()
    ordinary = [*byte_characters(), *(merge.replace(" ", "") for merge in merges), "ĠMixtral"]
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    bos = {"SpecialToken": {"id": ADDED[0], "type_id": 0}}
    first_id = len(ordinary)
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": first_id + i, "content": text, "special": text != ADDED[-1]}
            | dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
            for i, text in enumerate(ADDED)
        ],
        "normalizer": None,
        "pre_tokenizer": pre or byte_level(),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, first],
            "pair": [bos, first, second],
            "special_tokens": {
                ADDED[0]: {"id": ADDED[0], "ids": [first_id], "tokens": [ADDED[0]]},
            },
        },
        "decoder": byte_level(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {token: i for i, token in enumerate(ordinary)},
            "merges": merges,
        }
        | changes,
    }


def n_tokens(content: dict[str, Any]) -> int:
    return len(content["model"]["vocab"]) + len(ADDED)


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": ADDED[1]}}))
    return folder


def read(folder: Path, content: dict[str, Any]) -> tuple[Vocabulary, list[str]]:
    return read_hf_vocabulary(write(folder, content), n_tokens(content))


def texts() -> list[str]:
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    tricky = json.loads((GOLDEN / "ids.json").read_text(encoding="utf-8"))
    return [*tricky, *(json.loads(line)["text"] for line in lines)]


@pytest.mark.parametrize(("name", "pre", "ignore_merges"), PUBLISHED)
def test_ids_of_tokenizers(
    tmp_path: Path, name: str, pre: dict[str, Any], ignore_merges: bool
) -> None:
    content = tokenizer_json(pre, ignore_merges=ignore_merges)
    vocabulary, warnings = read(tmp_path, content)
    assert (vocabulary.pre, warnings) == (name, [])
    reference = HFTokenizer.from_str(json.dumps(content))
    tokenizer = Tokenizer(vocabulary)
    for text in texts():
        expected = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == expected, text


def test_a_converted_file(tmp_path: Path) -> None:
    """The GGUF file says all that the folder said."""
    content = tokenizer_json(split(LLAMA3), ignore_merges=True)
    n_vocab = n_tokens(content)
    config = dense_config() | {"architectures": ["LlamaForCausalLM"], "vocab_size": n_vocab}
    del config["bos_token_id"], config["eos_token_id"]
    arrays = weights(n_experts=0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = np.zeros((n_vocab, DIM), np.float32)
    folder = write_folder(tmp_path / "hf", config, arrays)
    (folder / "tokenizer.model").unlink()
    convert(write(folder, content), tmp_path / "out.gguf", "f16")
    with open_gguf(tmp_path / "out.gguf") as gguf:
        found = read_vocabulary(gguf)
    assert (found.model, found.pre) == ("gpt2", "llama-bpe")
    assert [" ".join(merge) for merge in found.merges] == golden_merges()
    assert found.tokens[-3:] == ADDED
    types = [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED]
    assert found.types[-4:].tolist() == [TokenType.NORMAL, *types]
    assert [found.tokens[i] for i in (found.bos_id or 0, found.eos_id or 0)] == ADDED[:2]
    assert (found.add_bos, found.add_eos, found.add_space_prefix) == (True, False, False)


def test_a_prompt_that_nothing_is_put_before(tmp_path: Path) -> None:
    found, _ = read(tmp_path, tokenizer_json() | {"post_processor": None})
    assert (found.bos_id, found.add_bos) == (None, False)


def test_a_normalizer_is_named(tmp_path: Path) -> None:
    _, (warning,) = read(tmp_path, tokenizer_json() | {"normalizer": {"type": "NFC"}})
    assert "normalizer NFC is left out" in warning


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": "WordPiece"}, "model.type"),
        ({"dropout": 0.1}, "model.dropout"),
        ({"end_of_word_suffix": "</w>"}, "model.end_of_word_suffix"),
        ({"byte_fallback": True}, "model.byte_fallback"),
        ({"merges": {}}, "model.merges"),
        ({"merges": ["a b c"]}, "model.merges[0]"),
        ({"merges": [["a", 7]]}, "model.merges[0]"),
        ({"merges": ["\x01 \x02"]}, "model.merges[0]"),
    ],
    ids=str,
)
def test_refused_models(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(tmp_path, tokenizer_json(**changes))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("pre", "what"),
    [
        (split("[a-z]+"), "cuts words by"),
        (byte_level(add_prefix_space=True), "is not supported"),
        (sequence({"type": "Punctuation"}, byte_level()), "'Punctuation'"),
        (sequence(sequence(byte_level()), byte_level()), "'Sequence'"),
    ],
    ids=["pattern", "prefix", "step", "nested"],
)
def test_refused_pre_tokenizers(tmp_path: Path, pre: dict[str, Any], what: str) -> None:
    with pytest.raises(FormatError, match=what) as caught:
        read(tmp_path, tokenizer_json(pre))
    assert caught.value.field == "pre_tokenizer"
