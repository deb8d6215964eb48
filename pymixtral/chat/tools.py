"""Tools: their definitions and the calls in messages, and the calls that a model generates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pymixtral.errors import ChatError
from pymixtral.tokenizer import Tokenizer

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
CALLS_TOKEN = "[TOOL_CALLS]"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an answer asks for.

    Attributes:
        name: of the tool.
        arguments: the decoded JSON: in a generated call always a dict.
        id: nine letters and digits that name the call in its result. Only a call that was written
            by hand for template v2, which shows no ids, may lack one.
    """

    name: str
    arguments: Any
    id: str | None = None


# ---- Messages ----


def tools_json(tools: Sequence[Mapping[str, Any]]) -> str:
    """The JSON text that tells the model of its tools; "" where there are none.

    Args:
        tools: {"type": "function", "function": {"name", "description", "parameters"}}, the latter
            a JSON schema. Name aside, all may be left out; "strict" is allowed and means nothing.

    Raises:
        ChatError: a definition is another.
    """
    definitions = [_definition(f"tool {i}", tool) for i, tool in enumerate(tools)]
    return json_text("tools", definitions) if definitions else ""


def read_call(where: str, call: object, *, needs_id: bool) -> ToolCall:
    """A call of an assistant message: a `ToolCall`, or {"id", "type", "function": {"name",
    "arguments"}} whose arguments are a dict, or JSON text.

    Raises:
        ChatError: it is neither, or lacks its id.
    """
    name: object
    call_id: object
    if isinstance(call, ToolCall):
        name, arguments, call_id = call.name, call.arguments, call.id
    else:
        fields = _checked_keys(where, call, {"id", "type", "function"})
        function = _function(where, fields, {"name", "arguments"})
        if "arguments" not in function:
            raise ChatError(f"{where}: 'arguments' is missing")
        name, arguments = function.get("name"), _arguments(where, function["arguments"])
        call_id = fields.get("id")
    call_id = checked_call_id(f"{where}: id", call_id, is_needed=needs_id)
    return ToolCall(checked_name(where, name), arguments, call_id)


def checked_name(where: str, name: object) -> str:
    """A tool's name, if it is one."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ChatError(f"{where}: name {name!r} must be 1 to 64 letters, digits, '_' and '-'")
    return name


def checked_call_id(where: str, call_id: object, *, is_needed: bool) -> str | None:
    """A call's id, if it is one; where none is needed, any text or None."""
    if is_needed and not (isinstance(call_id, str) and CALL_ID.fullmatch(call_id)):
        raise ChatError(f"{where} {call_id!r} must be nine letters and digits")
    if not isinstance(call_id, str | None):
        raise ChatError(f"{where} {call_id!r} must be a str")
    return call_id


def decoded(text: str) -> Any:
    """The value of a JSON text: of "" an empty object; what is not JSON stands for itself."""
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


def json_text(where: str, value: object) -> str:
    """JSON as the templates have it: on one line, with spaces, and all of Unicode as it is.

    Raises:
        ChatError: `value` is not made of what JSON knows.
    """
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatError(f"{where}: cannot be written as JSON: {error}") from None


def _definition(where: str, tool: object) -> dict[str, Any]:
    fields = _checked_keys(where, tool, {"type", "function"})
    function = _function(where, fields, {"name", "description", "parameters", "strict"})
    description, parameters = function.get("description"), function.get("parameters")
    if not isinstance(description, str | None):
        raise ChatError(f"{where}: 'description' must be a str")
    if not isinstance(parameters, Mapping | None):
        raise ChatError(f"{where}: 'parameters' must be a dict, a JSON schema")
    if not isinstance(function.get("strict"), bool | None):
        raise ChatError(f"{where}: 'strict' must be a bool")
    return {
        "type": "function",
        "function": {
            "name": checked_name(where, function.get("name")),
            "description": description or "",
            "parameters": dict(parameters or {}),
        },
    }


def _function(where: str, fields: Mapping[str, Any], keys: set[str]) -> Mapping[str, Any]:
    """The "function" of a tool or a call."""
    if fields.get("type", "function") != "function":
        raise ChatError(f"{where}: type {fields['type']!r} is unknown; use 'function'")
    return _checked_keys(f"{where}: 'function'", fields.get("function"), keys)


def _checked_keys(where: str, value: object, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ChatError(f"{where}: must be a dict of {', '.join(sorted(keys))}")
    if unknown := value.keys() - keys:
        raise ChatError(f"{where}: unknown key {', '.join(sorted(map(repr, unknown)))}")
    return value


def _arguments(where: str, arguments: object) -> Any:
    """Decoded arguments. A dict goes through JSON, which knows no keys but text."""
    if arguments is None:
        return {}
    if isinstance(arguments, dict):
        arguments = json_text(where, arguments)
    if not isinstance(arguments, str):
        raise ChatError(f"{where}: 'arguments' must be a dict, or JSON text")
    return decoded(arguments)


# ---- Generated answers ----


def parse_tool_calls(tokenizer: Tokenizer, ids: Iterable[int]) -> list[ToolCall]:
    """The calls in a generated answer of template v2, v3 or v7, in order; [] where it has none.

    They are what follows the control token [TOOL_CALLS]: [{"name", "arguments", "id"}, ...]. The
    characters "[TOOL_CALLS]" do not count, nor does JSON without the token. A call whose id is no
    nine letters and digits gets one that depends on the answer alone, so that equal answers have
    equal ids.

    Args:
        ids: the generated ids, with or without the end of sequence.

    Raises:
        ChatError: the token is there, and what follows is no list of calls.
        ParameterError: an id is outside the vocabulary.
    """
    ids = list(ids)
    marker = tokenizer.control_id(CALLS_TOKEN)
    if marker is None or marker not in ids:
        return []
    text = tokenizer.decode(ids[ids.index(marker) + 1 :])
    calls = _generated_json("generated tool calls", text)
    if not isinstance(calls, list) or not calls:
        raise ChatError("generated tool calls: are no list of at least one")
    return [_generated_call(i, call, text) for i, call in enumerate(calls)]


def _generated_json(where: str, text: str) -> Any:
    """The value of a text that must be JSON, without the numbers NaN and Infinity."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise ChatError(f"{where}: are not JSON") from None
    return value


def _generated_call(position: int, call: object, text: str) -> ToolCall:
    where = f"generated tool call {position}"
    if not isinstance(call, dict):
        raise ChatError(f"{where}: is no object")
    name, arguments, call_id = (call.get(key) for key in ("name", "arguments", "id"))
    if isinstance(arguments, str):  # encoded twice, as in OpenAI's API
        arguments = _generated_json(f"{where}: its arguments", arguments)
    if not isinstance(arguments, dict):
        raise ChatError(f"{where}: its arguments are no object")
    if not isinstance(call_id, str) or not CALL_ID.fullmatch(call_id):
        call_id = sha256(f"{position} {text}".encode()).hexdigest()[:9]
    return ToolCall(checked_name(where, name), arguments, call_id)
