"""A conversation in a file, to go on with it another day.

The file is JSON:

    {"pymixtral_chat": 1, "model": fingerprint, "template": version, "system": text or null,
     "turns": [{"question": text, "answer_ids": [id, ...]}, ...], "seed": 0 ... 2^64 - 1}

Answers are the ids that the model generated, because encoding their text again can give others. A
file is taken for hostile when it is read: nothing in it is used before all of it has been checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from pymixtral.errors import ChatError
from pymixtral.formats import FormatError
from pymixtral.formats.safetensors import read_json_file

FORMAT = "pymixtral_chat"
VERSION = 1
MAX_BYTES = 16 << 20
MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class SavedChat:
    """What a file holds.

    Attributes:
        model: fingerprint of the model's file.
        template: version of the chat template.
        system: the system prompt, or None.
        turns: questions, each with the ids of its answer.
        seed: where the random stream of the next answer begins.
    """

    model: str
    template: str
    system: str | None
    turns: tuple[tuple[str, tuple[int, ...]], ...]
    seed: int

    def write(self, path: Path) -> None:
        """Write the file, readable by its owner alone; an older one is replaced when all is there.

        Raises:
            ChatError: what is at `path` is no saved chat, and so is not replaced.
            OSError: it cannot be written.
        """
        if path.exists() and not _is_saved_chat(path):
            raise ChatError(f"{path} exists and is no saved chat; choose another name")
        text = json.dumps(
            {
                FORMAT: VERSION,
                "model": self.model,
                "template": self.template,
                "system": self.system,
                "turns": [{"question": q, "answer_ids": ids} for q, ids in self.turns],
                "seed": self.seed,
            }
        )
        with NamedTemporaryFile("w", dir=path.parent, prefix=".chat", delete=False) as file:
            try:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise


def read_saved_chat(path: Path, model: str, n_vocab: int) -> SavedChat:
    """Read and check a file.

    Args:
        model: fingerprint of the model that is to go on with the conversation.
        n_vocab: number of its tokens, which bounds the ids.

    Raises:
        ChatError: it was saved with another model.
        FormatError: it is no saved chat, or a damaged or crafted one.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise FormatError(path, "file", "is no regular file")
    values = read_json_file(path, MAX_BYTES)
    if values.get(FORMAT) != VERSION:
        raise FormatError(path, FORMAT, f"must be {VERSION}; this is no chat that /save wrote")
    reader = _Reader(path, n_vocab)
    reader.check_keys("file", values, {FORMAT, "model", "template", "system", "turns", "seed"})
    system = values["system"]
    if reader.text("model", values["model"]) != model:
        raise ChatError(f"{path} was saved with another model; start the chat with that one")
    return SavedChat(
        model=model,
        template=reader.text("template", values["template"]),
        system=None if system is None else reader.text("system", system),
        turns=tuple(reader.turns(values["turns"])),
        seed=reader.integer("seed", values["seed"], MAX_SEED),
    )


class _Reader:
    """Checks values, and names the field of one that is wrong."""

    def __init__(self, path: Path, n_vocab: int) -> None:
        self._path = path
        self._n_vocab = n_vocab

    def check_keys(self, field: str, value: object, keys: set[str]) -> None:
        if not isinstance(value, dict) or value.keys() != keys:
            raise self._error(field, f"must be an object of {', '.join(sorted(keys))}")

    def text(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise self._error(field, "must be a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._error(field, "holds a lone surrogate, which is no character") from None
        return value

    def integer(self, field: str, value: object, largest: int) -> int:
        if type(value) is not int or not 0 <= value <= largest:  # a bool is an int, and no number
            raise self._error(field, f"must be an integer of 0 to {largest}")
        return value

    def turns(self, value: object) -> Iterable[tuple[str, tuple[int, ...]]]:
        for i, turn in enumerate(self._list("turns", value)):
            field = f"turns[{i}]"
            self.check_keys(field, turn, {"question", "answer_ids"})
            yield self.text(f"{field}.question", turn["question"]), self._ids(field, turn)

    def _ids(self, field: str, turn: dict[str, Any]) -> tuple[int, ...]:
        field = f"{field}.answer_ids"
        ids = self._list(field, turn["answer_ids"])
        return tuple(self.integer(f"{field}[{i}]", n, self._n_vocab - 1) for i, n in enumerate(ids))

    def _list(self, field: str, value: object) -> list[Any]:
        if not isinstance(value, list):
            raise self._error(field, "must be a list")
        return value

    def _error(self, field: str, what: str) -> FormatError:
        return FormatError(self._path, field, what)


def _is_saved_chat(path: Path) -> bool:
    try:
        return path.is_file() and read_json_file(path, MAX_BYTES).get(FORMAT) == VERSION
    except (FormatError, OSError):
        return False
