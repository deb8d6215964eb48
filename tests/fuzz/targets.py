"""What the fuzzers call with any bytes. Only the errors that are meant for bad files may escape
the code under test; a target returns whether the bytes were good."""

from __future__ import annotations

import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from gguf_files import array, gguf_bytes, key, string

from pymixtral.errors import ModelLoadError, ParameterError
from pymixtral.formats import FormatError, ValueType, open_gguf, read_hparams, read_vocabulary
from pymixtral.formats.gguf_shards import open_model_file, shard_path
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS
from pymixtral.tokenizer import Tokenizer

FOLDER = tempfile.TemporaryDirectory(prefix="pymixtral-fuzz-")
HERE = Path(FOLDER.name)

SEPARATOR = b"\0-shard-\0"


def gguf(data: bytes) -> bool:
    """A model's file: everything that loading it reads."""
    path = HERE / "model.gguf"
    path.write_bytes(data)
    return _reads_as_a_model(path)


def shards(data: bytes) -> bool:
    """Shards, one after another with separators between."""
    parts = data.split(SEPARATOR)[:4]
    paths = [shard_path(HERE / "model", i, len(parts)) for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    return _reads_as_a_model(paths[0])


def _reads_as_a_model(path: Path) -> bool:
    try:
        with open_model_file(path) as file:
            read_hparams(file)
            read_vocabulary(file)
            for name, info in file.tensors.items():
                if len(file.data(name)) != info.n_bytes:
                    raise AssertionError(f"{name} is not whole")
        return True
    except FormatError as error:
        if not str(error).isprintable():
            raise AssertionError("an error of more than one line") from error
        return False


PRES = sorted(PRE_TOKENIZERS)


def tokenizer(data: bytes) -> bool:
    """A vocabulary: what it encodes, and decodes. The first byte chooses a pre-tokenizer (0:
    sentencepiece), then come lines: a text; tokens, after a byte of their type; merges, after a
    tab."""
    choice, text, *lines = data[:1], *data[1:].split(b"\n")
    tokens = [line[1:] for line in lines if line[:1] != b"\t"]
    types = [(line[0] if line else 0) % 8 for line in lines if line[:1] != b"\t"]
    merges = [line[1:] for line in lines if line[:1] == b"\t"]
    n = len(tokens)
    is_byte_level = choice > b"\0"
    keys = [
        key(b"tokenizer.ggml.tokens", ValueType.ARRAY, _strings(tokens)),
        key(
            b"tokenizer.ggml.token_type",
            ValueType.ARRAY,
            array(ValueType.INT32, n, struct.pack(f"<{n}i", *types)),
        ),
        key(
            b"tokenizer.ggml.scores",
            ValueType.ARRAY,
            array(ValueType.FLOAT32, n, struct.pack(f"<{n}f", *range(n))),
        ),
        key(b"tokenizer.ggml.merges", ValueType.ARRAY, _strings(merges)),
        key(
            b"tokenizer.ggml.model",
            ValueType.STRING,
            string(b"gpt2" if is_byte_level else b"llama"),
        ),
    ]
    if is_byte_level:
        pre = PRES[choice[0] % len(PRES)].encode()
        keys.append(key(b"tokenizer.ggml.pre", ValueType.STRING, string(pre)))
    path = HERE / "vocabulary.gguf"
    path.write_bytes(gguf_bytes(keys))
    return _encodes(path, text.decode(errors="replace"))


def _strings(items: list[bytes]) -> bytes:
    return array(ValueType.STRING, len(items), b"".join(map(string, items)))


def _encodes(path: Path, text: str) -> bool:
    try:
        with open_gguf(path) as file, warnings.catch_warnings(action="ignore"):
            found = Tokenizer(read_vocabulary(file))
        ids = found.encode(text)
        found.decode(ids)
    except (FormatError, ModelLoadError, ParameterError):
        return False
    if inserted := {found.piece(i) for i in ids if found.control_id(found.piece(i)) == i}:
        raise AssertionError(f"{text!r} became {inserted}, which the program alone inserts")
    return True


TARGETS: dict[str, Callable[[bytes], bool]] = {
    "gguf": gguf,
    "shards": shards,
    "tokenizer": tokenizer,
}
