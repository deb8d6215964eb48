"""The library's chat with other templates than that of the model that ships, and with tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_models import CHATML_TOKENS, FIRST_ADDED, V3_TOKENS, dictate, write_chat_model
from messages import calling, definition, result, system, user

from pymixtral import LLM, SamplingParams
from pymixtral.chat import Recognition, ToolCall, encode_chat
from pymixtral.errors import ChatError, ParameterError

TOOL_CALLS = FIRST_ADDED + V3_TOKENS.index("[TOOL_CALLS]")
IM_END = FIRST_ADDED + CHATML_TOKENS.index("<|im_end|>")
EOS = 2
TOOLS = [definition("now")]
CALL = '[{"name": "now", "arguments": {"at": "é"}, "id": "abcDEF123"}]'


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with LLM(write_chat_model(tmp_path_factory.mktemp("v3") / "v3.gguf", V3_TOKENS)) as llm:
        yield llm


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("chatml") / "chatml.gguf"
    with LLM(write_chat_model(path, CHATML_TOKENS)) as llm:
        yield llm


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("unknown") / "x.gguf", V3_TOKENS, "")


def test_the_template_is_recognised(v3: LLM, chatml: LLM) -> None:
    assert v3.chat_template == Recognition("v3", "recognised by the vocabulary")
    assert v3.encode_chat([user("Q")]) == encode_chat(v3.tokenizer, [user("Q")], version="v3")
    assert chatml.chat_template.version == "chatml"
    expected = encode_chat(chatml.tokenizer, [user("Q")], version="chatml")
    assert chatml.encode_chat([user("Q")]) == expected
    v1 = encode_chat(v3.tokenizer, [user("Q")], version="v1")
    assert v3.encode_chat([user("Q")], version="v1") == v1


def test_a_file_without_a_name_goes_by_its_own(tmp_path: Path) -> None:
    with LLM(write_chat_model(tmp_path / "Mixtral-8x7B.gguf", ())) as llm:
        assert llm.file.name == "Mixtral-8x7B.gguf"
        assert llm.chat_template == Recognition("v1", "recognised by the model's name")


def test_calls_of_tools(v3: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    dictate(monkeypatch, [TOOL_CALLS, *v3.tokenize(CALL), EOS])
    answer = v3.chat([user("Q")], tools=TOOLS)
    assert answer.tool_calls == [ToolCall("now", {"at": "é"}, "abcDEF123")]
    assert (answer.text, answer.finish_reason) == (CALL, "stop")
    assert answer.usage.prompt_tokens == len(v3.encode_chat([user("Q")], TOOLS))

    messages = [user("Q"), calling(*answer.tool_calls), result("1", answer.tool_calls[0].id)]
    with v3.chat(messages, tools=TOOLS, stream=True) as stream:
        assert "".join(stream) == CALL
    assert stream.completion.tool_calls == answer.tool_calls


@pytest.mark.parametrize(
    "answer", [CALL, CALL[:-1], f"{CALL} ]"], ids=["no token", "cut short", "malformed"]
)
def test_what_are_no_calls_stays_text(
    v3: LLM, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    token = [TOOL_CALLS] if answer != CALL else []
    dictate(monkeypatch, [*token, *v3.tokenize(answer), EOS])
    completion = v3.chat([user("Q")], tools=TOOLS)
    assert (completion.text, completion.tool_calls) == (answer, None)


def test_calls_cut_off_by_max_tokens(v3: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    dictate(monkeypatch, [TOOL_CALLS, *v3.tokenize(CALL), EOS])
    completion = v3.chat([user("Q")], SamplingParams(max_tokens=10), tools=TOOLS)
    assert (completion.finish_reason, completion.tool_calls) == ("length", None)


def test_chatml_ends_an_answer_whatever_eos_is(
    chatml: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello = chatml.tokenize("Hello")
    dictate(monkeypatch, [*hello, IM_END])
    answer = chatml.chat([user("Q")], SamplingParams(max_tokens=100))
    assert (answer.token_ids, answer.text, answer.finish_reason) == (hello, "Hello", "stop")


def test_an_unknown_template_blocks_chat_alone(unknown: Path) -> None:
    with LLM(unknown) as llm:
        assert llm.chat_template.version is None
        assert llm.generate("a", SamplingParams(max_tokens=2)).usage.completion_tokens == 2
        for blocked in (lambda: llm.chat([user("Q")]), llm.new_conversation):
            with pytest.raises(ChatError, match=r"is not known \(the file's is empty.*--raw"):
                blocked()
    with LLM(unknown, chat_template="v3") as llm:
        assert llm.chat_template == Recognition("v3", "as asked for")
        assert llm.encode_chat([user("Q")]) == encode_chat(llm.tokenizer, [user("Q")], version="v3")


def test_a_template_that_cannot_be_used_is_refused(unknown: Path) -> None:
    with pytest.raises(ChatError, match="chat template 'v9' does not exist"):
        LLM(unknown, chat_template="v9")
    with pytest.raises(ChatError, match="has no control token <.im_start.>"):
        LLM(unknown, chat_template="chatml")


def test_new_conversation(chatml: LLM) -> None:
    conversation = chatml.new_conversation("S")
    conversation.add_user("Q")
    assert conversation.ids == chatml.encode_chat([system("S"), user("Q")])
    with pytest.raises(ParameterError, match="lone surrogate"):
        chatml.new_conversation("\ud800")
