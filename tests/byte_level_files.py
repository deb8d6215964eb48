"""GGUF files with a byte-level BPE vocabulary, from the merges in tests/golden/byte_level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf_files import Metadata, tiny_metadata, tiny_shapes, write_model

from pymixtral.formats.gguf import ValueType
from pymixtral.formats.vocabulary import TokenType

GOLDEN = Path(__file__).parent / "golden" / "byte_level"

CONTROL = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<|added|>"]
# Tokens that no merge leads to: only a pre-tokenizer that ignores merges gives them.
WHOLE_WORDS = ["Hello", "ĠMixtral", "2026"]


def byte_characters() -> list[str]:
    """The characters that stand for the bytes 0 to 255, written down from GPT-2's encoder.json:
    the printable ones of Latin-1 stand for themselves, the 68 others for U+0100 to U+0143."""
    shifted = iter(range(0x100, 0x144))
    stands_for_itself = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [chr(b if b in stands_for_itself else next(shifted)) for b in range(256)]


def golden_merges() -> list[str]:
    merges: list[str] = json.loads((GOLDEN / "merges.json").read_text(encoding="utf-8"))
    return merges


def byte_level_metadata(pre: str | None, merges: list[str]) -> Metadata:
    """Metadata of a tiny model whose vocabulary has these merges."""
    ordinary = [*byte_characters(), *(merge.replace(" ", "") for merge in merges), *WHOLE_WORDS]
    tokens = [*ordinary, *CONTROL, *ADDED]
    types = [TokenType.NORMAL] * len(ordinary) + [TokenType.CONTROL] * len(CONTROL)
    types += [TokenType.USER_DEFINED] * len(ADDED)
    metadata = tiny_metadata()
    del metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.unknown_token_id"]
    vocabulary: dict[str, tuple[Any, ValueType]] = {
        "llama.vocab_size": (len(tokens), ValueType.UINT32),
        "tokenizer.ggml.model": ("gpt2", ValueType.STRING),
        "tokenizer.ggml.tokens": (tokens, ValueType.ARRAY),
        "tokenizer.ggml.token_type": (np.array(types, np.int32), ValueType.ARRAY),
        "tokenizer.ggml.merges": (merges, ValueType.ARRAY),
        "tokenizer.ggml.bos_token_id": (tokens.index("<|begin|>"), ValueType.UINT32),
        "tokenizer.ggml.eos_token_id": (tokens.index("<|end|>"), ValueType.UINT32),
    }
    if pre is not None:
        vocabulary["tokenizer.ggml.pre"] = (pre, ValueType.STRING)
    return metadata | vocabulary


def write_byte_level_model(path: Path, pre: str | None, merges: list[str] | None = None) -> Path:
    """A tiny dense model with random weights and such a vocabulary."""
    metadata = byte_level_metadata(pre, golden_merges() if merges is None else merges)
    n_vocab = len(metadata["tokenizer.ggml.tokens"][0])
    shapes = tiny_shapes()
    for name in ("token_embd.weight", "output.weight"):
        shapes[name] = (n_vocab, shapes[name][1])
    return write_model(path, metadata, shapes)
