"""Text to token ids and back, with the vocabulary that the GGUF file carries.

sentencepiece encodes, with a model rebuilt from the vocabulary. Control and added tokens never
reach it: only the program inserts them, and no user text, "</s>" included, can become one.
Decoding is a table of each token's bytes, because sentencepiece's own drops the leading space.
"""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Iterable, Mapping

from sentencepiece import SentencePieceProcessor

from pymixtral.errors import ModelLoadError, ParameterError
from pymixtral.formats import TokenType, Vocabulary
from pymixtral.sentencepiece_model import (
    OUTSIDE_SENTENCEPIECE,
    build_entries,
    byte_value,
    serialize,
)

SPACE = "\u2581"  # how sentencepiece writes a space inside a piece
BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
UNKNOWN_TEXT = " \u2047 "  # what sentencepiece's decoder prints for the unknown token


class Tokenizer:
    """A sentencepiece BPE tokenizer (`tokenizer.ggml.model` = "llama").

    Args:
        vocab: as `pymixtral.formats.read_vocabulary` returns it.

    Attributes:
        n_vocab: number of tokens; ids run from 0 to n_vocab - 1.
        bos_id, eos_id: ids of `<s>` and `</s>`, or None where the file names none.
        add_bos: whether the model wants `bos_id` in front of a prompt.
        chat_template: the file's Jinja template, or None.
        warnings: one line for each thing that had to be repaired in the vocabulary. Each is also
            issued as a Python warning when the tokenizer is made.

    Raises:
        ModelLoadError: the vocabulary is not of sentencepiece's kind.
    """

    def __init__(self, vocab: Vocabulary) -> None:
        if vocab.model != "llama":
            raise ModelLoadError(
                f"tokenizer.ggml.model is {vocab.model!r}; use a file whose vocabulary is 'llama' "
                "(sentencepiece), the only kind that is supported"
            )
        self.n_vocab = len(vocab.tokens)
        self.bos_id: int | None = vocab.bos_id
        self.eos_id: int | None = vocab.eos_id
        self.add_bos = vocab.add_bos
        self.chat_template = vocab.chat_template
        types = _effective_types(vocab)
        self._pieces = tuple(vocab.tokens)
        self._bytes = tuple(map(_rendered, vocab.tokens, types))
        self._unk_id = types.index(TokenType.UNKNOWN) if TokenType.UNKNOWN in types else None
        self._control_ids: dict[str, int] = {}
        for token_id, (token, kind) in enumerate(zip(vocab.tokens, types, strict=True)):
            if kind in OUTSIDE_SENTENCEPIECE:
                self._control_ids.setdefault(token, token_id)
        entries, problems = build_entries(vocab.tokens, vocab.scores, types)
        self._processor = SentencePieceProcessor(
            model_proto=serialize(entries, add_dummy_prefix=vocab.add_space_prefix)
        )
        self.warnings: tuple[str, ...] = tuple(problems)
        for problem in problems:
            warnings.warn(problem, stacklevel=2)

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of `text`, in which nothing is special: "</s>" is four characters.

        Args:
            text: any Unicode text.
            add_bos: put `bos_id` in front.

        Raises:
            ParameterError: `text` holds a lone surrogate, or a character for which the vocabulary
                has neither byte tokens nor the unknown token; or `add_bos` is asked of a
                vocabulary that names no bos token.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ParameterError(
                f"text: character {error.start} is a lone surrogate, which no text encoding can "
                "hold; remove it"
            ) from None
        ids: list[int] = self._processor.encode(text)
        if max(ids, default=0) >= self.n_vocab:  # entries in place of tokens that the file lacks
            ids = [i if i < self.n_vocab else self._unknown_id() for i in ids]
        if not add_bos:
            return ids
        if self.bos_id is None:
            raise ParameterError("add_bos: this vocabulary names no bos token")
        return [self.bos_id, *ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; the first piece's leading space is kept.

        Control tokens render as nothing, the unknown token as " \u2047 ", and bytes that are no
        UTF-8 as U+FFFD.

        Raises:
            ParameterError: an id is outside the vocabulary.
        """
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def piece(self, token_id: int) -> str:
        """The token as the file spells it, such as "\u2581Hello", "<0x0A>" or "</s>"."""
        piece = self._pieces[self._checked(token_id)]
        return piece.encode(errors="surrogateescape").decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to the decoded text, which may be a part of a UTF-8 character."""
        return self._bytes[self._checked(token_id)]

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Ids of all control and added tokens, by their spelling."""
        return self._control_ids

    def control_id(self, text: str) -> int | None:
        """Id of the control or added token spelled `text`, or None where there is none."""
        return self._control_ids.get(text)

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.n_vocab:
            raise ParameterError(
                f"token id {token_id} is outside the vocabulary, 0 to {self.n_vocab - 1}"
            )
        return token_id

    def _unknown_id(self) -> int:
        if self._unk_id is None:
            raise ParameterError("text: holds a character that this vocabulary cannot express")
        return self._unk_id


class Detokenizer:
    """Decodes a stream of ids, never emitting half a character.

    The concatenation of what `push` and `flush` return is `tokenizer.decode` of all the ids, less
    the stripped space.

    Args:
        strip_leading_space: drop one space at the very start, as a chat answer needs.
    """

    def __init__(self, tokenizer: Tokenizer, strip_leading_space: bool = False) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip = strip_leading_space

    def push(self, token_id: int) -> str:
        """Text that `token_id` completes; "" while a character is still incomplete."""
        return self._stripped(self._decoder.decode(self._tokenizer.token_bytes(token_id)))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an incomplete character, else ""."""
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        if text and self._strip:
            self._strip = False
            return text.removeprefix(" ")
        return text


def _effective_types(vocab: Vocabulary) -> list[TokenType]:
    """Token types, set right where a token's spelling or the special ids contradict them."""
    types = [TokenType(int(value)) for value in vocab.types]
    for token_id, token in enumerate(vocab.tokens):
        if BYTE_TOKEN.fullmatch(token) and types[token_id] not in OUTSIDE_SENTENCEPIECE:
            types[token_id] = TokenType.BYTE
    if vocab.unk_id is not None:
        types[vocab.unk_id] = TokenType.UNKNOWN
    for special_id in (vocab.bos_id, vocab.eos_id):
        if special_id is not None:
            types[special_id] = TokenType.CONTROL
    return types


def _rendered(piece: str, token_type: TokenType) -> bytes:
    if token_type is TokenType.CONTROL:
        return b""
    if token_type is TokenType.UNKNOWN:
        return UNKNOWN_TEXT.encode()
    if token_type is TokenType.BYTE:
        return bytes([byte_value(piece)])
    return piece.replace(SPACE, " ").encode(errors="surrogateescape")
