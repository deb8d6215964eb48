"""Mistral's own vocabularies, read from the tokenizer models that mistral-common ships."""

import re
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor

from pymixtral.formats import TokenType, ValueType, Vocabulary
from pymixtral.formats.gguf_writer import GGUFWriter
from pymixtral.tokenizer import Tokenizer

MODELS = {
    "v1": "tokenizer.model.v1",  # Mixtral-8x7B
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",  # Mixtral-8x22B
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
}

REFERENCE = re.compile(r"\[REFERENCE_DOC_\d+]|\[/?REF]")


@cache
def processor(version: str = "v1") -> SentencePieceProcessor:
    return SentencePieceProcessor(
        model_file=str(files("mistral_common") / "data" / MODELS[version])
    )


@cache
def vocabulary(version: str = "v1") -> Vocabulary:
    model = processor(version)
    ids = range(model.get_piece_size())
    return Vocabulary(
        model="llama",
        tokens=[model.id_to_piece(i) for i in ids],
        scores=np.array([model.get_score(i) for i in ids], np.float32),
        types=np.array([_token_type(model, i) for i in ids], np.int32),
        bos_id=model.bos_id(),
        eos_id=model.eos_id(),
        unk_id=model.unk_id(),
        add_bos=True,
        add_eos=False,
        add_space_prefix=True,
        chat_template=None,
    )


def with_tokens(vocab: Vocabulary, *added: tuple[str, TokenType]) -> Vocabulary:
    """A vocabulary with more tokens at its end, as a fine-tune has."""
    return replace(
        vocab,
        tokens=[*vocab.tokens, *(token for token, _ in added)],
        scores=np.append(vocab.scores, np.full(len(added), -1000.0, np.float32)),
        types=np.append(vocab.types, np.array([kind for _, kind in added], np.int32)),
    )


def _token_type(model: SentencePieceProcessor, token_id: int) -> TokenType:
    if model.is_unknown(token_id):
        return TokenType.UNKNOWN
    if model.is_control(token_id):
        return TokenType.CONTROL
    if REFERENCE.fullmatch(model.id_to_piece(token_id)):
        return TokenType.USER_DEFINED  # which sentencepiece's Python API does not tell
    return TokenType.BYTE if model.is_byte(token_id) else TokenType.NORMAL


@cache
def tokenizer(version: str) -> Tokenizer:
    """One that has the tokens of a chat template, "chatml" included."""
    if version == "chatml":
        kind = TokenType.USER_DEFINED
        added = ("<|im_end|>", kind), ("<|im_start|>", kind)  # in the order of Dolphin's
        return Tokenizer(with_tokens(vocabulary("v1"), *added))
    return Tokenizer(vocabulary(version))


def write_gguf(path: Path, vocab: Vocabulary) -> None:
    """A GGUF file that holds a vocabulary and no tensors."""
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama", ValueType.STRING)
        writer.add("tokenizer.ggml.model", vocab.model, ValueType.STRING)
        writer.add("tokenizer.ggml.tokens", vocab.tokens, ValueType.ARRAY)
        writer.add("tokenizer.ggml.scores", vocab.scores, ValueType.ARRAY)
        writer.add("tokenizer.ggml.token_type", vocab.types, ValueType.ARRAY)
        for name in ("bos", "eos"):
            token_id = getattr(vocab, f"{name}_id")
            writer.add(f"tokenizer.ggml.{name}_token_id", token_id, ValueType.UINT32)
        writer.add("tokenizer.ggml.unknown_token_id", vocab.unk_id, ValueType.UINT32)
