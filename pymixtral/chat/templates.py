"""The chat templates by name, and encoding a conversation with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymixtral.chat.chatml import ChatML
from pymixtral.chat.jinja import JinjaTemplate
from pymixtral.chat.messages import Message, parse_messages
from pymixtral.chat.template import Template
from pymixtral.chat.tools import tools_json
from pymixtral.chat.turns import Question
from pymixtral.chat.v1 import V1
from pymixtral.chat.v2_v3 import V2, V3
from pymixtral.chat.v7 import V7
from pymixtral.errors import ChatError
from pymixtral.tokenizer import Tokenizer

DEFAULT = "v1"
TEMPLATES: dict[str, type[Template]] = {
    template.rules.version: template for template in (V1, V2, V3, V7, ChatML, JinjaTemplate)
}


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    version: str | None = None,
) -> list[int]:
    """Ids of a conversation, ready for the model to answer.

    Args:
        tokenizer: the model's.
        messages: in order, each one of
            {"role": "system" | "user", "content": text},
            {"role": "assistant", "content": text, "tool_calls": [calls]}, of which one may be left
            out, and a call is a `ToolCall` or {"id": ..., "function": {"name": ..., "arguments":
            dict or JSON text}},
            {"role": "tool", "content": text, "tool_call_id": id, "name": name}, the result of a
            call: v2 shows the name, later templates the id.
            A text is a str, or a list of {"type": "text", "text": str} that a blank line joins.
        tools: {"type": "function", "function": {"name": ..., "description": ..., "parameters":
            JSON schema}} of each tool that may be called; None or empty where the template knows
            none.
        version: a key of `TEMPLATES`; None stands for "v1".

    Raises:
        ChatError: the template cannot express the conversation, as docs/chat.md tells, or the
            vocabulary lacks its tokens.
        ParameterError: a text holds a lone surrogate.
    """
    template = make_template(tokenizer, version)
    rules = template.rules
    definitions = tools_json(tools or ())
    if definitions and not rules.tools:
        raise ChatError(f"chat template {rules.version} has no tools; leave `tools` out")
    turns = parse_messages(messages, rules)
    if definitions and not any(isinstance(turn, Question) for turn in turns):
        raise ChatError("tools: they go with the last question, and there is none")
    return [*template.encode(turns, definitions), *template.opener]


def make_template(tokenizer: Tokenizer, version: str | None = None) -> Template:
    """The template called `version`, for a vocabulary; None stands for "v1".

    Raises:
        ChatError: there is none, or the vocabulary lacks its tokens.
    """
    name = DEFAULT if version is None else version
    if name not in TEMPLATES:
        raise ChatError(f"chat template {name!r} does not exist; there is {', '.join(TEMPLATES)}")
    return TEMPLATES[name](tokenizer)
