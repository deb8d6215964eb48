"""The vocabulary in a tokenizer.json that was made from a sentencepiece BPE model.

Source: the Tokenizer of https://github.com/huggingface/tokenizers, and transformers'
convert_slow_tokenizer.py, which orders the merges by the score of the piece that they make. That
order is all that sentencepiece's scores mean, so it gives them back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import FormatError
from .safetensors import read_json_file
from .sentencepiece_model import MAX_PIECES, SentencePieceModel
from .sentencepiece_proto import BPE
from .vocabulary import TokenType

TOKENIZER_JSON = "tokenizer.json"
MAX_JSON_BYTES = 64 << 20

_SPACE = "\u2581"
_BYTE_PIECES = {f"<0x{byte:02X}>" for byte in range(256)}


def read_tokenizer_json(path: Path) -> SentencePieceModel:
    """Read the file at `path`.

    Raises:
        FormatError: it is malformed, or no sentencepiece BPE (as one over bytes is none).
        OSError: it cannot be read.
    """
    found = read_json_file(path, MAX_JSON_BYTES)
    model = found.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise FormatError(path, "model.type", "only BPE is supported")
    if not model.get("byte_fallback"):
        raise FormatError(
            path, "model.byte_fallback", "is off: only BPE made from sentencepiece is supported"
        )
    pieces = read_pieces(path, model.get("vocab"))
    ranks = _read_ranks(path, model.get("merges"), set(pieces))
    added = read_added_types(found.get("added_tokens"))
    special = {text for text, kind in added.items() if kind is TokenType.CONTROL}
    unknown = model.get("unk_token")
    result = SentencePieceModel(
        model_type=BPE,
        remove_extra_whitespaces=False,
        add_dummy_prefix=_adds_prefix(found),
        unk_id=pieces.index(unknown) if unknown in pieces else -1,
        bos_id=pieces.index("<s>") if "<s>" in pieces else -1,
        eos_id=pieces.index("</s>") if "</s>" in pieces else -1,
    )
    next_rank = len(ranks)
    for piece in pieces:
        kind = _type_of(piece, unknown, special)
        if kind is TokenType.NORMAL and piece not in ranks:  # a character: made by no merge
            ranks[piece] = next_rank
            next_rank += 1
        result.pieces.append(piece)
        result.scores.append(-float(ranks[piece]) if kind is TokenType.NORMAL else 0.0)
        result.types.append(kind)
    return result


def read_pieces(path: Path, vocab: object) -> list[str]:
    """The pieces in the order of their ids."""
    if not isinstance(vocab, dict) or not 0 < len(vocab) <= MAX_PIECES:
        raise FormatError(path, "model.vocab", f"must map 1 to {MAX_PIECES} pieces to ids")
    ids = list(vocab.values())
    if not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise FormatError(path, "model.vocab", "must have each id from 0 once")
    return sorted(vocab, key=vocab.__getitem__)


def merged_pair(merge: object, pieces: set[str]) -> tuple[str, str] | None:
    """The two pieces that a merge joins, written "a b" or ["a", "b"]; None if it is malformed."""
    match merge.split(" ") if isinstance(merge, str) else merge:
        case [str(left), str(right)] if left in pieces and right in pieces:
            return left, right
    return None


def _read_ranks(path: Path, merges: object, pieces: set[str]) -> dict[str, int]:
    """Pieces that merges make, to their rank: 0 is merged first."""
    if not isinstance(merges, list):
        raise FormatError(path, "model.merges", "must be a list")
    ranks: dict[str, int] = {}
    last = None
    for i, merge in enumerate(merges):
        pair = merged_pair(merge, pieces)
        if pair is None:
            raise FormatError(path, f"model.merges[{i}]", "must be two pieces of the vocabulary")
        made = pair[0] + pair[1]
        if made not in pieces or (made in ranks and made != last):
            raise FormatError(
                path, f"model.merges[{i}]", "is not in the order of sentencepiece's scores"
            )
        ranks.setdefault(made, len(ranks))
        last = made
    return ranks


def read_added_types(added: object) -> dict[str, TokenType]:
    """The types of a tokenizer.json's added tokens, by their text."""
    tokens = added if isinstance(added, list) else []
    return {
        token["content"]: added_type(token)
        for token in tokens
        if isinstance(token, dict) and isinstance(token.get("content"), str)
    }


def added_type(token: dict[str, Any]) -> TokenType:
    return TokenType.CONTROL if token.get("special") is True else TokenType.USER_DEFINED


def _type_of(piece: str, unknown: object, special: set[str]) -> TokenType:
    if piece == unknown:
        return TokenType.UNKNOWN
    if piece in _BYTE_PIECES:
        return TokenType.BYTE
    return TokenType.CONTROL if piece in special else TokenType.NORMAL


def _adds_prefix(found: dict[str, Any]) -> bool:
    """Whether a space is put before the text: by a normalizer, or by Metaspace."""
    normalizer, pre = found.get("normalizer"), found.get("pre_tokenizer")
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    prepends = isinstance(steps, list) and {"type": "Prepend", "prepend": _SPACE} in steps
    scheme = pre.get("prepend_scheme") if isinstance(pre, dict) else None
    return prepends or scheme in ("first", "always")
