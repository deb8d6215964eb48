"""`pymixtral run`: one prompt, one answer."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import asdict
from itertools import chain
from typing import Any

import click

from pymixtral.cli.console import Console, human_rate
from pymixtral.cli.model import loaded
from pymixtral.cli.options import (
    LoadOptions,
    console_options,
    load_options,
    sampling_options,
    shared,
)
from pymixtral.cli.text import read_argument, read_file
from pymixtral.errors import ChatError
from pymixtral.llm import LLM, Completion, CompletionStream, Usage
from pymixtral.sampling import SamplingParams


@click.command("run")
@click.argument("arguments", nargs=-1, required=True, metavar="[MODEL] PROMPT")
@click.option("--raw", is_flag=True, help="Complete PROMPT as it is, without the chat template.")
@shared("chat_template")
@click.option(
    "--tools",
    "tools_file",
    type=click.Path(exists=True, dir_okay=False),
    help="JSON file: a list of the tools that the answer may call.",
)
@sampling_options()
@load_options()
@shared("as_json")
@console_options
def command(
    console: Console,
    arguments: tuple[str, ...],
    raw: bool,
    chat_template: str | None,
    tools_file: str | None,
    params: SamplingParams,
    load: LoadOptions,
    as_json: bool,
) -> None:
    """Answer PROMPT.

    "-" reads it from stdin, less one newline at its end.

    With --json: {text, token_ids, finish_reason ("stop" or "length"), usage {prompt_tokens,
    cached_tokens, completion_tokens, prompt_seconds, generation_seconds}}, and with --tools also
    tool_calls: null, or [{name, arguments, id}].

    \b
    Examples:
      pymixtral run "Tell me a story about a fox."
      pymixtral run mixtral.gguf "Why is the sky blue?" --temperature 0
      pymixtral run --raw "Once upon a time" --max-tokens 64 --seed 1
      git diff | pymixtral run -q mixtral.gguf - > review.txt
      pymixtral run mixtral-8x22b.gguf "Is it raining?" --tools tools.json --json | jq .tool_calls
    """
    model, prompt = _split(arguments)
    if raw and tools_file:
        raise click.UsageError("--tools needs the chat template, which --raw leaves out")
    tools = _read_tools(tools_file) if tools_file else None
    text = read_argument(prompt)
    with loaded(console, model, load, chat_template) as llm:
        with _start(llm, text, params, raw, tools) as stream:
            if as_json:
                with console.status("generating"):
                    deque(stream, maxlen=0)
                console.json(_document(stream.completion, has_tools=tools is not None))
            else:
                _show(console, stream)
        console.note(_speeds(stream.completion.usage))


def _split(arguments: tuple[str, ...]) -> tuple[str | None, str]:
    """Model and prompt. A lone model file is a prompt that was forgotten."""
    if len(arguments) == 2:
        return arguments[0], arguments[1]
    if len(arguments) > 2:
        raise click.UsageError(f"{len(arguments)} arguments; put quotes around the prompt")
    if arguments[0].endswith(".gguf") or os.path.isfile(arguments[0]):
        raise click.UsageError(
            f"{arguments[0]} is a file, and PROMPT is missing; to talk to a model: "
            f"pymixtral chat {arguments[0]}"
        )
    return None, arguments[0]


def _read_tools(path: str) -> list[Any]:
    """Definitions, which the chat template checks."""
    try:
        tools = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise ChatError(f"{path}: is not JSON: {error}") from None
    if not isinstance(tools, list):
        raise ChatError(f"{path}: must be a list of tools")
    return tools


def _start(
    llm: LLM, text: str, params: SamplingParams, raw: bool, tools: list[Any] | None
) -> CompletionStream:
    if raw:
        return llm.generate(text, params, stream=True)
    return llm.chat([{"role": "user", "content": text}], params, tools=tools, stream=True)


def _show(console: Console, stream: CompletionStream) -> None:
    """Shows the pieces as they come; a terminal gets the newline that the answer may lack."""
    with console.status("reading the prompt"):
        first = next(stream, "")
    for piece in chain([first], stream):
        console.answer(piece)
    console.end_terminal_line()


def _document(completion: Completion, *, has_tools: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "usage": asdict(completion.usage),
    }
    if has_tools:
        calls = completion.tool_calls
        document["tool_calls"] = calls and [asdict(call) for call in calls]
    return document


def _speeds(usage: Usage) -> str:
    """One line: tokens read and generated, and how fast."""
    n_read = usage.prompt_tokens - usage.cached_tokens
    return (
        f"prompt {n_read} tokens, {_rate(n_read, usage.prompt_seconds)} · "
        f"answer {usage.completion_tokens} tokens, "
        f"{_rate(usage.completion_tokens, usage.generation_seconds)}"
    )


def _rate(n_tokens: int, seconds: float) -> str:
    return f"{human_rate(n_tokens / seconds) if seconds else '-'} tokens/s"
