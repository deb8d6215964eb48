"""Calls of tools in generated answers."""

from __future__ import annotations

import json

import pytest
from reference import mistral

from pymixtral.chat import ToolCall, parse_tool_calls
from pymixtral.errors import ChatError, ParameterError
from pymixtral.tokenizer import Tokenizer

TOOL_CALLS, EOS = 5, 2
ONE = '[{"name": "now", "arguments": {"at": "é"}, "id": "abcDEF123"}]'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return mistral.tokenizer("v3")


def generated(tokenizer: Tokenizer, text: str) -> list[int]:
    return [TOOL_CALLS, *tokenizer.encode(text)]


def test_a_call(tokenizer: Tokenizer) -> None:
    expected = [ToolCall("now", {"at": "é"}, "abcDEF123")]
    ids = generated(tokenizer, ONE)
    assert parse_tool_calls(tokenizer, ids) == expected
    assert parse_tool_calls(tokenizer, [*ids, EOS]) == expected
    assert parse_tool_calls(tokenizer, iter([*tokenizer.encode("Let me see."), *ids])) == expected


def test_an_answer_without_calls(tokenizer: Tokenizer) -> None:
    for ids in ([], tokenizer.encode("Hello"), tokenizer.encode(f"[TOOL_CALLS] {ONE}")):
        assert parse_tool_calls(tokenizer, ids) == []


def test_a_vocabulary_without_the_token() -> None:
    tokenizer = mistral.tokenizer("v1")
    assert parse_tool_calls(tokenizer, [TOOL_CALLS, *tokenizer.encode(ONE)]) == []


def test_calls_keep_their_order_and_other_keys_do_not_matter(tokenizer: Tokenizer) -> None:
    text = json.dumps(
        [
            {"type": "function", "id": "000000001", "arguments": {}, "name": "b"},
            {"name": "a", "arguments": {"n": [1, None, 2.5]}, "id": "000000002"},
        ]
    )
    assert parse_tool_calls(tokenizer, generated(tokenizer, text)) == [
        ToolCall("b", {}, "000000001"),
        ToolCall("a", {"n": [1, None, 2.5]}, "000000002"),
    ]


def test_arguments_may_be_json_in_a_text(tokenizer: Tokenizer) -> None:
    text = '[{"name": "now", "arguments": "{\\"at\\": 1}", "id": "abcDEF123"}]'
    (call,) = parse_tool_calls(tokenizer, generated(tokenizer, text))
    assert call.arguments == {"at": 1}


@pytest.mark.parametrize("call_id", ["", ', "id": "short"', ', "id": null', ', "id": "ab-cd-ef1"'])
def test_a_call_without_a_good_id_gets_one(tokenizer: Tokenizer, call_id: str) -> None:
    text = f'[{{"name": "now", "arguments": {{}}{call_id}}}]'
    both = f"[{text[1:-1]}, {text[1:-1]}]"
    (call,) = parse_tool_calls(tokenizer, generated(tokenizer, text))
    assert call.id is not None
    assert len(call.id) == 9
    assert call.id.isalnum()
    assert [call] == parse_tool_calls(tokenizer, generated(tokenizer, text))
    first, second = parse_tool_calls(tokenizer, generated(tokenizer, both))
    assert len({call.id, first.id, second.id}) == 3


MALFORMED = {
    "nothing": "",
    "cut short": ONE[:-1],
    "text after it": ONE + " Done.",
    "no list": ONE[1:-1],
    "empty list": "[]",
    "no objects": '["now"]',
    "no name": '[{"arguments": {}}]',
    "name that is none": '[{"name": "no w", "arguments": {}}]',
    "name that is no text": '[{"name": 1, "arguments": {}}]',
    "no arguments": '[{"name": "now"}]',
    "list of arguments": '[{"name": "now", "arguments": []}]',
    "arguments that are no JSON": '[{"name": "now", "arguments": "at 3"}]',
    "arguments that are JSON of a list": '[{"name": "now", "arguments": "[1]"}]',
    "NaN": '[{"name": "now", "arguments": {"a": NaN}}]',
    "number that overflows": '[{"name": "now", "arguments": {"a": -1e999}}]',
    "NaN within": '[{"name": "now", "arguments": "{\\"a\\": NaN}"}]',
    "number too long for Python": f'[{{"name": "now", "arguments": {{"a": {"9" * 5000}}}}}]',
    "depth": "[" * 100_000,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_calls(tokenizer: Tokenizer, case: str) -> None:
    with pytest.raises(ChatError, match="^generated tool call"):
        parse_tool_calls(tokenizer, generated(tokenizer, MALFORMED[case]))


def test_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    with pytest.raises(ParameterError, match="outside the vocabulary"):
        parse_tool_calls(tokenizer, [TOOL_CALLS, 32768])


def test_the_token_within_the_calls_does_not_hide_the_rest(tokenizer: Tokenizer) -> None:
    ids = generated(tokenizer, ONE)
    with pytest.raises(ChatError):
        parse_tool_calls(tokenizer, ids + ids)
