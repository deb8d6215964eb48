"""What is fuzzed: for each format, everything that one file's bytes can reach.

A target takes bytes and returns, whatever they are; `FormatError` is caught, as the one error that
a file may cause, and checked to be one printable line. Anything else that escapes is a finding.
"""

from __future__ import annotations

import os
import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from gguf_files import array, gguf_bytes, key, string

from pymixtral.errors import ParameterError
from pymixtral.formats import FormatError, read_hparams, read_vocabulary
from pymixtral.formats.byte_level_json import is_byte_level, read_byte_level
from pymixtral.formats.gguf import ValueType, open_gguf
from pymixtral.formats.gguf_shards import open_model_file, shard_path
from pymixtral.formats.imatrix import read_imatrix
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS
from pymixtral.formats.safetensors import SafetensorsFile, read_json_file
from pymixtral.formats.sentencepiece_model import read_sentencepiece_model
from pymixtral.formats.tokenizer_json import MAX_JSON_BYTES, read_tokenizer_json
from pymixtral.formats.torch_pickle import read_torch_pickle
from pymixtral.tokenizer import Detokenizer, Tokenizer

Target = Callable[[bytes], None]

SHARD_EDGE = b"\0-edge-\0"


def gguf(content: bytes) -> None:
    """Header, hyperparameters, vocabulary, and each tensor's values."""
    with open_gguf(_file(content)) as file:
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
    types = b"".join(struct.pack("<i", record[0] % 7) for record in records)
    scores = b"".join(struct.pack("<f", record[1] - 128) for record in records)
    pieces = b"".join(string(record[2:]) for record in records)
    columns = {b"tokens": (ValueType.STRING, pieces), b"scores": (ValueType.FLOAT32, scores),
               b"token_type": (ValueType.INT32, types)}  # fmt: skip
    header = gguf_bytes(
        [
            key(b"tokenizer.ggml.model", ValueType.STRING, string(b"llama")),
            *(
                key(b"tokenizer.ggml." + name, ValueType.ARRAY, array(kind, len(records), items))
                for name, (kind, items) in columns.items()
            ),
        ]
    )
    with open_gguf(_file(header)) as file:
        rebuilt = Tokenizer(read_vocabulary(file))
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
    merges = [record[1:] for record in records if record[:1] == b"\t"]
    types = [struct.pack("<i", record[0] % 7) for record in tokens]
    names = sorted(PRE_TOKENIZERS)
    scalars = {b"model": b"gpt2", b"pre": names[(pre or b"\0")[0] % len(names)].encode()}
    columns = {b"tokens": (ValueType.STRING, [string(record[1:]) for record in tokens]),
               b"merges": (ValueType.STRING, [string(merge) for merge in merges]),
               b"token_type": (ValueType.INT32, types)}  # fmt: skip
    keys = [
        key(b"tokenizer.ggml." + name, ValueType.STRING, string(value))
        for name, value in scalars.items()
    ]
    for name, (kind, items) in columns.items():
        value = array(kind, len(items), b"".join(items))
        keys.append(key(b"tokenizer.ggml." + name, ValueType.ARRAY, value))
    with open_gguf(_file(gguf_bytes(keys))) as file:
        rebuilt = Tokenizer(read_vocabulary(file))
    ids = rebuilt.encode(text.decode(errors="replace"))
    rebuilt.decode(ids)
    if inserted := [i for i in ids if rebuilt.control_id(rebuilt.piece(i)) == i]:
        raise RuntimeError(f"text became the tokens {inserted}, which the program alone inserts")


def shards(content: bytes) -> None:
    """A model in several files: the content, cut at each `SHARD_EDGE`."""
    parts = content.split(SHARD_EDGE)[:4]
    with tempfile.TemporaryDirectory() as folder:
        paths = [shard_path(Path(folder) / "m", i, len(parts)) for i in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            path.write_bytes(part)
        with open_model_file(paths[0]) as file:
            read_hparams(file)
            for name, info in file.tensors.items():
                if len(file.data(name)) != info.n_bytes:
                    raise RuntimeError(f"{name} is not whole")


def safetensors(content: bytes) -> None:
    """Header, and each tensor's values."""
    file = SafetensorsFile(_file(content))
    try:
        for name in file.tensors:
            file.array(name)
    finally:
        file.close()


def torch_pickle(content: bytes) -> None:
    """The pickle of a PyTorch checkpoint."""
    read_torch_pickle(Path("data.pkl"), memoryview(content), 2)


def sentencepiece(content: bytes) -> None:
    """A sentencepiece model, as converting reads it."""
    read_sentencepiece_model(_file(content))


def tokenizer_json(content: bytes) -> None:
    """A Hugging Face tokenizer, as converting reads it."""
    path = _file(content)
    found = read_json_file(path, MAX_JSON_BYTES)
    if is_byte_level(found):
        read_byte_level(path, found)
    else:
        read_tokenizer_json(path)


def imatrix(content: bytes) -> None:
    """An importance matrix, of either form."""
    read_imatrix(_file(content), n_experts=8)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        gguf, shards, tokenizer, byte_level, safetensors, torch_pickle, sentencepiece,
        tokenizer_json, imatrix,
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
    except FormatError as error:
        line = str(error)
        if not line.isprintable():
            raise RuntimeError(f"an error that is no printable line: {line!r}") from error


_path = Path(tempfile.gettempdir()) / f"pymixtral-fuzz-{os.getpid()}"


def _file(content: bytes) -> Path:
    """A file that holds `content`, until the next call."""
    _path.unlink(missing_ok=True)  # what was mapped from it stays as it was
    _path.write_bytes(content)
    return _path
