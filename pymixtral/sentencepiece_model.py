"""Rebuilds a sentencepiece model from the vocabulary of a GGUF file.

The file holds the pieces, scores and types of the model's entries, not the model; sentencepiece
loads only a serialized ModelProto. The few fields needed are written here in protobuf's wire
format, see `formats/sentencepiece_proto.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pymixtral.formats import TokenType
from pymixtral.formats import sentencepiece_proto as proto

BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Tokens that only the program inserts. sentencepiece would find user-defined ones in any text.
OUTSIDE_SENTENCEPIECE = (TokenType.CONTROL, TokenType.USER_DEFINED)

EMPTY = "empty tokens"
NULL = "tokens with a null character"
DUPLICATE = "tokens that repeat an earlier one"


class Entry(NamedTuple):
    """One entry of a sentencepiece model; its position is its id."""

    piece: str
    score: float
    type: TokenType


def byte_value(token: str) -> int:
    """The byte for which a byte token such as "<0x0A>" stands."""
    return int(token[3:5], 16)


def build_entries(
    tokens: Sequence[str], scores: Iterable[float], types: Sequence[TokenType]
) -> tuple[list[Entry], list[str]]:
    """Entries of a model that sentencepiece accepts, and one line for each kind of repair.

    Entry i is token i for every i < len(tokens), so sentencepiece's ids are the file's. A token
    that sentencepiece must not see, or would refuse, leaves a control entry in its place, which
    no text matches. sentencepiece insists on one unknown entry and on all 256 bytes: those that
    the file lacks follow the last token.
    """
    taken = {*tokens, *BYTE_PIECES}
    unknown = Entry(_free_name("unknown", taken), 0.0, TokenType.UNKNOWN)
    entries: list[Entry] = []
    seen: set[str] = set()
    refused: dict[str, list[int]] = {EMPTY: [], NULL: [], DUPLICATE: []}
    for token_id, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        entry = Entry(token, float(score), kind)
        if kind is TokenType.UNKNOWN:
            entry = unknown
        elif kind is TokenType.BYTE:
            entry = Entry(BYTE_PIECES[byte_value(token)], 0.0, kind)
        reason = None if kind in OUTSIDE_SENTENCEPIECE else _refusal(entry.piece, seen)
        if reason:
            refused[reason].append(token_id)
        if reason or kind in OUTSIDE_SENTENCEPIECE:
            entry = Entry(_free_name(f"control {token_id}", taken), 0.0, TokenType.CONTROL)
        seen.add(entry.piece)
        entries.append(entry)

    missing_bytes = [piece for piece in BYTE_PIECES if piece not in seen]
    entries += [Entry(piece, 0.0, TokenType.BYTE) for piece in missing_bytes]
    if unknown.piece not in seen:
        entries.append(unknown)

    problems = [
        f"{len(ids)} {reason}, the first at id {ids[0]}: no text encodes to them"
        for reason, ids in refused.items()
        if ids
    ]
    if missing_bytes:
        problems.append(
            f"{len(missing_bytes)} of 256 byte tokens are missing, the first {missing_bytes[0]}: "
            "text that needs them encodes to the unknown token"
        )
    return entries, [f"tokenizer.ggml.tokens: {problem}" for problem in problems]


def _refusal(piece: str, seen: set[str]) -> str | None:
    """Why sentencepiece would not load a model with this piece in it."""
    if not piece:
        return EMPTY
    if "\0" in piece:
        return NULL
    return DUPLICATE if piece in seen else None


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"<{name}>"
    return name


def serialize(entries: Iterable[Entry], add_dummy_prefix: bool) -> bytes:
    """A ModelProto: BPE, byte fallback, identity normalizer that keeps extra white space."""
    trainer_spec = _varint(proto.MODEL_TYPE, proto.BPE) + _varint(proto.BYTE_FALLBACK, True)
    normalizer_spec = (
        _bytes(proto.NAME, b"identity")
        + _varint(proto.ADD_DUMMY_PREFIX, add_dummy_prefix)
        + _varint(proto.REMOVE_EXTRA_WHITESPACES, False)
        + _varint(proto.ESCAPE_WHITESPACES, True)
    )
    return (
        b"".join(_bytes(proto.PIECES, _piece(*entry)) for entry in entries)
        + _bytes(proto.TRAINER, trainer_spec)
        + _bytes(proto.NORMALIZER, normalizer_spec)
    )


def _piece(piece: str, score: float, token_type: TokenType) -> bytes:
    return (
        _bytes(proto.PIECE_TEXT, piece.encode(errors="surrogateescape"))
        + _float(proto.PIECE_SCORE, score)
        + _varint(proto.PIECE_TYPE, token_type)
    )


# Protobuf's wire format: a field is a varint of number * 8 + wire type, then the value.
# https://protobuf.dev/programming-guides/encoding/


def _base128(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _base128(rest) if rest else bytes([low])


def _varint(field: int, value: int) -> bytes:
    return _base128(field << 3 | proto.VARINT) + _base128(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _base128(field << 3 | proto.BYTES) + _base128(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _base128(field << 3 | proto.FIXED32) + struct.pack("<f", value)
