"""A small packed file, for the tests of hostile ones: like those of `packed_writer`, but denser."""

from __future__ import annotations

from pathlib import Path

from pymixtral.formats.gguf import ValueType
from pymixtral.formats.gguf_writer import GGUFWriter
from pymixtral.formats.packed import (
    ARCHITECTURE,
    ARCHITECTURE_KEY,
    FINGERPRINT_KEY,
    HASHES,
    I8,
    SOURCE_NAME_KEY,
    SOURCE_SIZE_KEY,
    VERSION_KEY,
    PackedHeader,
)

# What the model beside it wants.
SMALL = PackedHeader(
    version=1,
    fingerprint="5" * 64,
    sizes={"blk.0.attn_q.weight": 100, "blk.0.attn_k.weight": 64, "output.weight": 1},
    source_name="model.gguf",
    source_size=1234,
)


def write_small_packed(path: Path) -> Path:
    """Writes the file that `SMALL` describes, and returns its path."""
    with GGUFWriter(path, alignment=64) as writer:
        writer.add(ARCHITECTURE_KEY, ARCHITECTURE, ValueType.STRING)
        writer.add(VERSION_KEY, SMALL.version, ValueType.UINT32)
        writer.add(FINGERPRINT_KEY, SMALL.fingerprint, ValueType.STRING)
        writer.add(SOURCE_NAME_KEY, SMALL.source_name, ValueType.STRING)
        writer.add(SOURCE_SIZE_KEY, SMALL.source_size, ValueType.UINT64)
        shapes = {name: (size,) for name, size in SMALL.sizes.items()}
        shapes |= {HASHES: (len(SMALL.sizes), 32)}
        for name, shape in shapes.items():
            writer.declare(name, I8, shape)
        for name, size in SMALL.sizes.items():
            writer.write(name, bytes(size))
        writer.write(HASHES, bytes(32 * len(SMALL.sizes)))
    return path
