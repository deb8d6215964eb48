"""Rebuilds a sentencepiece model from the vocabulary of a GGUF file.

The file holds the pieces, scores and types of the model's entries, not the model; sentencepiece
loads only a serialized ModelProto. The few fields needed are written here in protobuf's wire
format, see `formats/sentencepiece_proto.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pymixtral.formats import TokenType
from pymixtral.formats import sentencepiece_proto as proto

BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Tokens that only the program inserts. sentencepiece would find user-defined ones in any text.
OUTSIDE_SENTENCEPIECE = (TokenType.CONTROL, TokenType.USER_DEFINED)

EMPTY = "empty tokens"
NULL = "tokens with a null character"
DUPLICATE = "tokens that repeat an earlier one"


def byte_value(token: str) -> int:
    """The byte for which a byte token such as "<0x0A>" stands."""
    return int(token[3:5], 16)


def build_model(
    tokens: Sequence[str],
    scores: Iterable[float],
    types: Sequence[TokenType],
    add_dummy_prefix: bool,
) -> tuple[bytes, list[str]]:
    """A ModelProto that sentencepiece accepts, and one line for each kind of repair.

    BPE, byte fallback, identity normalizer that keeps extra white space.
    """
    entries, problems = _build_entries(tokens, scores, types)
    trainer_spec = _varint(proto.MODEL_TYPE, proto.BPE) + _varint(proto.BYTE_FALLBACK, True)
    normalizer_spec = (
        _bytes(proto.NAME, b"identity")
        + _varint(proto.ADD_DUMMY_PREFIX, add_dummy_prefix)
        + _varint(proto.REMOVE_EXTRA_WHITESPACES, False)
        + _varint(proto.ESCAPE_WHITESPACES, True)
    )
    specs = _bytes(proto.TRAINER, trainer_spec) + _bytes(proto.NORMALIZER, normalizer_spec)
    return b"".join(entries) + specs, problems


def _build_entries(
    tokens: Sequence[str], scores: Iterable[float], types: Sequence[TokenType]
) -> tuple[list[bytes], list[str]]:
    """The serialized entries, and one line for each kind of repair.

    Entry i is token i for every i < len(tokens), so sentencepiece's ids are the file's. A token
    that sentencepiece must not see, or would refuse, leaves a control entry in its place, which
    no text matches. sentencepiece insists on one unknown entry and on all 256 bytes: those that
    the file lacks follow the last token.
    """
    # To reach an enum's member takes as long as half an entry, and a model has tens of thousands.
    unknown_kind, byte_kind = TokenType.UNKNOWN, TokenType.BYTE
    taken = {*tokens, *BYTE_PIECES}
    unknown = _free_name("unknown", taken)
    entries: list[bytes] = []
    seen: set[str] = set()
    refused: dict[str, list[int]] = {EMPTY: [], NULL: [], DUPLICATE: []}
    for token_id, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        piece = token
        if kind is unknown_kind:
            piece, score = unknown, 0.0
        elif kind is byte_kind:
            piece, score = BYTE_PIECES[byte_value(token)], 0.0
        is_outside = kind in OUTSIDE_SENTENCEPIECE
        reason = None if is_outside else _refusal(piece, seen)
        if reason:
            refused[reason].append(token_id)
        if reason or is_outside:
            piece, score = _free_name(f"control {token_id}", taken), 0.0
            kind = TokenType.CONTROL
        seen.add(piece)
        entries.append(_entry(piece, score, kind))

    missing_bytes = sorted(_BYTE_ENTRIES.keys() - seen)
    entries += map(_BYTE_ENTRIES.__getitem__, missing_bytes)
    if unknown not in seen:
        entries.append(_entry(unknown, 0.0, TokenType.UNKNOWN))

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


# Protobuf's wire format: a field is a varint of number * 8 + wire type, then the value.
# https://protobuf.dev/programming-guides/encoding/

_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))


def _base128(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    return bytes([value & 0x7F | 0x80]) + _base128(value >> 7)


def _varint(field: int, value: int) -> bytes:
    return _base128(field << 3 | proto.VARINT) + _base128(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _base128(field << 3 | proto.BYTES) + _base128(len(value)) + value


_ENTRY_TAG = _base128(proto.PIECES << 3 | proto.BYTES)
_TEXT_TAG = _base128(proto.PIECE_TEXT << 3 | proto.BYTES)
_SCORE_TAG = proto.PIECE_SCORE << 3 | proto.FIXED32
_TYPE_TAG = proto.PIECE_TYPE << 3 | proto.VARINT
_SCORE_AND_TYPE = struct.Struct("<BfBB")  # both fields at once: their varints are of one byte


def _entry(piece: str, score: float, token_type: TokenType) -> bytes:
    """A `pieces` field. There are tens of thousands, so the constant parts are made only once."""
    text = piece.encode(errors="surrogateescape")
    score_and_type = _SCORE_AND_TYPE.pack(_SCORE_TAG, score, _TYPE_TAG, token_type)
    return _before_text(len(text)) + text + score_and_type


@lru_cache(maxsize=256)
def _before_text(n_bytes: int) -> bytes:
    """What comes before the text of an entry, which has two lengths in it."""
    text_field = _TEXT_TAG + _base128(n_bytes)
    n_entry = len(text_field) + n_bytes + _SCORE_AND_TYPE.size
    return _ENTRY_TAG + _base128(n_entry) + text_field


_BYTE_ENTRIES = {piece: _entry(piece, 0.0, TokenType.BYTE) for piece in BYTE_PIECES}
