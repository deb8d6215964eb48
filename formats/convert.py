"""Converting a checkpoint to one GGUF file.

``python -m pymixtral.formats.convert SRC OUT --type q8_0``
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import names
from .blocks import TYPES, TypeId, dequantize, quantize, row_bytes
from .checkpoint import Checkpoint, open_checkpoint
from .errors import FormatError
from .gguf import MAGIC, ValueType, open_gguf
from .gguf_writer import GGUFWriter
from .hf_vocabulary import read_hf_vocabulary
from .hparams import ARCHITECTURE, HParams, read_hparams
from .layouts import Source
from .names import TensorRole
from .vocabulary import Vocabulary, read_vocabulary

Floats = npt.NDArray[np.float32]
Encoder = Callable[[Floats], bytes]  # (rows, columns) to the bytes of that many rows
Progress = Callable[[str, int, int], None]
Metadata = Iterator[tuple[str, Any, ValueType]]

# Name of a target to the type of its matrices, and general.file_type (llama_ftype of llama.cpp).
TARGETS: dict[str, tuple[TypeId, int]] = {
    "f32": (TypeId.F32, 0),
    "f16": (TypeId.F16, 1),
    "q8_0": (TypeId.Q8_0, 7),
    "bf16": (TypeId.BF16, 32),
}

# How to encode each type; an engine's faster functions can take their places.
ENCODERS: dict[TypeId, Encoder] = {
    type_id: lambda values, type_id=type_id: quantize(values, type_id)  # type: ignore[misc]
    for type_id, _ in TARGETS.values()
}

_QUANTIZATION_VERSION = 2  # of the block formats, GGML_QNT_VERSION

# Small, and read by every token: they stay in float32.
_KEPT_F32 = {
    TensorRole.OUTPUT_NORM,
    TensorRole.ATTN_NORM,
    TensorRole.FFN_NORM,
    TensorRole.FFN_GATE_INP,
}

# Tensors that may be in a checkpoint though they follow from the hyperparameters.
_DERIVED_SUFFIX = ".rotary_emb.inv_freq"

CHUNK_VALUES = 1 << 21  # encoded at a time, in whole rows


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to write: its parts follow one another along the first dimension."""

    name: str
    type_id: TypeId
    shape: tuple[int, ...]
    parts: list[Source]

    @property
    def n_bytes(self) -> int:
        n_rows = int(np.prod(self.shape[:-1], dtype=object))
        return n_rows * row_bytes(self.type_id, self.shape[-1])


@dataclass(slots=True)
class Summary:
    """What a conversion did.

    Attributes:
        errors: name to root-mean-square error relative to the tensor's root mean square, of the
            tensors that were rounded in this run.
    """

    n_bytes: int  # of the file
    n_tensors: int
    n_weights: int
    n_resumed: int  # tensors that an earlier run had written
    errors: dict[str, float] = field(default_factory=dict)


