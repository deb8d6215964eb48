"""From a file's name to an engine: what is in the file, whether it fits, and binding it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from pymixtral import engine as ce
from pymixtral.errors import ModelLoadError, ParameterError
from pymixtral.formats import FormatError
from pymixtral.formats.gguf import GGUFFile
from pymixtral.formats.gguf_shards import open_model_file
from pymixtral.formats.hparams import HParams, read_hparams
from pymixtral.formats.names import expert_of, parse_name
from pymixtral.formats.packed import open_packed, packed_path
from pymixtral.formats.vocabulary import Vocabulary, read_vocabulary
from pymixtral.memory import MemoryNeed, available_bytes, check_fits
from pymixtral.packer import packed_header

Progress = Callable[[str, int, int], None]

DEFAULT_MAX_CTX = 8192
SHIPPED_MODEL = "storyteller-Q8_0.gguf"


def shipped_model() -> Path:
    """The storyteller, a Mixtral in miniature that is part of the package."""
    return Path(str(files("pymixtral") / "models" / SHIPPED_MODEL))


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model whose headers have been read and checked; its weights are untouched.

    Attributes:
        gguf: the open file.
        hparams, vocabulary: what it says.
    """

    gguf: GGUFFile
    hparams: HParams
    vocabulary: Vocabulary

    @property
    def name(self) -> str:
        """What the file calls its model, or else the file's own name."""
        given = self.gguf.metadata.get("general.name")
        return given if isinstance(given, str) and given else self.gguf.path.name

    @property
    def fingerprint(self) -> str:
        """Tells this model from others by its header's SHA-256 and its weights' size."""
        return f"{sha256(self.gguf.header).hexdigest()}-{self.weight_bytes}"

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.gguf.tensors.values())

    def memory_need(
        self,
        n_ctx: int,
        kv_type: str = "f16",
        options: ce.EngineOptions | None = None,
        n_sessions: int = 1,
    ) -> MemoryNeed:
        """What running it takes, with a KV cache for each session."""
        return MemoryNeed(
            weights=self.weight_bytes,
            kv_cache=ce.kv_bytes(self.hparams, n_ctx, kv_type) * n_sessions,
            scratch=ce.scratch_bytes(self.hparams, options or ce.EngineOptions()),
        )

    def choose_n_ctx(self, n_ctx: int | None) -> int:
        """The context to use: `n_ctx`, or else min(the model's, 8192).

        Raises:
            ParameterError: out of 1 to the model's own.
        """
        longest = self.hparams.n_ctx_train
        if n_ctx is None:
            return min(longest, DEFAULT_MAX_CTX)
        if not 1 <= n_ctx <= longest:
            raise ParameterError(f"n_ctx must be 1 to {longest} (the model's), not {n_ctx}")
        return n_ctx


def open_model(path: str | os.PathLike[str] | None = None, *, use_mmap: bool = True) -> ModelFile:
    """Open a model (the shipped one, without a path) and read its headers.

    Args:
        path: a GGUF file, or the first of several: shards or byte splits.

    Raises:
        ModelLoadError: there is no such file, or it cannot be read.
        FormatError: the file is malformed, or asks for what is not supported.
    """
    path = shipped_model() if path is None else Path(path)
    if path.is_dir():
        raise ModelLoadError(f"{path} is a folder; name the GGUF file")
    try:
        gguf = open_model_file(path, use_mmap=use_mmap)
    except OSError as error:
        name = error.filename or path
        raise ModelLoadError(f"cannot open {name}: {error.strerror or error}") from error
    try:
        return ModelFile(gguf, read_hparams(gguf), read_vocabulary(gguf))
    except BaseException:
        gguf.close()
        raise


class WeightLayout(StrEnum):
    """How an engine has a model's weights."""

    ROWS = "rows"  # as the file has them
    COPIED = "copied"  # repacked while the model was loaded
    PACKED = "packed"  # repacked in the file that lies beside the model


class LoadedEngine(NamedTuple):
    """What `create_engine` returns.

    Attributes:
        layout: of the weights that can be repacked.
        warnings: why weights are not in the layout that was asked for or lies beside the model.
    """

    engine: ce.Engine
    memory_need: MemoryNeed
    layout: WeightLayout
    warnings: tuple[str, ...]


