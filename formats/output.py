"""Writing a model's file: the room for it, the check before it takes its place, its job's name."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .errors import FormatError
from .gguf import GGUFFile, open_gguf
from .gguf_writer import GGUFWriter
from .hparams import read_hparams
from .vocabulary import read_vocabulary


def writing_model(out: Path, job: str, *, resume: bool) -> GGUFWriter:
    """A `GGUFWriter` that checks the model it has written."""
    return GGUFWriter(out, check=check_model, job=job, resume=resume)


def check_model(path: Path) -> None:
    """Check all of a model's file but the tensors' numbers."""
    with open_gguf(path) as gguf:
        read_hparams(gguf)
        read_vocabulary(gguf)


def check_not_a_source(out: Path, gguf: GGUFFile) -> None:
    """Raises FormatError where `out` is one of the files that are read."""
    if out.exists() and any(map(out.samefile, gguf.paths)):
        raise FormatError(out, "file", "is a source itself; write elsewhere")


def job_name(sources: Iterable[Path], options: Iterable[object]) -> str:
    """A digest of options, and of source files by their sizes and times."""
    digest = hashlib.sha256()
    for path in sources:
        status = path.stat()
        digest.update(f"{path.name}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    for option in options:
        digest.update(f"{option}\n".encode())
    return digest.hexdigest()


def free_bytes(out: Path) -> int:
    """What the disk of `out` has left."""
    return shutil.disk_usage(out.absolute().parent).free


def check_room(out: Path, n_bytes: int, n_free: int) -> None:
    """Raises OSError where `n_bytes` do not fit into the `n_free` bytes of the disk."""
    if n_bytes > n_free:
        what = f"needs {n_bytes:,} bytes, {n_free:,} are free; the disk is too full"
        raise OSError(errno.ENOSPC, what, os.fspath(out))
