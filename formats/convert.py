"""Converting a checkpoint to one GGUF file."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import names
from .blocks import TypeId, row_bytes
from .checkpoint import Checkpoint, open_checkpoint
from .errors import FormatError
from .gguf import MAGIC, ValueType
from .hf_vocabulary import read_hf_vocabulary
from .hparams import ARCHITECTURE, HParams
from .imatrix import ImportanceMatrix
from .layouts import Source
from .names import TensorRole
from .output import check_room, free_bytes, job_name, writing_model
from .quantize import Encoded, Encoder, encode_with_numpy
from .recipes import RECIPES, Recipe
from .vocabulary import BYTE_LEVEL, Vocabulary

Progress = Callable[[str, int, int], None]
Metadata = Iterator[tuple[str, Any, ValueType]]

_QUANTIZATION_VERSION = 2  # of the block formats, GGML_QNT_VERSION

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
        type: a recipe, or a key of `RECIPES`. Norms and routers become F32, for they are small and
            read by every token.
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
        type: str | Recipe,
        *,
        origin: str | None = None,
        name: str | None = None,
        license: str | None = None,
    ) -> None:
        if isinstance(type, str) and type not in RECIPES:
            raise ValueError(f"type {type!r} is none of {', '.join(RECIPES)}")
        recipe = RECIPES[type] if isinstance(type, str) else type
        self.out = Path(out)
        self._checkpoint = open_checkpoint(Path(src), origin)
        try:
            checkpoint = self._checkpoint
            _check_not_a_source(self.out, checkpoint)
            vocabulary, assumed = read_hf_vocabulary(checkpoint.folder, checkpoint.hparams.n_vocab)
            self.warnings = (*checkpoint.warnings, *assumed)
            self.targets = list(_plan(checkpoint, recipe))
            _check_sources(checkpoint, self.targets)
            self._metadata = list(
                chain(
                    general_metadata(
                        name or checkpoint.folder.resolve().name, license, recipe.file_type
                    ),
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
    def hparams(self) -> HParams:
        return self._checkpoint.hparams

    @property
    def n_bytes(self) -> int:
        """Of all tensors, less padding and the header, which take a few megabytes at most."""
        return sum(target.n_bytes for target in self.targets)

    @property
    def n_free(self) -> int:
        """Bytes that the disk of `out` has left."""
        return free_bytes(self.out)

    def run(
        self,
        progress: Progress | None = None,
        *,
        threads: int = 1,
        resume: bool = False,
        encode: Encoder = encode_with_numpy,
        imatrix: ImportanceMatrix | None = None,
    ) -> Summary:
        """Write the file. It is checked before it takes its place.

        At any time a few chunks of rows are in memory; of a tensor that is to be transposed or
        un-permuted, the whole tensor in its stored type.

        Args:
            progress: called with a tensor's name and the bytes written of all, after each chunk.
            threads: that encode. The file's bytes do not depend on them.
            resume: go on from the last whole tensor of a run that was killed, and keep what there
                is if this one is stopped.
            encode: called from several threads at once. The default is the slow reference.

        Raises:
            FormatError: a weight cannot be encoded, `imatrix` does not fit the model, or the result
                is not a valid model.
            OSError: a file cannot be read or written, or the disk lacks the room.
        """
        targets, done, total = self.targets, 0, self.n_bytes
        options = [*targets, imatrix and imatrix.digest()]
        job = job_name(self._checkpoint.tensors.paths, options)
        with writing_model(self.out, job, resume=resume) as writer:
            for key, value, kind in self._metadata:
                writer.add(key, value, kind)
            for target in targets:
                writer.declare(target.name, target.type_id, target.shape)
            n_resumed = writer.begin()
            done = sum(target.n_bytes for target in targets[:n_resumed])
            check_room(self.out, total - done, self.n_free)
            errors: dict[str, _Error] = {}
            with _Pipeline(threads) as pipeline:
                jobs = chain.from_iterable(
                    self._chunks(target, encode, imatrix) for target in targets[n_resumed:]
                )
                for name, encoded in pipeline.map(jobs):
                    writer.write(name, encoded.data)
                    errors.setdefault(name, _Error()).add(encoded)
                    done += len(encoded.data)
                    if progress is not None:
                        progress(name, done, total)
        return Summary(
            n_bytes=self.out.stat().st_size,
            n_tensors=len(targets),
            n_weights=sum(int(np.prod(target.shape, dtype=object)) for target in targets),
            n_resumed=n_resumed,
            errors={name: error.relative for name, error in errors.items() if error.noise},
        )

    def _chunks(
        self, target: Target, encode: Encoder, imatrix: ImportanceMatrix | None
    ) -> Iterator[_Job]:
        """The work of a tensor, in the order of its bytes."""
        tensors = self._checkpoint.tensors
        importance = None if imatrix is None else imatrix.of(target.name, target.shape)
        for i, part in enumerate(target.parts):
            columns = None if importance is None else importance[i]
            stored, type_id = part.load(tensors)
            rows = stored.reshape(-1, stored.shape[-1])
            n = max(1, CHUNK_VALUES // rows.shape[1])
            for start in range(0, len(rows), n):
                yield _Job(target, part, self, rows[start : start + n], type_id, encode, columns)
            tensors.release(part.name)

    def error(self, part: Source, target: Target, what: object) -> FormatError:
        return self._checkpoint.tensors.error(part.name, f"{what} (wanted {target.type_id.name})")


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
    encode: Encoder
    importance: npt.NDArray[np.float32] | None  # (n_cols,)

    def run(self) -> tuple[str, Encoded]:
        """The tensor's name, and the rows in its type."""
        wanted = self.target.type_id
        stored = np.ascontiguousarray(self.rows)
        data = stored.data.cast("B")
        if self.type_id == wanted:
            return self.target.name, Encoded(data, 0, 0)
        try:
            encoded = self.encode(data, self.type_id, wanted, stored.shape[-1], self.importance)
        except ValueError as error:
            raise self.conversion.error(self.part, self.target, error) from None
        return self.target.name, encoded


class _Pipeline:
    """Runs jobs in threads, a few ahead of the one whose result is wanted; in order."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, jobs: Iterator[_Job]) -> Iterator[tuple[str, Encoded]]:
        ahead: deque[Future[tuple[str, Encoded]]] = deque()
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

    def add(self, encoded: Encoded) -> None:
        self.signal += encoded.square
        self.noise += encoded.error

    @property
    def relative(self) -> float:
        return float(np.sqrt(self.noise / self.signal)) if self.signal else np.inf


def _plan(checkpoint: Checkpoint, recipe: Recipe) -> Iterator[Target]:
    """The tensors to write, in the file's order."""
    for name, shape in checkpoint.hparams.tensor_shapes():
        parsed = names.parse_name(name)
        if parsed is None:
            raise ValueError(f"{name} is not in the table of names")
        role, layer = parsed
        parts = list(checkpoint.layout.sources(role, layer, shape, checkpoint.hparams))
        kind = recipe.type_of(name, shape, checkpoint.hparams)
        yield Target(name, TypeId.F32 if kind is None else kind, shape, parts)


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
    yield "tokenizer.ggml.pre", vocabulary.pre or "default", ValueType.STRING
    yield "tokenizer.ggml.tokens", vocabulary.tokens, ValueType.ARRAY
    if vocabulary.model == BYTE_LEVEL:
        merges = list(map(" ".join, vocabulary.merges))
        yield "tokenizer.ggml.merges", merges, ValueType.ARRAY
    else:
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
