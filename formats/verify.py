"""Checking a GGUF file: its structure, its extents, its numbers, and its hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocks import TYPES, scales
from .errors import FormatError
from .gguf import GGUFFile
from .gguf_shards import open_model_file
from .hparams import read_hparams
from .vocabulary import read_vocabulary

Progress = Callable[[str, int, int], None]

_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that was found good."""

    n_tensors: int
    n_bytes: int
    unscanned_types: tuple[str, ...]  # whose numbers were not looked at
    sha256: tuple[str, ...]  # of each file; empty: no manifest was compared
    warnings: tuple[str, ...]


def verify(
    path: str | os.PathLike[str],
    manifest: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Check that `path` is a whole and sane model.

    Its header, extents, hyperparameters and vocabulary must be good, and no float value or block
    scale may be NaN or infinite.

    Args:
        path: the file, or the first of several, of which all are checked.
        manifest: a file as sha256sum writes it, with a line for each file by its name.
        progress: called with a tensor's name and the bytes looked at of all, after each.

    Raises:
        FormatError: the first fault that was found.
        OSError: a file cannot be read.
    """
    with open_model_file(path) as gguf:
        hparams = read_hparams(gguf)
        read_vocabulary(gguf)
        unscanned = _scan_tensors(gguf, progress)
    return Verified(
        n_tensors=len(gguf.tensors),
        n_bytes=sum(path.stat().st_size for path in gguf.paths),
        unscanned_types=tuple(sorted(unscanned)),
        sha256=() if manifest is None else compare_hashes(gguf.paths, Path(manifest)),
        warnings=hparams.warnings,
    )


def _scan_tensors(gguf: GGUFFile, progress: Progress | None) -> set[str]:
    """Look for NaN and infinities. Returns the names of the types that have an unknown layout."""
    unscanned = set()
    total = sum(info.n_bytes for info in gguf.tensors.values())
    done = 0
    for name, info in gguf.tensors.items():
        try:
            for field, values in scales(gguf.data(name), info.type):
                _check_finite(gguf, name, field, values)
        except FormatError:
            raise
        except ValueError:
            unscanned.add(TYPES[info.type].name)
        gguf.release(name)
        done += info.n_bytes
        if progress is not None:
            progress(name, done, total)
    return unscanned


def _check_finite(gguf: GGUFFile, name: str, field: str, values: npt.NDArray[Any]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        i = int(bad.argmax())
        raise gguf.error(
            f"tensor {name}", f"{field}[{i}] is {values[i]}, {int(bad.sum())} of its kind"
        )


def compare_hashes(paths: Iterable[Path], manifest: Path) -> tuple[str, ...]:
    """The files' SHA-256, which are the manifest's.

    Raises:
        FormatError: one is not, or is not listed.
        OSError: a file cannot be read.
    """
    with open(manifest, "rb") as file:
        text = file.read(_MAX_MANIFEST_BYTES).decode("utf-8", "surrogateescape")
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    listed = {words[1].lstrip("*"): words[0].lower() for words in lines if len(words) == 2}
    return tuple(_compare_hash(path, listed.get(path.name), manifest) for path in paths)


def _compare_hash(path: Path, expected: str | None, manifest: Path) -> str:
    if expected is None:
        raise FormatError(manifest, path.name, "has no line in this manifest")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise FormatError(path, "sha256", f"is {found}, the manifest says {expected}")
    return found
