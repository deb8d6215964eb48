"""Chat templates against mistral-common: the same ids, or refused by both.

Where docs/chat.md says that they differ, conversations are not made, or are looked for by name.
"""

import json
import operator
import re
from functools import cache
from itertools import chain, pairwise
from typing import Any

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st
from messages import Message, call, calling, definition, result, user
from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from reference import mistral

from pymixtral.chat import Conversation, ToolCall, encode_chat, parse_tool_calls
from pymixtral.errors import ChatError

VERSIONS = ["v1", "v2", "v3", "v7"]
WITH_TOOLS = ["v2", "v3", "v7"]


@cache
def reference(version: str) -> MistralTokenizer:
    return getattr(MistralTokenizer, version)()


# ---- Texts ----

snippets = [
    "</s>", "<s>", "[INST]", " [/INST]", "[TOOL_CALLS]", "[TOOL_CONTENT]", "[/SYSTEM_PROMPT]",
    "<|im_start|>", "<|im_end|>", "<0x0A>", " ", "\n", "▁", "é語🧿", '{"a": ', "]", "1",
]  # fmt: skip
full_texts = st.text(min_size=1) | st.lists(
    st.sampled_from([*snippets, "the", "a"]), min_size=1
).map("".join)
texts = st.just("") | full_texts
contents = texts | st.lists(texts.map(lambda text: {"type": "text", "text": text}), max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(texts, values, max_size=3),
    max_leaves=6,
)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
bad_names = texts.map(lambda text: f"{text} ")
call_ids = st.from_regex(r"[a-zA-Z0-9]{9}", fullmatch=True)
arguments = (
    st.dictionaries(texts, json_values, max_size=3)
    | json_values.map(json.dumps)
    | json_values.map(lambda value: json.dumps(value, ensure_ascii=False, indent=1))
    | texts
    | st.none()
)
results_text = contents | json_values.map(json.dumps)


# ---- Conversations ----


def message(role: str, content: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    return st.fixed_dictionaries({"role": st.just(role), "content": content})


systems = st.lists(message("system", contents), max_size=2)
questions = st.lists(message("system", contents) | message("user", contents), max_size=2)
asked = st.tuples(message("user", contents), questions).map(lambda parts: [parts[0], *parts[1]])
answered = st.lists(message("assistant", full_texts), min_size=1, max_size=2)
calls = st.builds(call, names, arguments, call_ids)


@st.composite
def called(draw: st.DrawFn, n_calls: int) -> list[Message]:
    """An answer with calls, and all their results."""
    made = [draw(calls) for _ in range(n_calls)]
    ids = draw(st.permutations([each["id"] for each in made]))
    name = draw(st.none() | names)
    results = [result(draw(results_text), each, name=name) for each in ids]
    return [{"role": "assistant", "tool_calls": made}, *results]


def joined(parts: Any) -> list[Message]:
    return list(chain(*parts))


turns = st.lists(st.builds(operator.add, asked, answered), max_size=3).map(joined)
usual_order = st.tuples(systems, turns, asked).map(joined)
tool_turns = st.tuples(asked, st.integers(1, 2).flatmap(called), answered).map(joined)
tool_order = st.tuples(
    systems,
    st.lists(tool_turns | st.builds(operator.add, asked, answered), max_size=2).map(joined),
    asked,
    st.just([]) | called(1),
).map(joined)
any_message = st.one_of(
    *(message(role, contents) for role in ("system", "user", "assistant")),
    st.builds(result, results_text, call_ids | texts, name=st.none() | names | bad_names),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "tool_calls": st.lists(calls, max_size=2)},
        optional={"content": st.none() | contents},
    ),
)
any_order = st.lists(any_message, max_size=6)
tool_lists = st.lists(
    st.builds(
        definition,
        names,
        description=texts,
        parameters=st.fixed_dictionaries({"title": texts, "default": json_values}),
    ),
    max_size=2,
)


def encode_by_reference(
    version: str, messages: list[Message], tools: list[Message]
) -> list[int] | None:
    """Ids by mistral-common, or None where it refuses."""
    try:
        request = ChatCompletionRequest.model_validate({"messages": messages, "tools": tools})
        return reference(version).encode_chat_completion(request).tokens
    except (MistralCommonException, ValueError):
        return None


def encode(version: str, messages: list[Message], tools: list[Message]) -> list[int] | None:
    """Ids, or None where they are refused."""
    try:
        return encode_chat(mistral.tokenizer(version), messages, tools, version)
    except ChatError:
        return None


# ---- The same ids ----


@given(usual_order)
@pytest.mark.parametrize("version", VERSIONS)
def test_equal_to_mistral_common(version: str, messages: list[Message]) -> None:
    ids = encode(version, messages, [])
    assert ids is not None
    assert ids == encode_by_reference(version, messages, [])


