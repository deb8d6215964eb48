"""Reading a sentencepiece model (``tokenizer.model``).

The file is a protobuf ModelProto, see `sentencepiece_proto`. Only the few fields that a vocabulary
needs are read, by hand, so that no protobuf library is needed and a hostile file has nothing to
work on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import sentencepiece_proto as proto
from .errors import FormatError
from .vocabulary import TokenType

MAX_FILE_BYTES = 64 << 20
MAX_PIECES = 1 << 20

_FIXED_BYTES = {proto.FIXED64: 8, proto.FIXED32: 4}
_MAX_VARINT_BYTES = 10


@dataclass(slots=True)
class SentencePieceModel:
    """The vocabulary of a model; the defaults are those of the .proto file."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[TokenType] = field(default_factory=list)
    model_type: int = proto.UNIGRAM
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    has_charsmap: bool = False  # a normaliser other than the identity
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


def read_sentencepiece_model(path: str | os.PathLike[str]) -> SentencePieceModel:
    """Read the model at `path`.

    Raises:
        FormatError: the file is malformed, or too large for a vocabulary.
        OSError: it cannot be read.
    """
    path = Path(path)
    with open(path, "rb") as file:
        data = memoryview(file.read(MAX_FILE_BYTES + 1))
    if len(data) > MAX_FILE_BYTES:
        raise FormatError(path, "file", f"is longer than {MAX_FILE_BYTES} bytes", MAX_FILE_BYTES)
    model = SentencePieceModel()
    for message in _Message(path, data, 0, "model").submessages():
        if message.number == proto.PIECES:
            _read_piece(model, message)
        elif message.number == proto.TRAINER:
            _read_trainer(model, message)
        elif message.number == proto.NORMALIZER:
            _read_normalizer(model, message)
    if not model.pieces:
        raise FormatError(path, "pieces", "there are none", 0)
    return model


def _read_piece(model: SentencePieceModel, message: _Message) -> None:
    if len(model.pieces) == MAX_PIECES:
        raise message.error(f"there are more than {MAX_PIECES}")
    text, score, kind = "", 0.0, int(TokenType.NORMAL)
    for number, value in message.fields():
        if number == proto.PIECE_TEXT:
            text = message.text(value)
        elif number == proto.PIECE_SCORE:
            score = message.float32(value)
        elif number == proto.PIECE_TYPE:
            kind = message.integer(value)
    if kind not in set(TokenType):
        raise message.error(f"unknown type {kind}")
    model.pieces.append(text)
    model.scores.append(score)
    model.types.append(TokenType(kind))


def _read_trainer(model: SentencePieceModel, message: _Message) -> None:
    for number, value in message.fields():
        if number == proto.MODEL_TYPE:
            model.model_type = message.integer(value)
        elif number == proto.UNK_ID:
            model.unk_id = message.integer(value)
        elif number == proto.BOS_ID:
            model.bos_id = message.integer(value)
        elif number == proto.EOS_ID:
            model.eos_id = message.integer(value)


def _read_normalizer(model: SentencePieceModel, message: _Message) -> None:
    for number, value in message.fields():
        if number == proto.CHARSMAP:
            model.has_charsmap = len(message.bytes_(value)) > 0
        elif number == proto.ADD_DUMMY_PREFIX:
            model.add_dummy_prefix = message.integer(value) != 0
        elif number == proto.REMOVE_EXTRA_WHITESPACES:
            model.remove_extra_whitespaces = message.integer(value) != 0
        elif number == proto.ESCAPE_WHITESPACES:
            model.escape_whitespaces = message.integer(value) != 0


class _Message:
    """One protobuf message: iterates over its fields, and checks the type of a value."""

    def __init__(
        self, path: Path, data: memoryview, offset: int, field: str, number: int = 0
    ) -> None:
        self.number = number  # of the field that holds this message
        self._path = path
        self._data = data
        self._offset = offset  # of the message in the file
        self._pos = 0
        self._field = field

    def error(self, what: str) -> FormatError:
        return FormatError(self._path, self._field, what, self._offset + self._pos)

    def fields(self) -> Iterator[tuple[int, int | memoryview]]:
        """Number and value of each field: an int for a varint, otherwise the bytes."""
        while self._pos < len(self._data):
            tag = self._varint()
            number, wire_type = tag >> 3, tag & 7
            if wire_type == proto.VARINT:
                yield number, self._varint()
            elif wire_type == proto.BYTES:
                yield number, self._take(self._varint())
            elif wire_type in _FIXED_BYTES:
                yield number, self._take(_FIXED_BYTES[wire_type])
            else:
                raise self.error(f"unknown wire type {wire_type}")

    def submessages(self) -> Iterator[_Message]:
        """The fields that hold messages; all of a ModelProto's do."""
        for i, (number, value) in enumerate(self.fields()):
            body = self.bytes_(value)
            start = self._offset + self._pos - len(body)
            yield _Message(self._path, body, start, f"{self._field}.{number}[{i}]", number)

    def integer(self, value: int | memoryview) -> int:
        """A varint as a signed 64-bit number."""
        if not isinstance(value, int):
            raise self.error("a number is expected here")
        return value - (1 << 64) if value >> 63 else value

    def bytes_(self, value: int | memoryview) -> memoryview:
        if isinstance(value, int):
            raise self.error("bytes are expected here")
        return value

    def float32(self, value: int | memoryview) -> float:
        raw = self.bytes_(value)
        if len(raw) != 4:
            raise self.error("a float32 is expected here")
        return float(struct.unpack("<f", raw)[0])

    def text(self, value: int | memoryview) -> str:
        try:
            return str(self.bytes_(value), "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"the text is not UTF-8 ({error.reason})") from None

    def _varint(self) -> int:
        value = 0
        for i, byte in enumerate(self._data[self._pos : self._pos + _MAX_VARINT_BYTES]):
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                self._pos += i + 1
                return value & (2**64 - 1)
        raise self.error("a number runs past its end")

    def _take(self, n_bytes: int) -> memoryview:
        left = len(self._data) - self._pos
        if n_bytes > left:
            raise self.error(f"a field of {n_bytes} bytes, {left} are left")
        self._pos += n_bytes
        return self._data[self._pos - n_bytes : self._pos]
