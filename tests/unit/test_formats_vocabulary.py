"""Vocabularies that are good, and defaults. Hostile ones are in tests/attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import tiny_metadata, write_model

from pymixtral.formats import FormatError, ValueType, Vocabulary, open_gguf, read_vocabulary


def vocabulary_of(tmp_path: Path, changes: dict[str, Any] | None = None) -> Vocabulary:
    """Of the tiny model with changed metadata; a value of None drops the key."""
    metadata = tiny_metadata() | (changes or {})
    metadata = {key: value for key, value in metadata.items() if value is not None}
    path = write_model(tmp_path / "m.gguf", metadata, {})
    with open_gguf(path) as gguf:
        return read_vocabulary(gguf)


def test_the_tiny_vocabulary(tmp_path: Path) -> None:
    found = vocabulary_of(tmp_path)
    assert found.model == "llama"
    assert found.tokens[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert found.tokens[-1] == "\u2581"
    assert found.scores.dtype == np.float32
    assert found.types.dtype == np.int32
    assert found.types.tolist() == [2, 3, 3, *[6] * 256, 1, 1, 1]
    assert (found.unk_id, found.bos_id, found.eos_id) == (0, 1, 2)


def test_defaults_of_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    absent = [f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown")]
    found = vocabulary_of(tmp_path, dict.fromkeys(absent))
    assert (found.unk_id, found.bos_id, found.eos_id) == (0, 1, 2)
    assert (found.add_bos, found.add_eos, found.add_space_prefix) == (True, False, True)
    assert found.chat_template is None


def test_flags_and_template_are_read(tmp_path: Path) -> None:
    found = vocabulary_of(
        tmp_path,
        {
            "tokenizer.ggml.add_bos_token": (False, ValueType.BOOL),
            "tokenizer.ggml.add_eos_token": (True, ValueType.BOOL),
            "tokenizer.ggml.add_space_prefix": (False, ValueType.BOOL),
            "tokenizer.chat_template": ("{{ bos_token }}", ValueType.STRING),
        },
    )
    assert (found.add_bos, found.add_eos, found.add_space_prefix) == (False, True, False)
    assert found.chat_template == "{{ bos_token }}"


def test_a_byte_level_vocabulary_needs_no_scores(tmp_path: Path) -> None:
    found = vocabulary_of(
        tmp_path,
        {
            "tokenizer.ggml.model": ("gpt2", ValueType.STRING),
            "tokenizer.ggml.merges": (["a b", "ab c"], ValueType.ARRAY),
            "tokenizer.ggml.scores": None,
            "tokenizer.ggml.token_type": None,
            "tokenizer.ggml.unknown_token_id": None,
        },
    )
    assert not found.scores.any()
    assert set(found.types) == {1}
    assert found.unk_id is None
    assert found.merges == [("a", "b"), ("ab", "c")]


def test_a_byte_level_vocabulary_needs_merges(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="tokenizer.ggml.merges: is missing"):
        vocabulary_of(tmp_path, {"tokenizer.ggml.model": ("gpt2", ValueType.STRING)})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.model", None),
        ("tokenizer.ggml.tokens", None),
        ("tokenizer.ggml.scores", None),
        ("tokenizer.ggml.token_type", None),
        ("tokenizer.ggml.model", (1, ValueType.UINT32)),
        ("tokenizer.ggml.tokens", (np.zeros(262, np.int32), ValueType.ARRAY)),
        ("tokenizer.ggml.token_type", (np.ones(262, np.float32), ValueType.ARRAY)),
        ("tokenizer.ggml.add_bos_token", (1, ValueType.UINT32)),
        ("tokenizer.chat_template", (["a"], ValueType.ARRAY)),
        ("tokenizer.ggml.remove_extra_whitespaces", (True, ValueType.BOOL)),
        ("tokenizer.ggml.precompiled_charsmap", (np.ones(4, np.uint8), ValueType.ARRAY)),
    ],
    ids=str,
)
def test_missing_keys_wrong_types_and_unsupported_normalisers(
    tmp_path: Path, key: str, value: Any
) -> None:
    with pytest.raises(FormatError) as caught:
        vocabulary_of(tmp_path, {key: value})
    assert caught.value.field == key
