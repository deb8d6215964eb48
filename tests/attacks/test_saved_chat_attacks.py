"""Case 17: crafted saved chats end in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hostile import Damage, damaged, damages, refusal, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymixtral import LLM, FormatError, SamplingParams
from pymixtral.chat import SavedChat, read_saved_chat, saved
from pymixtral.cli.console import Console
from pymixtral.cli.dialogue import Chat
from pymixtral.errors import ChatError

MODEL, N_VOCAB = "abc-1", 100
REFUSALS = (FormatError, ChatError)
GOOD = SavedChat(MODEL, "v1", "Be brief.", (("Hello", (5, 99)), ("", ())), 2**64 - 1)


def document(path: Path) -> dict[str, Any]:
    """The JSON of a good file."""
    GOOD.write(path)
    return json.loads(path.read_bytes())


def read(path: Path) -> SavedChat:
    return read_saved_chat(path, MODEL, N_VOCAB)


def line_of_refusal(path: Path) -> str:
    line = str(refused(path, read, REFUSALS))
    assert line.startswith(str(path))
    return line


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    GOOD.write(path)
    assert read_saved_chat(path, MODEL, N_VOCAB) == GOOD
    GOOD.write(path)  # a saved chat may be replaced
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("pymixtral_chat", 2, "pymixtral_chat"),
        ("pymixtral_chat", None, "pymixtral_chat"),
        ("model", "abc-2", "another model"),
        ("model", ["abc-1"], "model"),
        ("template", 1, "template"),
        ("template", None, "template"),
        ("system", 1, "system"),
        ("system", "\ud800", "system: holds a lone surrogate"),
        ("seed", -1, "seed"),
        ("seed", 2**64, "seed"),
        ("seed", True, "seed"),
        ("seed", 1.0, "seed"),
        ("turns", {}, "turns"),
        ("turns", None, "turns"),
        ("turns", [1], "turns[0]"),
        ("turns", [{}], "turns[0]"),
        ("turns", [{"question": "a"}], "turns[0]"),
        ("turns", [{"question": "a", "answer_ids": [], "more": 1}], "turns[0]"),
        ("turns", [{"question": 1, "answer_ids": []}], "turns[0].question"),
        ("turns", [{"question": "\udfff", "answer_ids": []}], "turns[0].question"),
        ("turns", [{"question": "a", "answer_ids": "5"}], "turns[0].answer_ids"),
        ("turns", [{"question": "a", "answer_ids": [5, -1]}], "turns[0].answer_ids[1]"),
        ("turns", [{"question": "a", "answer_ids": [N_VOCAB]}], "turns[0].answer_ids[0]"),
        ("turns", [{"question": "a", "answer_ids": [2**64]}], "turns[0].answer_ids[0]"),
        ("turns", [{"question": "a", "answer_ids": [1.0]}], "turns[0].answer_ids[0]"),
        ("turns", [{"question": "a", "answer_ids": [True]}], "turns[0].answer_ids[0]"),
        ("more", 1, "file"),
    ],
)
def test_case_17_crafted_values(tmp_path: Path, field: str, value: object, named: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(document(path) | {field: value}))
    assert named in line_of_refusal(path)


@pytest.mark.parametrize(
    "field", ["pymixtral_chat", "model", "template", "system", "turns", "seed"]
)
def test_case_17_missing_values(tmp_path: Path, field: str) -> None:
    path = tmp_path / "chat.json"
    values = document(path)
    del values[field]
    path.write_text(json.dumps(values))
    line_of_refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"1",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"pymixtral_chat": ' + b"9" * 5000 + b"}",
        b"GGUF\x03\x00\x00\x00",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_case_17_other_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chat.json"
    path.write_bytes(content)
    line_of_refusal(path)


def test_case_17_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.json"
    GOOD.write(path)
    monkeypatch.setattr(saved, "MAX_BYTES", 20)
    assert "is longer than 20 bytes" in line_of_refusal(path)
    os.mkfifo(tmp_path / "fifo")
    assert "is no regular file" in line_of_refusal(tmp_path / "fifo")


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    GOOD.write(path)
    for length in reversed(range(path.stat().st_size - 1)):  # without its newline, it is whole
        os.truncate(path, length)
        assert refusal(path, read, REFUSALS)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages(200), length=st.integers(0, 250))
def test_damaged_bytes_cause_no_other_error(tmp_path: Path, damage: Damage, length: int) -> None:
    path = tmp_path / "chat.json"
    path.unlink(missing_ok=True)
    GOOD.write(path)
    path.write_bytes(damaged(path.read_bytes(), damage)[:length])
    assert refusal(path, read, REFUSALS).isprintable()


def test_a_refused_file_leaves_the_chat_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    with LLM() as llm:
        chat = Chat(Console(), llm, SamplingParams(temperature=0, max_tokens=3), can_forget=True)
        chat.set_system("Be brief.")
        chat.ask("Hello")
        chat.save(path)
        before = path.read_bytes()
        values = json.loads(before)
        for wrong in ({"template": "v3"}, {"turns": [{"question": "a", "answer_ids": [-1]}]}):
            crafted = tmp_path / "crafted.json"
            crafted.write_text(json.dumps(values | {"system": "Obey.", "seed": 1} | wrong))
            with pytest.raises((FormatError, ChatError)):
                chat.load(crafted)
        chat.save(path)
        assert path.read_bytes() == before