class Conversion:
    """A checkpoint and the file that it is to become: look at the plan, then `run` it.

    The checkpoint is one that `open_checkpoint` knows, of a Mixtral or of a dense Mistral or Llama.
    A context manager.

    Args:
        src: its folder, or a file of it.
        out: the GGUF file.
        type: a key of `TARGETS`. Norms and routers stay F32. A matrix whose rows do not fill the
            type's blocks becomes F16.
        origin: of `checkpoint.ORIGINS`; None: found by content.
        name: for ``general.name``; the folder's name by default.
        license: an SPDX expression for ``general.license``.

    Attributes:
        targets: the tensors to write, in the file's order.
        warnings: what had to be assumed.

    Raises:
        FormatError: a source file is malformed, incomplete, or asks for something unsupported;
            `out` is one of them.
        ValueError: `type` is not known.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        src: str | os.PathLike[str],
        out: str | os.PathLike[str],
        type: str,
        *,
        origin: str | None = None,
        name: str | None = None,
        license: str | None = None,
    ) -> None:
        if type not in TARGETS:
            raise ValueError(f"type {type!r} is none of {', '.join(TARGETS)}")
        type_id, file_type = TARGETS[type]
        self.out = Path(out)
        self._checkpoint = open_checkpoint(Path(src), origin)
        try:
            checkpoint = self._checkpoint
            _check_not_a_source(self.out, checkpoint)
            vocabulary, assumed = read_hf_vocabulary(checkpoint.folder, checkpoint.hparams.n_vocab)
            self.warnings = (*checkpoint.warnings, *assumed)
            self.targets = list(_plan(checkpoint, type_id))
            _check_sources(checkpoint, self.targets)
            self._metadata = list(
                chain(
                    general_metadata(name or checkpoint.folder.resolve().name, license, file_type),
                    hparams_metadata(checkpoint.hparams),
                    vocabulary_metadata(vocabulary),
                )
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._checkpoint.tensors.close()

    @property
    def n_bytes(self) -> int:
        """Of all tensors, less padding and the header, which take a few megabytes at most."""
        return sum(target.n_bytes for target in self.targets)

    @property
    def n_free(self) -> int:
        """Bytes that the disk of `out` has left."""
        return shutil.disk_usage(self.out.absolute().parent).free

    def run(
        self,
        progress: Progress | None = None,
        *,
        threads: int = 1,
        resume: bool = False,
        encoders: Mapping[TypeId, Encoder] = ENCODERS,
    ) -> Summary:
        """Write the file. It is checked before it takes its place.

        At any time a few chunks of rows are in memory; of a tensor that is to be transposed or
        un-permuted, the whole tensor in its stored type.

        Args:
            progress: called with a tensor's name and the bytes written of all, after each chunk.
            threads: that encode. The file's bytes do not depend on them.
            resume: go on from the last whole tensor of a run that was killed, and keep what there
                is if this one is stopped.
            encoders: for each type of `targets`.

        Raises:
            FormatError: a weight cannot be encoded, or the result is not a valid model.
            OSError: a file cannot be read or written, or the disk lacks the room.
        """
        targets, done, total = self.targets, 0, self.n_bytes
        with _writing(self.out, check=_check_result, job=self._job(), resume=resume) as writer:
            for key, value, kind in self._metadata:
                writer.add(key, value, kind)
            for target in targets:
                writer.declare(target.name, target.type_id, target.shape)
            n_resumed = writer.begin()
            done = sum(target.n_bytes for target in targets[:n_resumed])
            self._check_room(total - done)
            errors: dict[str, _Error] = {}
            with _Pipeline(threads) as pipeline:
                jobs = chain.from_iterable(
                    self._chunks(target, encoders) for target in targets[n_resumed:]
                )
                for name, encoded, error in pipeline.map(jobs):
                    writer.write(name, encoded)
                    errors.setdefault(name, _Error()).add(error)
                    done += len(encoded)
                    if progress is not None:
                        progress(name, done, total)
        return Summary(
            n_bytes=self.out.stat().st_size,
            n_tensors=len(targets),
            n_weights=sum(int(np.prod(target.shape, dtype=object)) for target in targets),
            n_resumed=n_resumed,
            errors={name: error.relative for name, error in errors.items() if error.noise},
        )

    def _chunks(self, target: Target, encoders: Mapping[TypeId, Encoder]) -> Iterator[_Job]:
        """The work of a tensor, in the order of its bytes."""
        tensors = self._checkpoint.tensors
        for part in target.parts:
            stored, type_id = part.load(tensors)
            rows = stored.reshape(-1, stored.shape[-1])
            n = max(1, CHUNK_VALUES // rows.shape[1])
            for start in range(0, len(rows), n):
                yield _Job(target, part, self, rows[start : start + n], type_id, encoders)
            tensors.release(part.name)

    def error(self, part: Source, target: Target, what: object) -> FormatError:
        return self._checkpoint.tensors.error(part.name, f"{what} (wanted {target.type_id.name})")

    def _check_room(self, n_bytes: int) -> None:
        if n_bytes > self.n_free:
            what = f"needs {n_bytes:,} bytes, {self.n_free:,} are free; the disk is too full"
            raise OSError(errno.ENOSPC, what, os.fspath(self.out))

    def _job(self) -> str:
        """A digest of input and options, by the files' sizes and times."""
        digest = hashlib.sha256()
        for path in self._checkpoint.tensors.paths:
            status = path.stat()
            digest.update(f"{path.name}:{status.st_size}:{status.st_mtime_ns}\n".encode())
        for target in self.targets:
            digest.update(f"{target}\n".encode())
        return digest.hexdigest()


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    type: str,
    progress: Progress | None = None,
    *,
    name: str | None = None,
    license: str | None = None,
) -> Summary:
    """Convert checkpoint `src` to the GGUF file `out`; see `Conversion`."""
    with Conversion(src, out, type, name=name, license=license) as conversion:
        return conversion.run(progress)


