"""Packed files: a model's weights in the layout that the engine reads fastest, beside the model.

``MODEL.packed`` is a GGUF file of an architecture of its own. Each of the model's tensors that the
engine repacks is there by its name, as so many I8, so that no reader takes the bytes for blocks. A
last tensor, `HASHES`, has the SHA-256 of each. The others stay in the model, without which a packed
file is of no use; so it notes whose it is, and in which version of the layout.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .blocks import TYPES
from .errors import FormatError
from .gguf import GGUFFile, TensorInfo, ValueType, open_gguf
from .mapping import FileView

SUFFIX = ".packed"
ARCHITECTURE = "pymixtral-packed"
HASHES = "sha256"  # the tensor's name; (tensors, 32)
HASH_BYTES = 32
I8 = next(type_id for type_id, kind in TYPES.items() if kind.name == "I8")

# Pages of memory, so that no two tensors share one; kernels want whole cache lines.
ALIGNMENT = 4096
_LEAST_ALIGNMENT = 64

ARCHITECTURE_KEY = "general.architecture"
VERSION_KEY = f"{ARCHITECTURE}.version"
SOURCE_NAME_KEY = f"{ARCHITECTURE}.source.name"
SOURCE_SIZE_KEY = f"{ARCHITECTURE}.source.size"
FINGERPRINT_KEY = f"{ARCHITECTURE}.source.fingerprint"

_SAMPLE_BYTES = 4096  # of each matrix


@dataclass(frozen=True, slots=True)
class PackedHeader:
    """What a packed file says of itself.

    Attributes:
        version: of the layout.
        fingerprint: of the model, see `fingerprint`.
        sizes: bytes of each packed tensor.
        source_name, source_size: the model's file, the first of several, and bytes of all.
    """

    version: int
    fingerprint: str
    sizes: dict[str, int]
    source_name: str = field(compare=False)
    source_size: int = field(compare=False)


def packed_path(model: Path) -> Path:
    """Where the packed file of a model is looked for: beside it, or beside the first of its
    files."""
    return model.with_name(model.name + SUFFIX)


def model_path(packed: Path) -> Path | None:
    """The model that a packed file lies beside, if there is one."""
    path = packed.with_name(packed.name.removesuffix(SUFFIX) or packed.name)
    return path if path != packed and path.is_file() else None


def is_packed(gguf: GGUFFile) -> bool:
    """Whether a file says that it is a packed one."""
    is_text = gguf.types.get(ARCHITECTURE_KEY) is ValueType.STRING
    return is_text and bool(gguf.metadata[ARCHITECTURE_KEY] == ARCHITECTURE)


def looks_packed(path: str | os.PathLike[str]) -> bool:
    """Like `is_packed`, of a path. False where that is no GGUF file: who opens it next says why."""
    try:
        with open_gguf(path) as gguf:
            return is_packed(gguf)
    except (FormatError, OSError):
        return False


def fingerprint(gguf: GGUFFile) -> str:
    """Tells a model from any other, and from itself before it was quantized anew.

    A SHA-256 of its files' sizes, its header, and the 4096 bytes in the middle of every matrix (of
    every expert): so some MB of a file of 26 GB are read, and a model is as soon loaded as before.
    """
    digest = hashlib.sha256()
    digest.update(f"{[path.stat().st_size for path in gguf.paths]}\n".encode())
    digest.update(gguf.header)
    for name, info in gguf.tensors.items():
        n_matrices = info.shape[0] if len(info.shape) > 2 else 1
        n_bytes = info.n_bytes // n_matrices
        n_read = min(n_bytes, _SAMPLE_BYTES)
        for matrix in range(n_matrices):
            start = matrix * n_bytes + (n_bytes - n_read) // 2
            digest.update(gguf.part(name, start, n_read))
        gguf.release(name)
    return digest.hexdigest()


def header_for(gguf: GGUFFile, names: Iterable[str], version: int) -> PackedHeader:
    """What the packed file of a model must say.

    Args:
        names: the tensors that are packed.
        version: of the engine's layout.
    """
    return PackedHeader(
        version=version,
        fingerprint=fingerprint(gguf),
        sizes={name: gguf.tensors[name].n_bytes for name in names},
        source_name=gguf.path.name,
        source_size=sum(path.stat().st_size for path in gguf.paths),
    )


def read_packed_header(gguf: GGUFFile) -> PackedHeader:
    """Read what a packed file says, and check that it is as such a file must be.

    Raises:
        FormatError: it is not.
    """
    if not is_packed(gguf):
        found = gguf.metadata.get(ARCHITECTURE_KEY)
        raise gguf.error(ARCHITECTURE_KEY, f"is {found!r}, a packed file has {ARCHITECTURE!r}")
    sizes = {name: _packed_size(gguf, info) for name, info in gguf.tensors.items()}
    sizes.pop(HASHES, None)
    _check_hashes_shape(gguf, len(sizes))
    if gguf.alignment % _LEAST_ALIGNMENT:
        what = f"is {gguf.alignment}, must be a multiple of {_LEAST_ALIGNMENT}"
        raise gguf.error("general.alignment", what)
    return PackedHeader(
        version=int(_typed(gguf, VERSION_KEY, ValueType.UINT32)),
        fingerprint=str(_typed(gguf, FINGERPRINT_KEY, ValueType.STRING)),
        sizes=sizes,
        source_name=str(_typed(gguf, SOURCE_NAME_KEY, ValueType.STRING)),
        source_size=int(_typed(gguf, SOURCE_SIZE_KEY, ValueType.UINT64)),
    )


def check_belongs(gguf: GGUFFile, expected: PackedHeader) -> None:
    """Check that a packed file is that of a model.

    Args:
        expected: `header_for` the model.

    Raises:
        FormatError: it is malformed, of another model or another version, or lacks a tensor.
    """
    found = read_packed_header(gguf)
    if found.version != expected.version:
        what = f"the layout is of version {found.version}, this program's is {expected.version}"
        raise gguf.error(VERSION_KEY, what)
    if found.fingerprint != expected.fingerprint:
        what = "is of another model, or of this one before it was changed"
        raise gguf.error(FINGERPRINT_KEY, what)
    for name in (*expected.sizes, *found.sizes):
        if name not in found.sizes:
            raise gguf.error("tensors", f"{name} is missing")
        if name not in expected.sizes:
            raise gguf.error(f"tensor {name}", "the model has none of this name to be packed")
        if found.sizes[name] != expected.sizes[name]:
            what = f"has {found.sizes[name]} bytes, the model's has {expected.sizes[name]}"
            raise gguf.error(f"tensor {name}", what)


def open_packed(
    path: str | os.PathLike[str], expected: PackedHeader, owners: Container[int] | None = None
) -> GGUFFile:
    """Open the packed file of a model.

    Args:
        expected: `header_for` the model.
        owners: users whose file it may be: where several can write to a folder, as in /tmp,
            anybody could lay another model's weights beside yours. None: anybody's.

    Raises:
        FormatError: see `check_belongs`, or it is somebody else's.
        OSError: it cannot be opened; `FileNotFoundError` if it is not there.
    """
    view = FileView(path)
    try:
        if owners is not None and view.owner not in owners:
            what = f"belongs to user {view.owner}, who is neither you nor the model's owner"
            raise FormatError(path, "file", what)
        gguf = GGUFFile(view)
        check_belongs(gguf, expected)
    except BaseException:
        view.close()
        raise
    return gguf


def _packed_size(gguf: GGUFFile, info: TensorInfo) -> int:
    n_dims = 2 if info.name == HASHES else 1
    if info.type != I8 or len(info.shape) != n_dims:
        what = f"is {info.type_name} of {len(info.shape)} dimensions, must be I8 of {n_dims}"
        raise gguf.error(f"tensor {info.name}", what)
    return info.n_bytes


def _check_hashes_shape(gguf: GGUFFile, n_tensors: int) -> None:
    found = gguf.tensors[HASHES].shape if HASHES in gguf.tensors else ()
    if found != (n_tensors, HASH_BYTES):
        what = f"has the shape {found}, must have a hash for each of {n_tensors} tensors"
        raise gguf.error(f"tensor {HASHES}", what)


def _typed(gguf: GGUFFile, key: str, kind: ValueType) -> str | int:
    if key not in gguf.metadata:
        raise gguf.error(key, "is missing")
    if gguf.types[key] is not kind:
        raise gguf.error(key, f"has type {gguf.types[key].name}, must be {kind.name}")
    value: str | int = gguf.metadata[key]
    return value
