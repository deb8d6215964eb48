"""Mixtral's own vocabulary, read from the tokenizer model that mistral-common ships."""

from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor

from pymixtral.formats import TokenType, ValueType, Vocabulary
from pymixtral.formats.gguf_writer import GGUFWriter


@cache
def processor() -> SentencePieceProcessor:
    return SentencePieceProcessor(
        model_file=str(files("mistral_common") / "data" / "tokenizer.model.v1")
    )


@cache
def vocabulary() -> Vocabulary:
    model = processor()
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


def _token_type(model: SentencePieceProcessor, token_id: int) -> TokenType:
    if model.is_unknown(token_id):
        return TokenType.UNKNOWN
    if model.is_control(token_id):
        return TokenType.CONTROL
    return TokenType.BYTE if model.is_byte(token_id) else TokenType.NORMAL


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
