"""Recognising a checkpoint: Hugging Face's, or Mistral AI's own, in safetensors or PyTorch files.

Files are told by their first bytes and the names of their tensors, not by their own names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from . import hf_config, mistral_config, names, torch_checkpoint
from .byte_splits import find_pieces, group_splits
from .errors import FormatError
from .gguf import MAGIC as GGUF_MAGIC
from .hf_config import read_hf_config
from .hparams import HParams
from .layouts import Layout, find_hf_layout, find_mistral_layout
from .mistral_config import read_mistral_config
from .names import TensorRole
from .safetensors import SafetensorsFile
from .shards import Shards, TensorFile, open_indexed
from .torch_checkpoint import TorchFile

HF, MISTRAL = "hf", "mistral"
ORIGINS = (HF, MISTRAL)

# Indices of Hugging Face folders; the first that is there counts.
_INDICES: dict[str, Callable[[Path], TensorFile]] = {
    "model.safetensors.index.json": SafetensorsFile,
    "pytorch_model.bin.index.json": TorchFile,
}

_EMBEDDING_NAMES = {
    HF: names.HF_NAMES[TensorRole.TOKEN_EMBD],
    MISTRAL: names.MISTRAL_NAMES[TensorRole.TOKEN_EMBD],
}
_CONFIG_NAMES = {HF: hf_config.CONFIG_NAME, MISTRAL: mistral_config.CONFIG_NAME}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint. Close `tensors` when done."""

    folder: Path
    origin: str  # of ORIGINS
    tensors: Shards
    layout: Layout
    hparams: HParams
    warnings: tuple[str, ...]  # what was assumed or left aside


def open_checkpoint(src: Path, origin: str | None = None) -> Checkpoint:
    """Open the checkpoint in folder `src`, or in file `src` with its config beside it.

    Args:
        origin: one of `ORIGINS`, to take no other; needed where a folder holds both.

    Raises:
        FormatError: there is none, or it is malformed.
        OSError: a file cannot be read.
    """
    folder = src if src.is_dir() else src.parent
    skipped: list[str] = []
    found, tensors = _open_tensors(src, folder, origin, skipped)
    try:
        hparams, layout = _read_config(folder, found, tensors)
    except BaseException:
        tensors.close()
        raise
    warnings = (*hparams.warnings, *skipped)
    hparams = replace(hparams, warnings=())
    return Checkpoint(folder, found, tensors, layout, hparams, warnings)


def _read_config(folder: Path, origin: str, tensors: Shards) -> tuple[HParams, Layout]:
    path = folder / _CONFIG_NAMES[origin]
    shape = tensors.shape(_EMBEDDING_NAMES[origin]) if _EMBEDDING_NAMES[origin] in tensors else ()
    n_embeddings = shape[0] if len(shape) == 2 else None
    if origin == HF:
        return read_hf_config(path, n_embeddings), find_hf_layout(tensors)
    has_output = names.MISTRAL_NAMES[TensorRole.OUTPUT] in tensors
    hparams = read_mistral_config(path, n_embeddings, has_output=has_output)
    return hparams, find_mistral_layout(tensors)


def _open_tensors(
    src: Path, folder: Path, origin: str | None, skipped: list[str]
) -> tuple[str, Shards]:
    """The checkpoint's origin, and its tensors."""
    if src.is_dir() and origin != MISTRAL:
        for name, open_file in _INDICES.items():
            if (folder / name).exists():
                return HF, open_indexed(folder / name, open_file)
    with ExitStack() as stack:
        files = []
        errors = []
        for paths in _weight_files(src):
            try:
                file = _open_file(paths)
            except FormatError as error:
                errors.append(error)
                continue
            stack.callback(file.close)
            files.append(file)
        chosen, kept = _choose(files, origin)
        if chosen is None:
            wanted = " or ".join(ORIGINS if origin is None else (origin,))
            raise errors[0] if errors else FormatError(src, "file", f"no {wanted} checkpoint here")
        tensors = Shards(folder, kept)
        skipped.extend(f"left aside: {error}" for error in errors)
        stack.pop_all()
    for file in files:
        if file not in kept:
            file.close()
            skipped.append(f"left aside: {file.path.name} is no part of the {chosen} checkpoint")
    return chosen, tensors


def _choose(files: list[TensorFile], origin: str | None) -> tuple[str | None, list[TensorFile]]:
    """The files of one origin and one container: Hugging Face's first, safetensors first."""
    for candidate in ORIGINS if origin is None else (origin,):
        for kind in (SafetensorsFile, TorchFile):
            kept: list[TensorFile] = [
                f for f in files if isinstance(f, kind) and _origin_of(f) == candidate
            ]
            if kept:
                return candidate, kept
    return None, []


def _origin_of(file: TensorFile) -> str | None:
    """By the names of its tensors; None for those of something else."""
    names_ = list(file.tensors)
    if any(name.startswith("model.") or name == "lm_head.weight" for name in names_):
        return HF
    others = {_EMBEDDING_NAMES[MISTRAL], "norm.weight", "output.weight"}
    if any(name.startswith("layers.") or name in others for name in names_):
        return MISTRAL
    return None


def _weight_files(src: Path) -> Iterator[list[Path]]:
    """Files that begin like a container of tensors, each with its further byte splits."""
    if src.is_dir():
        candidates = sorted(path for path in src.iterdir() if path.is_file())
    else:
        candidates = find_pieces(src)
    for paths in group_splits(path for path in candidates if not path.name.startswith(".")):
        if not src.is_dir() or _container(paths[0]) in (SafetensorsFile, TorchFile):
            yield paths


def _container(path: Path) -> type[SafetensorsFile] | type[TorchFile] | None:
    with open(path, "rb") as file:
        start = file.read(9)
    if start.startswith(torch_checkpoint.MAGIC) or start.startswith(torch_checkpoint.LEGACY_MAGIC):
        return TorchFile
    return SafetensorsFile if start[8:9] == b"{" else None


def _open_file(paths: list[Path]) -> TensorFile:
    kind = _container(paths[0])
    if kind is TorchFile:
        return TorchFile(*paths)
    if kind is SafetensorsFile and len(paths) == 1:
        return SafetensorsFile(paths[0])
    with open(paths[0], "rb") as file:
        if file.read(4) == GGUF_MAGIC:
            raise FormatError(paths[0], "file", "is a GGUF file already; see quantize and merge")
    raise FormatError(paths[0], "file", "is neither a safetensors file nor a PyTorch checkpoint")