@given(tool_order, tool_lists)
@pytest.mark.parametrize("version", WITH_TOOLS)
def test_equal_to_mistral_common_with_tools(
    version: str, messages: list[Message], tools: list[Message]
) -> None:
    ids = encode(version, messages, tools)
    assert ids is not None
    assert ids == encode_by_reference(version, messages, tools)


@given(any_order, st.booleans())
@pytest.mark.parametrize("version", VERSIONS)
def test_refused_like_by_mistral_common(
    version: str, messages: list[Message], has_tools: bool
) -> None:
    tools = [definition("now")] if has_tools and version != "v1" else []
    assume(not is_beyond_comparison(version, messages))
    ids = encode(version, messages, tools)
    if is_refused_by_design(version, messages, tools):
        assert ids is None
    else:
        event("refused" if ids is None else "encoded")
        assert ids == encode_by_reference(version, messages, tools)


def is_beyond_comparison(version: str, messages: list[Message]) -> bool:
    """The two kinds that mistral-common alone refuses."""
    begins_with_calls = bool(messages) and bool(messages[0].get("tool_calls"))
    roles = [each["role"] for each in messages]
    has_results_in_a_row = any(pair == ("tool", "tool") for pair in pairwise(roles))
    return begins_with_calls or (version == "v2" and has_results_in_a_row)


def is_refused_by_design(version: str, messages: list[Message], tools: list[Message]) -> bool:
    """The two kinds that mistral-common alone accepts."""
    n_awaited = 0
    for each in messages:
        if each["role"] == "assistant":
            n_awaited = len(each.get("tool_calls") or ())
        n_awaited -= each["role"] == "tool"
        if n_awaited < 0:
            return True
    has_question = any(each["role"] == "user" for each in messages)
    return version == "v7" and bool(tools) and not has_question


# ---- Control tokens ----


def harmless(messages: list[Message]) -> list[Message]:
    """The same conversation, in which every text is "x"."""
    replaced = []
    for each in messages:
        calls = [call("x", {}) for _ in each.get("tool_calls") or ()]
        content = {"content": "x"} if "content" in each else {}
        replaced.append({**each, **content, **({"tool_calls": calls} if calls else {})})
    return replaced


def special_tokens(version: str, messages: list[Message], tools: list[Message]) -> list[str]:
    tokenizer = mistral.tokenizer(version)
    pieces = map(tokenizer.piece, encode_chat(tokenizer, messages, tools, version))
    return [piece for piece in pieces if tokenizer.control_id(piece) is not None]


@given(usual_order)
@pytest.mark.parametrize("version", ["v1", "chatml"])
def test_messages_hold_no_control_token(version: str, messages: list[Message]) -> None:
    expected = special_tokens(version, harmless(messages), [])
    assert special_tokens(version, messages, []) == expected


@given(tool_order, tool_lists)
@pytest.mark.parametrize("version", WITH_TOOLS)
def test_tools_hold_no_control_token(
    version: str, messages: list[Message], tools: list[Message]
) -> None:
    expected = special_tokens(version, harmless(messages), [definition("x") for _ in tools])
    assert special_tokens(version, messages, tools) == expected


# ---- Conversations that grow, and calls that come back ----

generated = st.lists(st.integers(3, 31999), max_size=5)


@given(texts, st.lists(st.tuples(texts, generated), min_size=1, max_size=4))
@pytest.mark.parametrize("version", [*VERSIONS, "chatml"])
def test_a_conversation_only_grows(
    version: str, system: str, turns: list[tuple[str, list[int]]]
) -> None:
    moves_system = version in ("v2", "v3")
    tokenizer = mistral.tokenizer(version)
    conversation = Conversation(tokenizer, None if moves_system else system, version)
    before = conversation.ids
    for question, answer in turns:
        conversation.add_user(question)
        asked = conversation.ids
        assert asked[: len(before)] == before
        assert len(asked) > len(before)
        conversation.add_answer_ids(answer)
        before = conversation.ids
        assert before[:-1] == asked + answer


# JSON has no NaN or Infinity, and sentencepiece's "▁" comes back as a space.
faithful_json = st.dictionaries(texts, json_values, max_size=3).filter(
    lambda value: not re.search("NaN|Infinity|▁", json.dumps(value, ensure_ascii=False))
)


@given(st.lists(st.builds(ToolCall, names, faithful_json, call_ids), min_size=1, max_size=3))
@pytest.mark.parametrize("version", ["v3", "v7"])
def test_calls_come_back(version: str, made: list[ToolCall]) -> None:
    tokenizer = mistral.tokenizer(version)
    messages = [user("Q"), calling(*made), *(result("", each.id) for each in made)]
    ids = encode_chat(tokenizer, messages, version=version)
    end = ids.index(tokenizer.eos_id)
    assert parse_tool_calls(tokenizer, ids[:end]) == made
