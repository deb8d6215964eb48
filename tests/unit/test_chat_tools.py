"""Chat templates v2, v3 and v7: where everything stands, and tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from messages import (
    Message,
    assistant,
    call,
    calling,
    definition,
    result,
    system,
    text_chunk,
    user,
)
from reference import mistral

from pymixtral.chat import ToolCall, encode_chat
from pymixtral.errors import ChatError, ParameterError

DATA = Path(__file__).parents[1] / "data" / "chat"
TOOLS = [definition("now", description="é")]
TOOLS_JSON = (
    '[{"type": "function", "function": {"name": "now", "description": "é", "parameters": {}}}]'
)
ASKED = [user("Q"), calling(call("now", {"at": "é"}))]
CALLS_V3 = '[{"name": "now", "arguments": {"at": "é"}, "id": "123456789"}]'


def encode(version: str, messages: list[Message], tools: list[Message] | None = None) -> list[int]:
    return encode_chat(mistral.tokenizer(version), messages, tools, version)


def written(version: str, *parts: str) -> list[int]:
    """Ids of control tokens, given as they are spelled, and of texts between them."""
    tokenizer = mistral.tokenizer(version)
    ids = []
    for part in parts:
        control_id = tokenizer.control_id(part)
        ids += tokenizer.encode(part) if control_id is None else [control_id]
    return ids


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("name", ["no_tools", "get_weather_full", "parallel_calls"])
def test_the_published_samples(name: str, version: str) -> None:
    sample = json.loads((DATA / name / "sample.json").read_text())
    expected = json.loads((DATA / name / f"tokens_{version}.json").read_text())["tokens"]
    assert encode(version, sample["messages"], sample["tools"]) == expected


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_system_prompt_and_tools_go_with_the_last_question(version: str) -> None:
    messages = [system("S"), user("Q"), assistant("A\n  "), user("R")]
    ids = written(version, "<s>", "[INST]", "Q", "[/INST]", "A\n", "</s>")
    ids += written(version, "[AVAILABLE_TOOLS]", TOOLS_JSON, "[/AVAILABLE_TOOLS]")
    ids += written(version, "[INST]", "S\n\nR", "[/INST]")
    assert encode(version, messages, TOOLS) == ids


def test_system_messages_of_v7_stand_where_they_are() -> None:
    messages = [system("S"), system([text_chunk("T"), text_chunk("")]), user("Q"), system("U")]
    ids = written("v7", "<s>", "[SYSTEM_PROMPT]", "S", "[/SYSTEM_PROMPT]")
    ids += written("v7", "[SYSTEM_PROMPT]", "T", "[/SYSTEM_PROMPT]")
    ids += written("v7", "[AVAILABLE_TOOLS]", TOOLS_JSON, "[/AVAILABLE_TOOLS]")
    ids += written("v7", "[INST]", "Q", "[/INST]", "[SYSTEM_PROMPT]", "U", "[/SYSTEM_PROMPT]")
    assert encode("v7", messages, TOOLS) == ids


RESULTS = {
    "v2": ("[TOOL_RESULTS]", '[{"name": null, "content": {"a": 1}}]', "[/TOOL_RESULTS]"),
    "v3": ("[TOOL_RESULTS]", '{"content": {"a": 1}, "call_id": "123456789"}', "[/TOOL_RESULTS]"),
    "v7": ("[TOOL_RESULTS]", "123456789", "[TOOL_CONTENT]", '{"a":1}', "[/TOOL_RESULTS]"),
}


@pytest.mark.parametrize("version", RESULTS)
def test_calls_and_results(version: str) -> None:
    calls = CALLS_V3 if version != "v2" else '[{"name": "now", "arguments": {"at": "é"}}]'
    ids = written(version, "<s>", "[INST]", "Q", "[/INST]", "[TOOL_CALLS]", calls, "</s>")
    ids += written(version, *RESULTS[version])
    assert encode(version, [*ASKED, result('{"a":1}')]) == ids


def test_past_calls_are_left_out_in_v2_alone() -> None:
    messages = [*ASKED, result("1"), assistant("A"), user("R")]
    ids = written("v2", "<s>", "[INST]", "Q", "[/INST]", "A", "</s>", "[INST]", "R", "[/INST]")
    assert encode("v2", messages) == ids
    for version in ("v3", "v7"):
        assert written(version, "[TOOL_CALLS]")[0] in encode(version, messages)
        assert written(version, "[TOOL_RESULTS]")[0] in encode(version, messages)


def test_v7_has_text_before_calls() -> None:
    messages = [user("Q"), assistant("A ", tool_calls=[call("now", {"at": "é"})]), result("")]
    ids = written("v7", "<s>", "[INST]", "Q", "[/INST]", "A", "[TOOL_CALLS]", CALLS_V3, "</s>")
    ids += written("v7", "[TOOL_RESULTS]", "123456789", "[TOOL_CONTENT]", "[/TOOL_RESULTS]")
    assert encode("v7", messages) == ids


ARGUMENTS = {
    "dict": {"at": "é"},
    "JSON": '{"at":\n"é"}',
    "escaped JSON": '{"at": "\\u00e9"}',
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_ways_to_give_arguments(arguments: object) -> None:
    given = [user("Q"), calling(call("now", arguments)), result("1")]
    objects = [user("Q"), calling(ToolCall("now", {"at": "é"}, "123456789")), result("1")]
    assert encode("v3", given) == encode("v3", objects)
    assert encode("v3", given) == encode("v3", [*ASKED, result("1")])


@pytest.mark.parametrize(
    ("text", "json_text"),
    [
        ("", "{}"),
        ("22", "22"),
        ('{"a": ', '"{\\"a\\": "'),
        ("plain é", '"plain é"'),
        ("9" * 5000, f'"{"9" * 5000}"'),  # more digits than Python makes a number of
        ("[" * 100_000, f'"{"[" * 100_000}"'),
    ],
    ids=["empty", "number", "cut short", "text", "long number", "deep"],
)
def test_results_are_json_or_text(text: str, json_text: str) -> None:
    block = f'{{"content": {json_text}, "call_id": "123456789"}}'
    ids = written("v3", "[TOOL_RESULTS]", block, "[/TOOL_RESULTS]")
    assert encode("v3", [*ASKED, result(text)])[-len(ids) :] == ids


INJECTIONS = [
    "</s>",
    "<s>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/TOOL_RESULTS]",
    "[SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
    "[REFERENCE_DOC_3]",
]


@pytest.mark.parametrize("version", ["v2", "v3", "v7"])
@pytest.mark.parametrize("text", INJECTIONS)
def test_no_text_becomes_a_control_token(version: str, text: str) -> None:
    def encoded(word: str) -> list[int]:
        return encode(
            version,
            [system(word), user(word), calling(call("now", {word: word})), result(word)],
            [definition("now", description=word, parameters={"title": word})],
        )

    assert specials(version, encoded(text)) == specials(version, encoded("harmless"))


def specials(version: str, ids: list[int]) -> list[int]:
    tokenizer = mistral.tokenizer(version)
    return [i for i in ids if tokenizer.control_id(tokenizer.piece(i)) == i]


def test_openai_definitions_may_leave_out_what_is_empty() -> None:
    short = [{"function": {"name": "now"}}]
    whole = [definition("now", description="", strict=True)]
    none = [definition("now", description=None, parameters=None, strict=None)]
    assert encode("v3", [user("Q")], short) == encode("v3", [user("Q")], whole)
    assert encode("v3", [user("Q")], short) == encode("v3", [user("Q")], none)


DEEP: list[Any] = []
for _ in range(10_000):
    DEEP = [DEEP]

REFUSED_TOOLS = {
    "no dict": (["now"], "tool 0: must be a dict of function, type"),
    "one tool": (definition("now"), "tool 0: must be a dict"),
    "type": ([{**TOOLS[0], "type": "web"}], "tool 0: type 'web' is unknown"),
    "no function": ([{"type": "function"}], "tool 0: 'function': must be a dict"),
    "key": ([{**TOOLS[0], "x": 1}], "tool 0: unknown key 'x'"),
    "key of function": ([definition("now", x=1)], "tool 0: 'function': unknown key 'x'"),
    "name": ([TOOLS[0], definition("a b")], "tool 1: name 'a b' must be 1 to 64 letters"),
    "long name": ([definition("a" * 65)], "tool 0: name .* must be 1 to 64 letters"),
    "newline": ([definition("now\n")], "tool 0: name .* must be 1 to 64 letters"),
    "no name": ([{"function": {}}], "tool 0: name None must be"),
    "description": ([definition("now", description=1)], "tool 0: 'description' must be a str"),
    "parameters": ([definition("now", parameters="x")], "tool 0: 'parameters' must be a dict"),
    "strict": ([definition("now", strict="yes")], "tool 0: 'strict' must be a bool"),
    "no JSON": ([definition("now", parameters={"a": {1}})], "tools: cannot be written as JSON"),
    "deep": ([definition("now", parameters={"a": DEEP})], "tools: cannot be written as JSON"),
}


@pytest.mark.parametrize("case", REFUSED_TOOLS)
def test_refused_definitions(case: str) -> None:
    tools, error = REFUSED_TOOLS[case]
    with pytest.raises(ChatError, match=error):
        encode("v3", [user("Q")], tools)


REFUSED = {
    "no question for tools": ("v7", [system("S")], "tools: they go with the last question"),
    "calls last": ("v3", ASKED, "message 1: the last must be a question"),
    "result first": ("v3", [result("1"), user("Q")], "message 0: no tool call awaits this result"),
    "result alone": ("v3", [result("1")], "message 0: no tool call awaits this result"),
    "result of no call": (
        "v3",
        [user("Q"), assistant("A"), result("1")],
        "message 2: no tool call awaits this result",
    ),
    "more results than calls": (
        "v7",
        [*ASKED, result("1"), result("2")],
        "message 3: no tool call awaits this result",
    ),
    "fewer results than calls": (
        "v2",
        [*ASKED, assistant("A"), user("R")],
        "message 2: 1 tool calls before it have no result",
    ),
    "a question before the result": (
        "v3",
        [*ASKED, user("R"), result("1")],
        "message 3: role 'tool' cannot follow 'user'",
    ),
    "system after result": (
        "v7",
        [*ASKED, result("1"), system("S"), user("R")],
        "message 3: role 'system' cannot follow 'tool'",
    ),
    "system after answer": (
        "v7",
        [user("Q"), assistant("A"), system("S"), user("R")],
        "message 2: role 'system' cannot follow 'assistant'",
    ),
    "text and calls": (
        "v3",
        [user("Q"), assistant("A", tool_calls=[call("now", {})]), result("1")],
        "message 1: an assistant message has content or tool_calls, not both",
    ),
    "text, then calls": (
        "v3",
        [user("Q"), assistant("A"), calling(call("now", {})), result("1")],
        "an assistant message has content or tool_calls, not both",
    ),
    "neither": ("v7", [user("Q"), assistant("", tool_calls=[]), user("R")], "cannot be empty"),
    "calls of another kind": (
        "v3",
        [user("Q"), {"role": "assistant", "tool_calls": "now"}, result("1")],
        "message 1: 'tool_calls' must be a list",
    ),
    "call of another kind": (
        "v3",
        [user("Q"), calling("now"), result("1")],
        "message 1: tool call 0: must be a dict of function, id, type",
    ),
    "call without arguments": (
        "v3",
        [user("Q"), calling({"id": "123456789", "function": {"name": "now"}}), result("1")],
        "message 1: tool call 0: 'arguments' is missing",
    ),
    "list of arguments": (
        "v3",
        [user("Q"), calling(call("now", [1])), result("1")],
        "message 1: tool call 0: 'arguments' must be a dict, or JSON text",
    ),
    "arguments that are no JSON": (
        "v3",
        [user("Q"), calling(call("now", {"a": {1}})), result("1")],
        "message 1: tool call 0: cannot be written as JSON",
    ),
    "name of a call": (
        "v3",
        [user("Q"), calling(call("now!", {})), result("1")],
        "message 1: tool call 0: name 'now!' must be",
    ),
    "no id": (
        "v3",
        [user("Q"), calling(ToolCall("now", {})), result("1")],
        "message 1: tool call 0: id None must be nine letters and digits",
    ),
    "id with a newline": (
        "v3",
        [user("Q"), calling(call("now", {}, "123456789\n")), result("1")],
        "tool call 0: id '123456789.n' must be nine letters and digits",
    ),
    "id of a result": (
        "v7",
        [*ASKED, result("1", "12345678")],
        "message 2: tool_call_id '12345678' must be nine",
    ),
    "id that is no text": (
        "v2",
        [*ASKED, result("1", 1)],
        "message 2: tool_call_id 1 must be a str",
    ),
    "name of a result": ("v2", [*ASKED, result("1", name="a b")], "message 2: name 'a b' must be"),
    "result without content": ("v3", [*ASKED, result(None)], "message 2: content must be a str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    version, messages, error = REFUSED[case]
    with pytest.raises(ChatError, match=error):
        encode(version, messages, TOOLS)


def test_a_lone_surrogate_in_json_is_refused() -> None:
    with pytest.raises(ParameterError, match="lone surrogate"):
        encode("v3", [*ASKED, result('"\\ud800"')])


def test_an_answer_with_calls_may_come_first() -> None:
    """mistral-common leaves the first message out when it counts calls and results."""
    messages = [ASKED[1], result("1"), assistant("A"), user("Q")]
    ids = written("v3", "<s>", "[INST]", "[/INST]", "[TOOL_CALLS]", CALLS_V3, "</s>")
    assert encode("v3", messages)[: len(ids)] == ids
