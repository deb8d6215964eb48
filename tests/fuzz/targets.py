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
from pymixtral.formats.gguf import ValueType, open_gguf
from pymixtral.formats.imatrix import read_imatrix
from pymixtral.formats.safetensors import SafetensorsFile
from pymixtral.formats.sentencepiece_model import read_sentencepiece_model
from pymixtral.formats.tokenizer_json import read_tokenizer_json
from pymixtral.formats.torch_pickle import read_torch_pickle
from pymixtral.tokenizer import Detokenizer, Tokenizer

Target = Callable[[bytes], None]


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
    read_tokenizer_json(_file(content))


def imatrix(content: bytes) -> None:
    """An importance matrix, of either form."""
    read_imatrix(_file(content), n_experts=8)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        gguf, tokenizer, safetensors, torch_pickle, sentencepiece, tokenizer_json, imatrix,
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
