"""Text to ids by byte-level BPE, the vocabularies of Llama 3, SmolLM2 and many others.

The library `tokenizers` does the work, with a tokenizer rebuilt from the tokens, merges and the
name of the pre-tokenizer that a GGUF file holds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pymixtral.errors import ModelLoadError
from pymixtral.formats import TokenType, Vocabulary
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

if TYPE_CHECKING:
    import tokenizers

# Tokens that text can become. The others are inserted by the program alone.
_IN_TEXT = (TokenType.NORMAL, TokenType.BYTE)


def _byte_alphabet() -> dict[int, str]:
    """The character by which each byte is written: itself where it is printable, or else the next
    of those from U+0100 (GPT-2's bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(0x100 + i) for i, byte in enumerate(others)
    }


_ALPHABET = _byte_alphabet()
_CHARACTERS = frozenset(_ALPHABET.values())
_TO_LATIN_1 = {ord(character): byte for byte, character in _ALPHABET.items()}


class ByteLevelEncoder:
    """See `pymixtral.tokenizer.Encoder`.

    Raises:
        ModelLoadError: the library is not installed; the pre-tokenizer is not known.
    """

    def __init__(self, vocab: Vocabulary) -> None:
        self.types = _effective_types(vocab)
        self._tokens = vocab.tokens
        known = {
            token: i
            for i, token in enumerate(vocab.tokens)
            if self.types[i] in _IN_TEXT and _is_bytes(token)
        }
        merges = [
            (left, right)
            for left, right in vocab.merges
            if left in known and right in known and left + right in known
        ]
        self.warnings = _problems(known, len(vocab.merges) - len(merges))
        self._tokenizer = _build(known, merges, _pre_tokenizer(vocab.pre))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token_bytes(self, token_id: int) -> bytes:
        return _rendered(self._tokens[token_id], self.types[token_id])


def _pre_tokenizer(name: str | None) -> PreTokenizer:
    if name is None:
        raise ModelLoadError(
            "tokenizer.ggml.pre is missing, without which a byte-level BPE vocabulary cannot be "
            "used; get a newer file of this model, of May 2024 or later"
        )
    if name not in PRE_TOKENIZERS:
        raise ModelLoadError(
            f"tokenizer.ggml.pre is {name!r}, which is not supported; these are: "
            f"{', '.join(PRE_TOKENIZERS)}"
        )
    return PRE_TOKENIZERS[name]


def _build(
    known: dict[str, int], merges: list[tuple[str, str]], pre: PreTokenizer
) -> tokenizers.Tokenizer:
    try:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
    except ImportError:
        raise ModelLoadError(
            "this model's vocabulary is byte-level BPE, which needs the library tokenizers: "
            "pip install 'pymixtral[bpe]'"
        ) from None
    tokenizer = Tokenizer(BPE(known, merges, ignore_merges=pre.ignores_merges))
    tokenizer.pre_tokenizer = _cutter(pre.patterns)
    return tokenizer


@lru_cache(maxsize=8)  # to compile the patterns takes longer than to load a small vocabulary
def _cutter(patterns: tuple[str, ...]) -> tokenizers.pre_tokenizers.PreTokenizer:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    cuts = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=False)])


def _effective_types(vocab: Vocabulary) -> list[TokenType]:
    """Token types, set right where the special ids contradict them."""
    types = vocab.token_types
    for control_id in vocab.control_ids:
        types[control_id] = TokenType.CONTROL
    return types


def _is_bytes(token: str) -> bool:
    """Whether each of its characters stands for a byte."""
    return _CHARACTERS.issuperset(token)


def _rendered(token: str, token_type: TokenType) -> bytes:
    if token_type is TokenType.CONTROL:
        return b""
    # Added ones are not written by bytes.
    if token_type is TokenType.USER_DEFINED or not _is_bytes(token):
        return token.encode(errors="surrogateescape")
    return token.translate(_TO_LATIN_1).encode("latin-1")


def _problems(known: dict[str, int], n_lost_merges: int) -> tuple[str, ...]:
    problems = []
    if missing := [byte for byte, character in _ALPHABET.items() if character not in known]:
        problems.append(
            f"tokenizer.ggml.tokens: {len(missing)} of 256 bytes are missing, the first "
            f"0x{min(missing):02X}: text loses them"
        )
    if n_lost_merges:
        problems.append(
            f"tokenizer.ggml.merges: {n_lost_merges} of tokens that are not in the list: ignored"
        )
    return tuple(problems)
