"""--set and --remove of `merge` and `quantize`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymixtral.formats import open_gguf
from pymixtral.formats.gguf import ValueType


def edited(invoke, source: Path, out: Path, *options: object) -> tuple[dict, dict]:
    """Metadata, and their types."""
    result = invoke("merge", source, out, *options)
    assert result.exit_code == 0, result.stderr
    with open_gguf(out) as gguf:
        return dict(gguf.metadata), dict(gguf.types)


def test_values_take_the_type_of_the_key(invoke, storyteller: Path, tmp_path: Path) -> None:
    options = ("--set", "llama.rope.freq_base=500000", "--set", "llama.context_length=256")
    options += ("--set", "general.name=7", "--set", "tokenizer.ggml.add_bos_token=False")
    metadata, types = edited(invoke, storyteller, tmp_path / "out.gguf", *options)
    with open_gguf(storyteller) as before:
        assert set(metadata) == set(before.metadata)
        assert all(types[key] == kind for key, kind in before.types.items())
    assert metadata["llama.rope.freq_base"] == 500000
    assert metadata["llama.context_length"] == 256
    assert metadata["general.name"] == "7"
    assert metadata["tokenizer.ggml.add_bos_token"] is False


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("true", True, ValueType.BOOL),
        ("3", 3, ValueType.UINT32),
        ("-3", -3, ValueType.INT64),
        ("0.5", 0.5, ValueType.FLOAT32),
        ("a = b", "a = b", ValueType.STRING),
    ],
)
def test_types_of_new_keys(
    invoke, storyteller: Path, tmp_path: Path, text: str, value: object, kind: ValueType
) -> None:
    metadata, types = edited(
        invoke, storyteller, tmp_path / "out.gguf", "--set", f"general.note={text}"
    )
    assert (metadata["general.note"], types["general.note"]) == (value, kind)


def test_a_template_from_a_file_and_a_key_removed(
    invoke, storyteller: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages }}\n")
    changed = ("--set", f"tokenizer.chat_template=@{tmp_path / 't.jinja'}")
    metadata, _ = edited(
        invoke, storyteller, tmp_path / "out.gguf", *changed, "--remove", "general.license"
    )
    assert metadata["tokenizer.chat_template"] == "{{ messages }}\n"
    assert "general.license" not in metadata


def test_quantize(invoke, storyteller: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    args = ("quantize", storyteller, out, "q4_0", "--allow-requantize")
    assert invoke(*args, "--set", "general.name=small").exit_code == 0
    with open_gguf(out) as gguf:
        assert gguf.metadata["general.name"] == "small"
        assert gguf.metadata["general.file_type"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "general.name"), "is not KEY=VALUE"),
        (("--set", "llama.block_count=four"), "'four' is no value of its type, UINT32"),
        (("--set", "llama.block_count=-1"), "'-1' is no value of its type, UINT32"),
        (("--set", "tokenizer.ggml.tokens=a"), "is an array, which cannot be set"),
        (("--set", "general.alignment=64"), "cannot be edited"),
        (("--remove", "general.nothing"), "is not there to be removed"),
        (("--remove", "llama.block_count"), "is missing; not written"),
        (("--set", "llama.expert_used_count=9"), "not written"),
    ],
)
def test_refused(
    invoke, storyteller: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "out.gguf"
    result = invoke("merge", storyteller, out, *options)
    assert result.exit_code != 0
    assert said in result.stderr
    assert ".tmp" not in result.stderr
    assert list(tmp_path.iterdir()) == []