def create_engine(
    model: ModelFile,
    *,
    n_ctx: int,
    kv_type: str = "f16",
    options: ce.EngineOptions | None = None,
    n_sessions: int = 1,
    check_memory: bool = True,
    repack: bool | None = None,
    progress: Progress | None = None,
) -> LoadedEngine:
    """Bind a model's tensors to an engine.

    Args:
        repack: False: leave the weights as the file has them; None: map the packed file beside the
            model, if there is one that fits; True: do so, or else copy the weights into the layout
            that the kernels read fastest.
        progress: called with a tensor's name, and bytes done and in all, while they are copied.

    Raises:
        InsufficientMemoryError: it does not fit, which is found out before anything is loaded.
        ModelLoadError: a tensor's type has no kernel.
    """
    need, available = model.memory_need(n_ctx, kv_type, options, n_sessions), available_bytes()
    if check_memory:
        check_fits(need, n_ctx, available, n_sessions)
    tensors = _engine_tensors(model.gguf)
    engine = ce.Engine(model.hparams, list(tensors.values()), options)
    try:
        layout, warnings = (
            (WeightLayout.ROWS, ())
            if repack is False
            else _use_packed_file(engine, model.gguf, tensors)
        )
        if repack and layout is WeightLayout.ROWS:
            layout = _copy(engine, model.gguf, tensors, progress)
            if layout is WeightLayout.ROWS:
                reason = f"tier {engine.tier} has no other layout for this model's weights"
                warnings += (f"repack changes nothing: {reason}",)
        elif need.fits(available):
            engine.read_ahead()
    except BaseException:
        engine.close()
        raise
    return LoadedEngine(engine, need, layout, warnings)


def _use_packed_file(
    engine: ce.Engine, gguf: GGUFFile, tensors: Mapping[str, ce.EngineTensor]
) -> tuple[WeightLayout, tuple[str, ...]]:
    """Map the packed file beside the model. One that does not fit is no reason not to load."""
    path = packed_path(gguf.path)
    if not os.path.lexists(path):
        return WeightLayout.ROWS, ()
    try:
        packed = open_packed(path, packed_header(gguf), _trusted_owners(gguf))
    except (FormatError, OSError) as error:
        reason = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        advice = f"it is not used; run `pymixtral pack {gguf.path}` again, or delete it"
        return WeightLayout.ROWS, (f"{reason}; {advice}",)
    with packed:  # the engine's views keep it mapped
        names = [name for name in packed.tensors if name in tensors]
        used = [engine.use_repacked(tensors[name], packed.data(name)) for name in names]
    return WeightLayout.PACKED if any(used) else WeightLayout.ROWS, ()


def _trusted_owners(gguf: GGUFFile) -> set[int]:
    """This user, root, and whoever could have written another model instead."""
    return {os.geteuid(), 0, gguf.path.stat().st_uid}


def _copy(
    engine: ce.Engine,
    gguf: GGUFFile,
    tensors: Mapping[str, ce.EngineTensor],
    progress: Progress | None,
) -> WeightLayout:
    """One tensor after the other, so that no more than one is in memory twice."""
    done, total = 0, sum(len(tensor.data) for tensor in tensors.values())
    layout = WeightLayout.ROWS
    for name, tensor in tensors.items():
        if engine.repack(tensor) > 0:
            gguf.release(name)
            layout = WeightLayout.COPIED
        done += len(tensor.data)
        if progress is not None:
            progress(name, done, total)
    return layout


def _engine_tensors(gguf: GGUFFile) -> dict[str, ce.EngineTensor]:
    supported = ce.TENSOR_TYPES.values()
    tensors = {}
    for name, info in gguf.tensors.items():
        place = parse_name(name)
        if place is None:
            raise gguf.error(f"tensor {name}", "is not understood")
        if info.type not in supported:
            raise ModelLoadError(
                f"{gguf.path}: tensor {name} has type {info.type_name}, which cannot be run yet; "
                f"these can: {', '.join(ce.TENSOR_TYPES)}"
            )
        role, layer = place
        data, expert = gguf.data(name), expert_of(name)
        tensors[name] = ce.EngineTensor(role, layer or 0, info.type, info.ne, data, expert)
    return tensors
