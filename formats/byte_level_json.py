"""The vocabulary in a tokenizer.json whose BPE is over bytes, as GPT-2's, Llama 3's or SmolLM2's.

Source: the Tokenizer of https://github.com/huggingface/tokenizers. GGUF keeps the tokens and merges
as they are, but of the pre-tokenizer, which cuts a text into words, only a name: it has to be one
of `pre_tokenizers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FormatError
from .pre_tokenizers import GPT2_PATTERN, PRE_TOKENIZERS, SINGLE_DIGIT, expanded
from .tokenizer_json import merged_pair, read_added_types, read_pieces
from .vocabulary import TokenType

# What the model may say besides the vocabulary, for it to merge as we do.
_REQUIRED_VALUES: dict[str, tuple[object, ...]] = {
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}


@dataclass(frozen=True, slots=True)
class ByteLevelModel:
    """Tokens by their ids, the merges, the first of which goes first, and how to use them."""

    pieces: list[str]  # each byte written as a printable character
    types: list[TokenType]
    merges: list[tuple[str, str]]
    pre: str  # a key of PRE_TOKENIZERS
    first: str | None  # a token that a prompt begins with
    last: str | None  # a token that a prompt ends with
    warnings: list[str]


def is_byte_level(found: dict[str, Any]) -> bool:
    """Whether the content of a tokenizer.json has a step that turns bytes into characters."""
    return any(step.get("type") == "ByteLevel" for step in _steps(found, "pre_tokenizer"))


def read_byte_level(path: Path, found: dict[str, Any]) -> ByteLevelModel:
    """Read `found`, the content of the file at `path`.

    Raises:
        FormatError: it is malformed, or its ids could not be reproduced.
    """
    model = found.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise FormatError(path, "model.type", "only BPE is supported")
    for key, allowed in _REQUIRED_VALUES.items():
        if model.get(key) not in allowed:
            raise FormatError(path, f"model.{key}", f"is {model[key]!r}, which is not supported")
    pieces = read_pieces(path, model.get("vocab"))
    added = read_added_types(found.get("added_tokens"))
    first, last = _added_around(found)
    return ByteLevelModel(
        pieces=pieces,
        types=[added.get(piece, TokenType.NORMAL) for piece in pieces],
        merges=list(_read_merges(path, model.get("merges"), set(pieces))),
        pre=_name_of_pre_tokenizer(path, found, model.get("ignore_merges") is True),
        first=first,
        last=last,
        warnings=[
            f"{path.name}: normalizer {step.get('type')} is left out: text is tokenized as it is"
            for step in _steps(found, "normalizer")
        ],
    )


def _steps(found: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Of a pipeline, which is one step, or a Sequence of them."""
    top = found.get(key)
    if not isinstance(top, dict):
        return []
    if top.get("type") != "Sequence":
        return [top]
    lists = (top.get(name) for name in ("pretokenizers", "normalizers", "processors"))
    steps = next((steps for steps in lists if isinstance(steps, list)), [])
    return [step for step in steps if isinstance(step, dict)]


def _read_merges(path: Path, merges: object, pieces: set[str]) -> Iterator[tuple[str, str]]:
    if not isinstance(merges, list):
        raise FormatError(path, "model.merges", "must be a list")
    for i, merge in enumerate(merges):
        pair = merged_pair(merge, pieces)
        if pair is None or "".join(pair) not in pieces:
            what = "must be two pieces of the vocabulary that make a third"
            raise FormatError(path, f"model.merges[{i}]", what)
        yield pair


def _name_of_pre_tokenizer(path: Path, found: dict[str, Any], ignores_merges: bool) -> str:
    patterns = tuple(p for step in _steps(found, "pre_tokenizer") for p in _patterns(path, step))
    for name, known in PRE_TOKENIZERS.items():
        if (known.patterns, known.ignores_merges) == (patterns, ignores_merges):
            return name
    what = f"cuts words by {list(patterns)!r}, ignore_merges {ignores_merges}, which no name of "
    raise FormatError(path, "pre_tokenizer", f"{what}tokenizer.ggml.pre stands for")


def _patterns(path: Path, step: dict[str, Any]) -> Iterator[str]:
    """By which a step cuts; each cuts further what those before it have left."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            if step.get("use_regex", True):
                yield GPT2_PATTERN
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"} if (
            not step.get("invert")
        ):
            yield expanded(pattern)
        case {"type": "Digits", "individual_digits": True}:
            yield SINGLE_DIGIT
        case _:
            raise FormatError(path, "pre_tokenizer", f"{step!r} is not supported")


def _added_around(found: dict[str, Any]) -> tuple[str | None, str | None]:
    """The special tokens that the post-processor puts before and after a text."""
    for step in _steps(found, "post_processor"):
        template = step.get("single")
        if step.get("type") == "TemplateProcessing" and isinstance(template, list) and template:
            return _special(template[0]), _special(template[-1])
    return None, None


def _special(part: object) -> str | None:
    match part:
        case {"SpecialToken": {"id": str(token)}}:
            return token
    return None