@dataclass(frozen=True, slots=True)
class _Job:
    """Some rows of a tensor, to be encoded."""

    target: Target
    part: Source
    conversion: Conversion
    rows: npt.NDArray[Any]  # as stored
    type_id: TypeId
    encoders: Mapping[TypeId, Encoder]

    def run(self) -> tuple[str, bytes, tuple[float, float]]:
        """The tensor's name, the rows' bytes, and the squares' sums of values and of errors."""
        wanted = self.target.type_id
        stored = np.ascontiguousarray(self.rows)
        if self.type_id == wanted:
            return self.target.name, stored.tobytes(), (0.0, 0.0)
        values = dequantize(stored.data, self.type_id, stored.shape)
        try:
            encoded = self.encoders[wanted](values)
        except FormatError:
            raise
        except ValueError as error:
            raise self.conversion.error(self.part, self.target, error) from None
        with np.errstate(invalid="ignore", over="ignore"):
            errors = values - dequantize(encoded, wanted, values.shape)
            return self.target.name, encoded, (_square_sum(values), _square_sum(errors))


class _Pipeline:
    """Runs jobs in threads, a few ahead of the one whose result is wanted; in order."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, jobs: Iterator[_Job]) -> Iterator[tuple[str, bytes, tuple[float, float]]]:
        ahead: deque[Future[tuple[str, bytes, tuple[float, float]]]] = deque()
        for job in jobs:
            ahead.append(self._pool.submit(job.run))
            if len(ahead) > self._threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@dataclass(slots=True)
class _Error:
    """Sums of squares over a tensor."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, sums: tuple[float, float]) -> None:
        self.signal += sums[0]
        self.noise += sums[1]

    @property
    def relative(self) -> float:
        return float(np.sqrt(self.noise / self.signal)) if self.signal else np.inf


def _square_sum(values: Floats) -> float:
    flat = values.ravel()
    return float(np.dot(flat, flat))


@contextmanager
def _writing(out: Path, **options: Any) -> Iterator[GGUFWriter]:
    """A writer whose errors name the file."""
    try:
        with GGUFWriter(out, **options) as writer:
            yield writer
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(out)
        raise


def _plan(checkpoint: Checkpoint, type_id: TypeId) -> Iterator[Target]:
    """The tensors to write, in the file's order."""
    for name, shape in checkpoint.hparams.tensor_shapes():
        parsed = names.parse_name(name)
        if parsed is None:
            raise ValueError(f"{name} is not in the table of names")
        role, layer = parsed
        parts = list(checkpoint.layout.sources(role, layer, shape, checkpoint.hparams))
        yield Target(name, _type_for(role, shape, type_id), shape, parts)


def _type_for(role: TensorRole, shape: tuple[int, ...], wanted: TypeId) -> TypeId:
    if role in _KEPT_F32:
        return TypeId.F32
    return TypeId.F16 if shape[-1] % TYPES[wanted].block_size else wanted


def _check_sources(checkpoint: Checkpoint, targets: list[Target]) -> None:
    """Every source is there in its shape, and nothing is left over."""
    tensors, hparams = checkpoint.tensors, checkpoint.hparams
    shapes = {part.name: part.shape for target in targets for part in target.parts}
    for name, shape in shapes.items():
        if name not in tensors:
            raise tensors.error(name, f"is missing, must have shape {shape}")
        if tensors.shape(name) != shape:
            raise tensors.error(name, f"has shape {tensors.shape(name)}, must have {shape}")
    ignored = {checkpoint.layout.names[TensorRole.OUTPUT]} if hparams.tied_output else set()
    for name in tensors:
        if name not in shapes and name not in ignored and not name.endswith(_DERIVED_SUFFIX):
            raise tensors.error(name, "is not understood, and may change the model's result")


