"""What is fuzzed: for each format, everything that one file's bytes can reach.

A target takes bytes and returns, whatever they are. `FormatError` is caught, as the one error that
a file may cause (and `ChatError`, where it is about a chat), and checked to be one printable line.
Anything else that escapes is a finding.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from fuzz.template_target import chat_template
from packed_files import SMALL

from pymixtral.chat import Conversation, read_saved_chat
from pymixtral.errors import ChatError, ParameterError
from pymixtral.formats import FormatError, read_hparams, read_vocabulary
from pymixtral.formats.byte_level_json import is_byte_level, read_byte_level
from pymixtral.formats.gguf import GGUFFile, ValueType, open_gguf
from pymixtral.formats.gguf_shards import open_model_file, shard_path
from pymixtral.formats.imatrix import read_imatrix
from pymixtral.formats.packed import open_packed
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS
from pymixtral.formats.safetensors import SafetensorsFile, read_json_file
from pymixtral.formats.sentencepiece_model import read_sentencepiece_model
from pymixtral.formats.tokenizer_json import MAX_JSON_BYTES, read_tokenizer_json
from pymixtral.formats.torch_pickle import read_torch_pickle
from pymixtral.tokenizer import Detokenizer, Tokenizer

Target = Callable[[bytes], None]

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a folder in memory, if any
SAVED_MODEL = "model-1"
SHARD_EDGE = b"\0-edge-\0"


def gguf(content: bytes) -> None:
    """Header, hyperparameters, vocabulary, and each tensor's values."""
    with _file(content) as path, open_gguf(path) as file:
        for read in (read_hparams, read_vocabulary):
            _refusable(lambda read=read: read(file))
        for name, info in file.tensors.items():
            if info.n_bytes < 1 << 16:
                file.array(name)


def tokenizer(content: bytes) -> None:
    """A vocabulary, rebuilt for sentencepiece, encodes and decodes.

    Records end in a zero byte: type, score, piece. The last one is the text.
    """
    *records, text = content.split(b"\0")
    records = [record for record in records if len(record) >= 2]
    rebuilt = _tokenizer(
        model="llama",
        tokens=[_as_read(record[2:]) for record in records],
        scores=np.array([record[1] - 128 for record in records], np.float32),
        token_type=np.array([record[0] % 7 for record in records], np.int32),
    )
    try:
        ids = rebuilt.encode(text.decode(errors="replace"))
    except ParameterError:  # a character that the vocabulary cannot express
        return
    detokenizer = Detokenizer(rebuilt)
    shown = "".join(map(detokenizer.push, ids)) + detokenizer.flush()
    if shown != rebuilt.decode(ids):
        raise RuntimeError("the stream of text differs from the text of the whole")


def byte_level(content: bytes) -> None:
    """A byte-level BPE vocabulary, rebuilt, encodes and decodes.

    The first byte picks a pre-tokenizer. Records end in a zero byte: type, token; or a tab, merge.
    The last one is the text.
    """
    pre, (*records, text) = content[:1], content[1:].split(b"\0")
    tokens = [record for record in records if record and record[:1] != b"\t"]
    names = sorted(PRE_TOKENIZERS)
    rebuilt = _tokenizer(
        model="gpt2",
        pre=names[(pre or b"\0")[0] % len(names)],
        tokens=[_as_read(record[1:]) for record in tokens],
        merges=[_as_read(record[1:]) for record in records if record[:1] == b"\t"],
        token_type=np.array([record[0] % 7 for record in tokens], np.int32),
    )
    ids = rebuilt.encode(text.decode(errors="replace"))
    rebuilt.decode(ids)
    if inserted := [i for i in ids if rebuilt.control_id(rebuilt.piece(i)) == i]:
        raise RuntimeError(f"text became the tokens {inserted}, which the program alone inserts")


