"""Text to token ids and back, with the vocabulary that the GGUF file carries.

Control and added tokens never reach the encoder: only the program inserts them, and no user text,
"</s>" included, can become one.
"""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from pymixtral.byte_level_encoder import ByteLevelEncoder
from pymixtral.errors import ModelLoadError, ParameterError
from pymixtral.formats import TokenType, Vocabulary
from pymixtral.formats.vocabulary import BYTE_LEVEL, SENTENCEPIECE
from pymixtral.sentencepiece_encoder import SentencePieceEncoder

INSERTED_BY_PROGRAM = (TokenType.CONTROL, TokenType.USER_DEFINED)


class Encoder(Protocol):
    """What a kind of vocabulary does in its own way."""

    @property
    def types(self) -> Sequence[TokenType]:
        """Of the tokens, set right where the file contradicts itself."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each thing that had to be repaired."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text without surrogates."""

    def token_bytes(self, token_id: int) -> bytes:
        """What a token of the vocabulary adds to the decoded text."""


ENCODERS: dict[str, Callable[[Vocabulary], Encoder]] = {
    SENTENCEPIECE: SentencePieceEncoder,
    BYTE_LEVEL: ByteLevelEncoder,
}


class Tokenizer:
    """The tokenizer of a model.

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
        ModelLoadError: the vocabulary is of a kind that is not supported, or whose library is not
            installed.
    """

    def __init__(self, vocab: Vocabulary) -> None:
        if vocab.model not in ENCODERS:
            raise ModelLoadError(
                f"tokenizer.ggml.model is {vocab.model!r}; use a file whose vocabulary is one of "
                f"{', '.join(map(repr, ENCODERS))}, the kinds that are supported"
            )
        self.n_vocab = len(vocab.tokens)
        self.bos_id: int | None = vocab.bos_id
        self.eos_id: int | None = vocab.eos_id
        self.add_bos = vocab.add_bos
        self.chat_template = vocab.chat_template
        self._pieces = tuple(vocab.tokens)
        self._encoder = ENCODERS[vocab.model](vocab)
        self._control_ids: dict[str, int] = {}
        for token_id, kind in enumerate(self._encoder.types):
            if kind in INSERTED_BY_PROGRAM:
                self._control_ids.setdefault(vocab.tokens[token_id], token_id)
        self.warnings: tuple[str, ...] = self._encoder.warnings
        for problem in self.warnings:
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
        ids = self._encoder.encode(text)
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
        return self._encoder.token_bytes(self._checked(token_id))

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
