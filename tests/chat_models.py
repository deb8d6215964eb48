"""Tiny models whose vocabulary has control tokens, and that say what a test wants."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf_files import tiny_metadata, tiny_shapes, write_model

from pymixtral.formats.gguf import ValueType
from pymixtral.sampling import Sampled

V3_TOKENS = (
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
FIRST_ADDED = 262  # id of the first control token


def write_chat_model(path: Path, tokens: Sequence[str], template: str | None = None) -> Path:
    """A random model of 4,096 positions with these tokens, and this Jinja template."""
    metadata = tiny_metadata()
    known, kind = metadata["tokenizer.ggml.tokens"]
    types, _ = metadata["tokenizer.ggml.token_type"]
    n_vocab = len(known) + len(tokens)
    metadata |= {
        "llama.context_length": (4096, ValueType.UINT32),
        "llama.vocab_size": (n_vocab, ValueType.UINT32),
        "tokenizer.ggml.tokens": ([*known, *tokens], kind),
        "tokenizer.ggml.scores": (np.zeros(n_vocab, np.float32), kind),
        "tokenizer.ggml.token_type": (np.append(types, np.full(len(tokens), 3, np.int32)), kind),
    }
    if template is not None:
        metadata["tokenizer.chat_template"] = (template, ValueType.STRING)
    shapes = tiny_shapes()
    for name in ("token_embd.weight", "output.weight"):
        shapes[name] = (n_vocab, shapes[name][1])
    return write_model(path, metadata, shapes)


def dictate(monkeypatch: pytest.MonkeyPatch, ids: Sequence[int]) -> None:
    """Has every answer from now on consist of these ids, repeated until it ends."""

    class Dictation:
        def __init__(self, *_: object) -> None:
            self._ids = itertools.cycle(ids)

        def sample(self, *_: object) -> Sampled:
            return Sampled(next(self._ids), None, None)

        def state(self) -> int:
            return 0

    monkeypatch.setattr("pymixtral.generate.Sampler", Dictation)
