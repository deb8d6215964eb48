"""Short names for the parts of a conversation with tools."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]


def system(content: object) -> Message:
    return {"role": "system", "content": content}


def user(content: object) -> Message:
    return {"role": "user", "content": content}


def assistant(content: object, **more: object) -> Message:
    return {"role": "assistant", "content": content, **more}


def calling(*calls: object, **more: object) -> Message:
    return {"role": "assistant", "tool_calls": list(calls), **more}


def result(content: object, call_id: object = "123456789", **more: object) -> Message:
    return {"role": "tool", "content": content, "tool_call_id": call_id, **more}


def text_chunk(text: str) -> Message:
    return {"type": "text", "text": text}


def call(name: str, arguments: object, call_id: object = "123456789") -> Message:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def definition(name: str, **more: object) -> Message:
    return {"type": "function", "function": {"name": name, "parameters": {}, **more}}
