"""The vocabulary that a GGUF file carries (``tokenizer.*``)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from .gguf import INTEGER_TYPES, GGUFFile, ValueType, element_type
from .pre_tokenizers import PRE_TOKENIZERS

# Values of tokenizer.ggml.model.
SENTENCEPIECE = "llama"  # BPE over characters, with bytes for those that are no tokens
BYTE_LEVEL = "gpt2"  # BPE over bytes, each written as a printable character


class TokenType(IntEnum):
    """The types of tokens, with sentencepiece's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# To look them up takes a quarter of the time that it takes to make them, tens of thousands a model.
_TOKEN_TYPES = {int(kind): kind for kind in TokenType}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens and how to use them. The three lists have one entry for each token id."""

    model: str  # "llama": sentencepiece BPE; "gpt2": byte-level BPE
    tokens: list[str]  # bytes that are not UTF-8 as surrogate escapes
    scores: npt.NDArray[np.float32]
    types: npt.NDArray[np.int32]  # TokenType
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    chat_template: str | None = None
    pre: str | None = None  # of byte-level BPE: a key of PRE_TOKENIZERS, if it is known
    merges: list[tuple[str, str]] = field(default_factory=list)  # likewise, the first goes first

    @property
    def token_types(self) -> list[TokenType]:
        """`types`, by name."""
        return list(map(_TOKEN_TYPES.__getitem__, self.types.tolist()))

    @property
    def control_ids(self) -> list[int]:
        """The ids that are control tokens whatever `types` says: those of BOS and EOS."""
        return [i for i in (self.bos_id, self.eos_id) if i is not None]


_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")

# What llama.cpp assumes of a sentencepiece vocabulary that does not say.
_DEFAULT_IDS = {"bos": 1, "eos": 2, "unknown": 0}

# Requests to change the text before it is cut into tokens, which we do not do.
_UNSUPPORTED_KEYS = (
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.remove_extra_whitespaces",
)


def read_vocabulary(gguf: GGUFFile) -> Vocabulary:
    """Read and check the vocabulary.

    Raises:
        FormatError: a key is missing or of a wrong type, lists differ in length, a special id is no
            token, a byte token is malformed.
    """
    model = _scalar(gguf, "tokenizer.ggml.model", ValueType.STRING)
    tokens = _array(gguf, "tokenizer.ggml.tokens", ValueType.STRING)
    if not tokens:
        raise gguf.error("tokenizer.ggml.tokens", "is empty")
    is_sentencepiece, is_byte_level = model == SENTENCEPIECE, model == BYTE_LEVEL
    if is_sentencepiece:
        for key in _UNSUPPORTED_KEYS:
            if np.any(gguf.metadata.get(key, False)):
                raise gguf.error(key, "is set, which is not supported")
    pre = _scalar(gguf, "tokenizer.ggml.pre", ValueType.STRING, required=False)
    adds_bos = is_byte_level and pre in PRE_TOKENIZERS and PRE_TOKENIZERS[pre].adds_bos
    return Vocabulary(
        model=model,
        tokens=tokens,
        scores=_read_scores(gguf, len(tokens), required=is_sentencepiece),
        types=_read_types(gguf, tokens, required=is_sentencepiece),
        bos_id=_read_special_id(gguf, "bos", len(tokens), is_sentencepiece),
        eos_id=_read_special_id(gguf, "eos", len(tokens), is_sentencepiece),
        unk_id=_read_special_id(gguf, "unknown", len(tokens), is_sentencepiece),
        add_bos=_flag(gguf, "tokenizer.ggml.add_bos_token", is_sentencepiece or adds_bos),
        add_eos=_flag(gguf, "tokenizer.ggml.add_eos_token", False),
        add_space_prefix=_flag(gguf, "tokenizer.ggml.add_space_prefix", is_sentencepiece),
        chat_template=_scalar(gguf, "tokenizer.chat_template", ValueType.STRING, required=False),
        pre=pre,
        merges=_read_merges(gguf) if is_byte_level else [],
    )


def _scalar(gguf: GGUFFile, key: str, kind: ValueType, *, required: bool = True) -> Any:
    if key not in gguf.metadata:
        if required:
            raise gguf.error(key, "is missing")
        return None
    if gguf.types[key] is not kind:
        raise gguf.error(key, f"has type {gguf.types[key].name}, must be {kind.name}")
    return gguf.metadata[key]


def _flag(gguf: GGUFFile, key: str, default: bool) -> bool:
    found = _scalar(gguf, key, ValueType.BOOL, required=False)
    return default if found is None else bool(found)


def _array(gguf: GGUFFile, key: str, kind: ValueType, *, required: bool = True) -> Any:
    values = _scalar(gguf, key, ValueType.ARRAY, required=required)
    if values is not None and element_type(values) is not kind:
        raise gguf.error(
            key, f"is an array of {element_type(values).name}, must be one of {kind.name}"
        )
    return values


def _array_per_token(
    gguf: GGUFFile, key: str, kind: ValueType, n_tokens: int, *, required: bool
) -> Any:
    values = _array(gguf, key, kind, required=required)
    if values is not None and len(values) != n_tokens:
        raise gguf.error(key, f"has {len(values)} entries for {n_tokens} tokens")
    return values


def _read_scores(gguf: GGUFFile, n_tokens: int, *, required: bool) -> npt.NDArray[np.float32]:
    key = "tokenizer.ggml.scores"
    scores = _array_per_token(gguf, key, ValueType.FLOAT32, n_tokens, required=required)
    if scores is None:
        return np.zeros(n_tokens, np.float32)
    if np.isnan(scores).any():
        raise gguf.error(key, "is NaN", int(np.isnan(scores).argmax()))
    return np.asarray(scores, np.float32)


def _read_types(gguf: GGUFFile, tokens: list[str], *, required: bool) -> npt.NDArray[np.int32]:
    key = "tokenizer.ggml.token_type"
    types = _array_per_token(gguf, key, ValueType.INT32, len(tokens), required=required)
    if types is None:
        return np.full(len(tokens), TokenType.NORMAL, np.int32)
    outside = (types < min(TokenType)) | (types > max(TokenType))
    if outside.any():
        i = int(outside.argmax())
        raise gguf.error(key, f"is {types[i]}, must be 1 to {max(TokenType):d}", i)
    for i in np.flatnonzero(types == TokenType.BYTE):
        if not _BYTE_TOKEN.fullmatch(tokens[i]):
            raise gguf.error("tokenizer.ggml.tokens", f"{tokens[i]!r} is no byte token", int(i))
    return np.asarray(types, np.int32)


def _read_merges(gguf: GGUFFile) -> list[tuple[str, str]]:
    """Pairs of tokens, written with a space between, which no token of this kind contains."""
    key = "tokenizer.ggml.merges"
    merges = []
    for i, text in enumerate(_array(gguf, key, ValueType.STRING)):
        left, space, right = text.partition(" ")
        if not (left and space and right) or " " in right:
            raise gguf.error(key, f"{text!r} is no pair of tokens", i)
        merges.append((left, right))
    return merges


def _read_special_id(
    gguf: GGUFFile, name: str, n_tokens: int, is_sentencepiece: bool
) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in gguf.metadata:
        default = _DEFAULT_IDS[name]
        return default if is_sentencepiece and default < n_tokens else None
    if gguf.types[key] not in INTEGER_TYPES:
        raise gguf.error(key, f"has type {gguf.types[key].name}, must be an integer")
    found = int(gguf.metadata[key])
    if not 0 <= found < n_tokens:
        raise gguf.error(key, f"is {found}, there are {n_tokens} tokens")
    return found
