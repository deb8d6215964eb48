"""`pymixtral run --tools` and `--chat-template`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_models import FIRST_ADDED, V3_TOKENS, dictate, write_chat_model
from messages import definition, user

from pymixtral import LLM
from pymixtral.chat import encode_chat

TOOL_CALLS = FIRST_ADDED + V3_TOKENS.index("[TOOL_CALLS]")
EOS = 2
TOOLS = [definition("now")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("model") / "v3.gguf", V3_TOKENS)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(TOOLS))
    return path


def test_calls(invoke, model: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[{"name": "now", "arguments": {}, "id": "abcDEF123"}]'
    with LLM(model) as llm:
        dictate(monkeypatch, [TOOL_CALLS, *llm.tokenize(text), EOS])
        n_prompt = len(llm.encode_chat([user("Q")], TOOLS))
    document = json.loads(invoke("run", "--json", "--tools", tools, model, "Q").stdout)
    assert document["tool_calls"] == [{"name": "now", "arguments": {}, "id": "abcDEF123"}]
    assert document["usage"]["prompt_tokens"] == n_prompt
    assert invoke("run", "--tools", tools, model, "Q").stdout == text


def test_no_calls(invoke, model: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictate(monkeypatch, [259, EOS])
    document = json.loads(invoke("run", "--json", "--tools", tools, model, "Q").stdout)
    assert (document["tool_calls"], document["text"]) == (None, "a")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"{", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b"\xff", "is not UTF-8 at byte 0"),
        (b"{}", "must be a list of tools"),
        (b'[{"function": {"name": "a b"}}]', "tool 0: name 'a b' must be"),
    ],
    ids=["cut short", "deep", "no UTF-8", "no list", "bad name"],
)
def test_bad_files(invoke, model: Path, tools: Path, content: bytes, error: str) -> None:
    tools.write_bytes(content)
    result = invoke("run", "--tools", tools, model, "Q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert error in result.stderr.splitlines()[-1]


def test_the_shipped_model_has_no_tools(invoke, tools: Path) -> None:
    result = invoke("run", "--tools", tools, "Q")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: chat template v1 has no tools")


def test_wrong_command_lines(invoke, tools: Path) -> None:
    for arguments, error in (
        (("--raw", "--tools", tools), "--tools needs the chat template"),
        (("--tools", "no-such-file"), "'no-such-file' does not exist"),
        (("--chat-template", "v4"), "'v4' is not one of"),
    ):
        result = invoke("run", *arguments, "Q")
        assert (result.exit_code, result.stdout) == (2, "")
        assert error in result.stderr


def test_chat_template(invoke, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictate(monkeypatch, [259, EOS])
    for version in ("v1", "v3"):
        result = invoke("run", "--json", "--chat-template", version, model, "Q")
        with LLM(model) as llm:
            ids = encode_chat(llm.tokenizer, [user("Q")], version=version)
        assert json.loads(result.stdout)["usage"]["prompt_tokens"] == len(ids)
        assert f"chat template {version} (as asked for)" in result.stderr
        chat = invoke("chat", "--chat-template", version, model, input="Q\n")
        assert (chat.exit_code, chat.stdout) == (0, "a\n")
        assert f"chat template {version} (as asked for)" in chat.stderr


def test_a_template_that_cannot_run_needs_one_of_the_options(
    invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2", reason="the jinja extra is not installed")
    dictate(monkeypatch, [259, EOS])
    path = write_chat_model(tmp_path / "x.gguf", V3_TOKENS, "{% if %}")
    for arguments in (("run", path, "Q"), ("chat", path)):
        result = invoke(*arguments, input="Q\n")
        assert result.exit_code == 1
        assert "error: the file's chat template says: " in result.stderr.splitlines()[-1]
        assert result.stderr.endswith("(--raw)\n")
    assert invoke("run", "--raw", path, "Q").stdout == "a"
    assert invoke("run", "--chat-template", "v3", path, "Q").stdout == "a"