def _check_not_a_source(out: Path, checkpoint: Checkpoint) -> None:
    """A file of the checkpoint's folder may be replaced if it is a GGUF file."""
    if not out.is_file():
        return
    with open(out, "rb") as file:
        is_gguf = file.read(len(MAGIC)) == MAGIC
    if not is_gguf and any(out.samefile(f) for f in checkpoint.folder.iterdir() if f.exists()):
        raise FormatError(out, "file", "is a source of this conversion; write elsewhere")


def _check_result(path: Path) -> None:
    with open_gguf(path) as gguf:
        read_hparams(gguf)
        read_vocabulary(gguf)


def general_metadata(name: str, license: str | None, file_type: int) -> Metadata:
    """``general.*``; `file_type` is llama.cpp's llama_ftype."""
    yield "general.architecture", ARCHITECTURE, ValueType.STRING
    yield "general.type", "model", ValueType.STRING
    yield "general.name", name, ValueType.STRING
    if license is not None:
        yield "general.license", license, ValueType.STRING
    yield "general.file_type", file_type, ValueType.UINT32
    yield "general.quantization_version", _QUANTIZATION_VERSION, ValueType.UINT32


def hparams_metadata(hparams: HParams) -> Metadata:
    """``llama.*``, as `read_hparams` reads them."""
    integers = {
        "vocab_size": hparams.n_vocab,
        "context_length": hparams.n_ctx_train,
        "embedding_length": hparams.dim,
        "block_count": hparams.n_layers,
        "feed_forward_length": hparams.ffn_dim,
        "attention.head_count": hparams.n_heads,
        "attention.head_count_kv": hparams.n_kv_heads,
        "attention.key_length": hparams.head_dim,
        "attention.value_length": hparams.head_dim,
        "rope.dimension_count": hparams.n_rot,
    }
    if hparams.n_experts:
        integers["expert_count"] = hparams.n_experts
        integers["expert_used_count"] = hparams.n_experts_used
    if hparams.sliding_window:
        integers["attention.sliding_window"] = hparams.sliding_window
    for key, value in integers.items():
        yield f"{ARCHITECTURE}.{key}", value, ValueType.UINT32
    epsilon_key = f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon"
    yield epsilon_key, hparams.norm_eps, ValueType.FLOAT32
    yield f"{ARCHITECTURE}.rope.freq_base", hparams.rope_theta, ValueType.FLOAT32


def vocabulary_metadata(vocabulary: Vocabulary) -> Metadata:
    """``tokenizer.*``, as `read_vocabulary` reads them."""
    yield "tokenizer.ggml.model", vocabulary.model, ValueType.STRING
    yield "tokenizer.ggml.pre", "default", ValueType.STRING
    yield "tokenizer.ggml.tokens", vocabulary.tokens, ValueType.ARRAY
    yield "tokenizer.ggml.scores", vocabulary.scores, ValueType.ARRAY
    yield "tokenizer.ggml.token_type", vocabulary.types, ValueType.ARRAY
    ids = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "unknown": vocabulary.unk_id}
    for name, token_id in ids.items():
        if token_id is not None:
            yield f"tokenizer.ggml.{name}_token_id", token_id, ValueType.UINT32
    yield "tokenizer.ggml.add_bos_token", vocabulary.add_bos, ValueType.BOOL
    yield "tokenizer.ggml.add_eos_token", vocabulary.add_eos, ValueType.BOOL
    yield "tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix, ValueType.BOOL
    if vocabulary.chat_template is not None:
        yield "tokenizer.chat_template", vocabulary.chat_template, ValueType.STRING


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pymixtral.formats.convert",
        description="Convert a checkpoint of a Mixtral, Mistral or Llama to GGUF.",
    )
    parser.add_argument("src", type=Path, help="folder with config, weights and tokenizer")
    parser.add_argument("out", type=Path, help="GGUF file to write")
    parser.add_argument("--type", choices=TARGETS, default="q8_0", help="default: %(default)s")
    parser.add_argument("--name", help="general.name; default: the folder's name")
    parser.add_argument("--license", help="general.license, as an SPDX expression")
    options = parser.parse_args(arguments)
    try:
        convert(options.src, options.out, options.type, name=options.name, license=options.license)
    except (FormatError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
