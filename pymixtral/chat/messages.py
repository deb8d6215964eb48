"""Messages, dicts as every chat API has them, to turns; or why they are no conversation.

The rules are those of mistral-common's request validator and normalizer; docs/chat.md lists them
with the points in which this is stricter or laxer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymixtral.chat.tools import checked_call_id, checked_name, read_call
from pymixtral.chat.turns import BLANK_LINE, Answer, Question, Result, System, Turn
from pymixtral.errors import ChatError

Message = Mapping[str, Any]

KEYS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id", "name"},
}
ROLES: dict[type[Turn], str] = {
    System: "system",
    Question: "user",
    Answer: "assistant",
    Result: "tool",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a template can express.

    Attributes:
        version: the template's name.
        tools: definitions of tools, calls and results.
        call_ids: calls and results carry ids of nine letters and digits.
        text_with_calls: one answer may have text and calls.
        system_turns: system messages stand where they are. Otherwise they are joined into one
            prompt, which a question carries: where no question comes first, an empty one is added.
        system_after_answer: a system message may follow an answer or a result.
    """

    version: str
    tools: bool = False
    call_ids: bool = False
    text_with_calls: bool = False
    system_turns: bool = False
    system_after_answer: bool = False


def parse_messages(messages: Sequence[Message], rules: Rules) -> list[Turn]:
    """The turns of a conversation that the rules allow.

    Questions in a row are one turn, and so are answers. Where a system prompt is carried by a
    question, it is the first turn.

    Raises:
        ChatError: the rules do not allow it.
    """
    turns = [_parse(f"message {i}", message, rules) for i, message in enumerate(messages)]
    _check_order(turns, rules)
    merged = _merge(turns)
    _check_answers(merged, rules)
    if rules.system_turns:
        return merged
    prompts = [
        turn.text
        for turn, message in zip(turns, messages, strict=True)
        if isinstance(turn, System) and message["content"]  # [""] counts, "" and [] do not
    ]
    rest = [turn for turn in merged if not isinstance(turn, System)]
    if not rest or not isinstance(rest[0], Question):
        rest.insert(0, Question(""))
    return [System(BLANK_LINE.join(prompts)), *rest]


# ---- One message ----


def _parse(where: str, message: Message, rules: Rules) -> Turn:
    if not isinstance(message, Mapping):
        raise ChatError(f"{where}: is a {type(message).__name__}; give a dict of role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in KEYS:
        raise ChatError(f"{where}: role {role!r} is unknown; use {', '.join(KEYS)}")
    if unknown := message.keys() - KEYS[role]:
        raise ChatError(f"{where}: unknown key {', '.join(sorted(map(repr, unknown)))}")
    if not rules.tools and (role == "tool" or message.get("tool_calls")):
        raise ChatError(f"{where}: chat template {rules.version} has no tools; leave them out")
    if role == "assistant":
        return _parse_answer(where, message, rules)
    text = _joined(_texts(where, message.get("content")))
    if role == "tool":
        return _parse_result(where, message, text, rules)
    return System(text) if role == "system" else Question(text)


def _parse_answer(where: str, message: Message, rules: Rules) -> Answer:
    content, calls = message.get("content"), message.get("tool_calls")
    texts = [] if content is None else _texts(where, content)
    if not isinstance(calls, list | tuple | None):
        raise ChatError(f"{where}: 'tool_calls' must be a list")
    if not rules.text_with_calls and bool(texts) == bool(calls):
        raise ChatError(f"{where}: {_EITHER_OR if texts else _NOT_EMPTY}")
    return Answer(
        _joined(texts),
        tuple(
            read_call(f"{where}: tool call {i}", call, needs_id=rules.call_ids)
            for i, call in enumerate(calls or ())
        ),
    )


def _parse_result(where: str, message: Message, text: str, rules: Rules) -> Result:
    call_id, name = message.get("tool_call_id"), message.get("name")
    return Result(
        text,
        checked_call_id(f"{where}: tool_call_id", call_id, is_needed=rules.call_ids),
        None if name is None else checked_name(where, name),
    )


def _texts(where: str, content: object) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    if not isinstance(content, list):
        raise ChatError(f"{where}: content must be a str or a list of text chunks")
    for chunk in content:
        is_text = isinstance(chunk, Mapping) and chunk.keys() == {"type", "text"}
        if not (is_text and chunk["type"] == "text" and isinstance(chunk["text"], str)):
            raise ChatError(
                f'{where}: each chunk of content must be {{"type": "text", "text": str}}'
            )
    return [chunk["text"] for chunk in content]


def _joined(texts: Iterable[str]) -> str:
    return BLANK_LINE.join(text for text in texts if text)


# ---- All of them ----

_NOT_EMPTY = "an assistant message cannot be empty"
_EITHER_OR = "an assistant message has content or tool_calls, not both"


def _check_order(turns: Sequence[Turn], rules: Rules) -> None:
    """Who may follow whom; and each result answers a call, each call before an answer has one."""
    if not turns:
        raise ChatError("messages: empty; give at least one")
    forbidden: set[tuple[type[Turn], type[Turn]]] = {(Question, Result)}
    if not rules.system_after_answer:
        forbidden |= {(Answer, System), (Result, System)}
    n_awaited = 0  # results
    before: Turn | None = None
    for i, turn in enumerate(turns):
        if before is not None and (type(before), type(turn)) in forbidden:
            raise ChatError(
                f"message {i}: role {ROLES[type(turn)]!r} cannot follow {ROLES[type(before)]!r}"
            )
        if isinstance(turn, Answer):
            if n_awaited:
                raise ChatError(f"message {i}: {n_awaited} tool calls before it have no result")
            n_awaited = len(turn.calls)
        elif isinstance(turn, Result):
            if n_awaited == 0:
                raise ChatError(f"message {i}: no tool call awaits this result")
            n_awaited -= 1
        before = turn
    if isinstance(before, Answer):
        raise ChatError(f"message {len(turns) - 1}: the last must be a question, not an answer")


def _merge(turns: Iterable[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    for turn in turns:
        before = merged[-1] if merged else None
        if isinstance(before, Question) and isinstance(turn, Question):
            merged[-1] = Question(_joined([before.text, turn.text]))
        elif isinstance(before, Answer) and isinstance(turn, Answer):
            merged[-1] = Answer(_joined([before.text, turn.text]), before.calls + turn.calls)
        else:
            merged.append(turn)
    return merged


def _check_answers(turns: Iterable[Turn], rules: Rules) -> None:
    for turn in turns:
        if isinstance(turn, Answer):
            if not turn.text and not turn.calls:
                raise ChatError(f"messages: {_NOT_EMPTY}")
            if turn.text and turn.calls and not rules.text_with_calls:
                raise ChatError(f"messages: {_EITHER_OR}")
