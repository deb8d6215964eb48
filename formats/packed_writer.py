"""Writing packed files, and checking every byte of one; see `packed` for what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .gguf import GGUFFile, TensorInfo, ValueType, open_gguf
from .gguf_writer import GGUFWriter
from .output import check_not_a_source, check_room, free_bytes
from .packed import (
    ALIGNMENT,
    ARCHITECTURE,
    ARCHITECTURE_KEY,
    FINGERPRINT_KEY,
    HASH_BYTES,
    HASHES,
    I8,
    SOURCE_NAME_KEY,
    SOURCE_SIZE_KEY,
    VERSION_KEY,
    PackedHeader,
    check_belongs,
    read_packed_header,
)

Progress = Callable[[str, int, int], None]

# Yields a tensor's bytes repacked, a part at a time: (bytes, GGML type, columns). A part is valid
# until the next is asked for.
Repack = Callable[[memoryview, int, int], Iterator[memoryview]]

_HASHED_BYTES = 16 << 20  # at a time


def write_packed(
    gguf: GGUFFile,
    out: Path,
    header: PackedHeader,
    repack: Repack,
    progress: Progress | None = None,
) -> None:
    """Write the packed file of a model, a part of a tensor at a time.

    `out` appears when it is complete; one that exists is replaced.

    Args:
        gguf: the model.
        header: `packed.header_for` the model.
        repack: by the engine.
        progress: called with a tensor's name and the bytes written of all.

    Raises:
        FormatError: the model has no tensor that is packed, or `out` is the model itself.
        OSError: it cannot be written, or the disk lacks the room.
    """
    if not header.sizes:
        raise gguf.error("tensors", "none has a repacked layout, so there is nothing to write")
    check_not_a_source(out, gguf)
    total = sum(header.sizes.values())
    with GGUFWriter(out, alignment=ALIGNMENT, check=lambda path: _check(path, header)) as writer:
        hashes_info = declare_packed(writer, header)
        _check_room(out, hashes_info.offset + hashes_info.n_bytes)
        hashes, done = [], 0
        for name in header.sizes:
            digest = hashlib.sha256()
            for part in _repacked(gguf, name, repack):
                writer.write(name, part)
                digest.update(part)
                done += len(part)
                if progress is not None:
                    progress(name, done, total)
            gguf.release(name)
            hashes.append(digest.digest())
        writer.write(HASHES, b"".join(hashes))


def _check_room(out: Path, n_bytes: int) -> None:
    """As `check_room`; the file that would be replaced may be what takes the room."""
    try:
        check_room(out, n_bytes, free_bytes(out))
    except OSError as error:
        if out.is_file():
            error.strerror = (
                f"{error.strerror}; to delete it first frees {out.stat().st_size:,} bytes, and "
                "loses nothing that the model has not"
            )
        raise


def declare_packed(writer: GGUFWriter, header: PackedHeader) -> TensorInfo:
    """Add the metadata of a packed file and declare its tensors. Returns the last, `HASHES`."""
    for key, value, kind in (
        (ARCHITECTURE_KEY, ARCHITECTURE, ValueType.STRING),
        (VERSION_KEY, header.version, ValueType.UINT32),
        (SOURCE_NAME_KEY, header.source_name, ValueType.STRING),
        (SOURCE_SIZE_KEY, header.source_size, ValueType.UINT64),
        (FINGERPRINT_KEY, header.fingerprint, ValueType.STRING),
    ):
        writer.add(key, value, kind)
    for name, n_bytes in header.sizes.items():
        writer.declare(name, I8, (n_bytes,))
    return writer.declare(HASHES, I8, (len(header.sizes), HASH_BYTES))


def verify_packed(
    packed: GGUFFile,
    source: tuple[GGUFFile, PackedHeader, Repack] | None = None,
    progress: Progress | None = None,
) -> PackedHeader:
    """Check every byte of a packed file against its hashes, and against its model.

    Args:
        source: the model, `packed.header_for` it, and what repacks it; None: it is not there.
        progress: called with a tensor's name and the bytes looked at of all.

    Returns:
        What it says of itself.

    Raises:
        FormatError: the first fault that was found.
    """
    header = read_packed_header(packed)
    if source is not None:
        check_belongs(packed, source[1])
    hashes = bytes(packed.data(HASHES))
    done, total = 0, sum(header.sizes.values())
    for i, (name, n_bytes) in enumerate(header.sizes.items()):
        expected = hashes[i * HASH_BYTES : (i + 1) * HASH_BYTES]
        data = packed.data(name)
        if _sha256(data) != expected:
            raise packed.error(f"tensor {name}", "its bytes do not have the SHA-256 noted for them")
        if source is not None:
            _compare(packed, name, source[0], source[2])
            source[0].release(name)
        packed.release(name)
        done += n_bytes
        if progress is not None:
            progress(name, done, total)
    return header


def _check(path: Path, header: PackedHeader) -> None:
    with open_gguf(path) as written:
        check_belongs(written, header)


def _repacked(gguf: GGUFFile, name: str, repack: Repack) -> Iterator[memoryview]:
    info = gguf.tensors[name]
    return repack(gguf.data(name), info.type, info.shape[-1])


def _sha256(data: memoryview) -> bytes:
    digest = hashlib.sha256()
    for start in range(0, len(data), _HASHED_BYTES):
        digest.update(data[start : start + _HASHED_BYTES])
    return digest.digest()


def _compare(packed: GGUFFile, name: str, gguf: GGUFFile, repack: Repack) -> None:
    data, start = packed.data(name), 0
    for part in _repacked(gguf, name, repack):
        differs = np.asarray(data[start : start + len(part)]) != np.asarray(part)
        if differs.any():
            what = f"byte {start + int(differs.argmax())} is not that of {gguf.path.name} repacked"
            raise packed.error(f"tensor {name}", what)
        start += len(part)
