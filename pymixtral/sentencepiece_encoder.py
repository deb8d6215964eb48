"""Text to ids by sentencepiece, with a model rebuilt from the vocabulary."""

from __future__ import annotations

import re
from itertools import compress, count

from sentencepiece import SentencePieceProcessor

from pymixtral.errors import ParameterError
from pymixtral.formats import TokenType, Vocabulary
from pymixtral.sentencepiece_model import (
    OUTSIDE_SENTENCEPIECE,
    build_model,
    byte_value,
)

SPACE = "\u2581"  # how sentencepiece writes a space inside a piece
BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
UNKNOWN_TEXT = " \u2047 "  # what sentencepiece's decoder prints for the unknown token


class SentencePieceEncoder:
    """See `pymixtral.tokenizer.Encoder`. Decoding is done here, as sentencepiece's own drops the
    leading space."""

    def __init__(self, vocab: Vocabulary) -> None:
        self.types = _effective_types(vocab)
        model, problems = build_model(
            vocab.tokens, vocab.scores.tolist(), self.types, vocab.add_space_prefix
        )
        self.warnings = tuple(problems)
        self._tokens = vocab.tokens
        self._processor = SentencePieceProcessor(model_proto=model)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text)
        n_vocab = len(self._tokens)
        if max(ids, default=0) >= n_vocab:  # entries in place of tokens that the file lacks
            ids = [i if i < n_vocab else self._unknown_id() for i in ids]
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        return _rendered(self._tokens[token_id], self.types[token_id])

    def _unknown_id(self) -> int:
        if TokenType.UNKNOWN not in self.types:
            raise ParameterError("text: holds a character that this vocabulary cannot express")
        return self.types.index(TokenType.UNKNOWN)


def _effective_types(vocab: Vocabulary) -> list[TokenType]:
    """Token types, set right where a token's spelling or the special ids contradict them."""
    types = vocab.token_types
    for token_id in compress(count(), map(BYTE_TOKEN.fullmatch, vocab.tokens)):
        if types[token_id] not in OUTSIDE_SENTENCEPIECE:
            types[token_id] = TokenType.BYTE
    if vocab.unk_id is not None:
        types[vocab.unk_id] = TokenType.UNKNOWN
    for control_id in vocab.control_ids:
        types[control_id] = TokenType.CONTROL
    return types


def _rendered(piece: str, token_type: TokenType) -> bytes:
    if token_type is TokenType.CONTROL:
        return b""
    if token_type is TokenType.UNKNOWN:
        return UNKNOWN_TEXT.encode()
    if token_type is TokenType.BYTE:
        return bytes([byte_value(piece)])
    return piece.replace(SPACE, " ").encode(errors="surrogateescape")