def shards(content: bytes) -> None:
    """A model in several files: the content, cut at each `SHARD_EDGE`."""
    parts = content.split(SHARD_EDGE)[:4]
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        paths = [shard_path(Path(folder) / "m", i, len(parts)) for i in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            path.write_bytes(part)
        with open_model_file(paths[0]) as file:
            read_hparams(file)
            for name, info in file.tensors.items():
                if len(file.data(name)) != info.n_bytes:
                    raise RuntimeError(f"{name} is not whole")


def packed(content: bytes) -> None:
    """A packed file, as the load of a model maps it: what C is given has the right size."""
    with _file(content) as path, open_packed(path, SMALL) as file:
        for name, size in SMALL.sizes.items():
            if len(file.data(name)) != size:
                raise RuntimeError(f"{name} is not whole")


def safetensors(content: bytes) -> None:
    """Header, and each tensor's values."""
    with _file(content) as path, SafetensorsFile(path) as file:
        for name in file.tensors:
            file.array(name)


def torch_pickle(content: bytes) -> None:
    """The pickle of a PyTorch checkpoint."""
    read_torch_pickle(Path("data.pkl"), memoryview(content), 2)


def sentencepiece(content: bytes) -> None:
    """A sentencepiece model, as converting reads it."""
    with _file(content) as path:
        read_sentencepiece_model(path)


def tokenizer_json(content: bytes) -> None:
    """A Hugging Face tokenizer, as converting reads it."""
    with _file(content) as path:
        found = read_json_file(path, MAX_JSON_BYTES)
        if is_byte_level(found):
            read_byte_level(path, found)
        else:
            read_tokenizer_json(path)


def imatrix(content: bytes) -> None:
    """An importance matrix, of either form."""
    with _file(content) as path:
        read_imatrix(path, n_experts=8)


def saved_chat(content: bytes) -> None:
    """A saved chat goes on where it ended, and says the same when it is saved once more."""
    tokenizer = small_tokenizer()
    with _file(content) as path:
        saved = read_saved_chat(path, SAVED_MODEL, tokenizer.n_vocab)
    conversation = Conversation(tokenizer, saved.system)
    for question, answer_ids in saved.turns:
        conversation.add_user(question)
        conversation.add_answer_ids(answer_ids)
    if not all(0 <= i < tokenizer.n_vocab for i in conversation.ids):
        raise RuntimeError("an id outside the vocabulary")
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "chat"
        saved.write(path)
        if read_saved_chat(path, SAVED_MODEL, tokenizer.n_vocab) != saved:
            raise RuntimeError("a chat that is saved once more is another")


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        gguf, shards, packed, tokenizer, byte_level, safetensors, torch_pickle, sentencepiece,
        tokenizer_json, imatrix, saved_chat, chat_template,
    )
}  # fmt: skip


def run(target: Target, content: bytes) -> None:
    """Gives `content` to `target`, and checks the error that it may cause."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _refusable(lambda: target(content))


def _refusable(read: Callable[[], object]) -> None:
    try:
        read()
    except (FormatError, ChatError) as error:
        line = str(error)
        if not line.isprintable():
            raise RuntimeError(f"an error that is no printable line: {line!r}") from error


@dataclass(frozen=True)
class Metadata:
    """The metadata of a GGUF file that was never written: `gguf` is the target that parses."""

    metadata: dict[str, Any]
    types: dict[str, ValueType]

    def error(self, field: str, what: str, index: int | None = None) -> FormatError:
        return FormatError("vocabulary", field if index is None else f"{field}[{index}]", what)


def _tokenizer(**keys: str | list[str] | npt.NDArray[Any]) -> Tokenizer:
    """The tokenizer of a file with these keys of ``tokenizer.ggml``."""
    metadata = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    types = {
        key: ValueType.STRING if isinstance(value, str) else ValueType.ARRAY
        for key, value in metadata.items()
    }
    return Tokenizer(read_vocabulary(cast(GGUFFile, Metadata(metadata, types))))


@cache
def small_tokenizer() -> Tokenizer:
    return _tokenizer(
        model="llama",
        tokens=["<unk>", "<s>", "</s>", "\u2581", "a", "b"],
        scores=np.zeros(6, np.float32),
        token_type=np.array([2, 3, 3, 1, 1, 1], np.int32),
    )


def _as_read(text: bytes) -> str:
    """A string of a file as `GGUFFile.metadata` holds it."""
    return text.decode(errors="surrogateescape")


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """A file that holds `content`, in memory."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
