"""A small packed file, for the tests of hostile ones: like those of `packed_writer`, but denser."""

from __future__ import annotations

from pathlib import Path

from pymixtral.formats.gguf_writer import GGUFWriter
from pymixtral.formats.packed import HASH_BYTES, HASHES, PackedHeader
from pymixtral.formats.packed_writer import declare_packed

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
        declare_packed(writer, SMALL)
        for name, size in SMALL.sizes.items():
            writer.write(name, bytes(size))
        writer.write(HASHES, bytes(HASH_BYTES * len(SMALL.sizes)))
    return path
