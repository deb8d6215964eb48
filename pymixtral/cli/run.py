"""`pymixtral run`: one prompt, one answer."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import asdict
from itertools import chain

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
from pymixtral.cli.text import read_argument
from pymixtral.llm import LLM, Completion, CompletionStream, Usage
from pymixtral.sampling import SamplingParams


@click.command("run")
@click.argument("arguments", nargs=-1, required=True, metavar="[MODEL] PROMPT")
@click.option("--raw", is_flag=True, help="Complete PROMPT as it is, without the chat template.")
@sampling_options()
@load_options()
@shared("as_json")
@console_options
def command(
    console: Console,
    arguments: tuple[str, ...],
    raw: bool,
    params: SamplingParams,
    load: LoadOptions,
    as_json: bool,
) -> None:
    """Answer PROMPT.

    "-" reads it from stdin, less one newline at its end.

    With --json: {text, token_ids, finish_reason ("stop" or "length"), usage {prompt_tokens,
    cached_tokens, completion_tokens, prompt_seconds, generation_seconds}}.

    \b
    Examples:
      pymixtral run "Tell me a story about a fox."
      pymixtral run mixtral.gguf "Why is the sky blue?" --temperature 0
      pymixtral run --raw "Once upon a time" --max-tokens 64 --seed 1
      git diff | pymixtral run -q mixtral.gguf - > review.txt
    """
    model, prompt = _split(arguments)
    text = read_argument(prompt)
    with loaded(console, model, load) as llm:
        with _start(llm, text, params, raw) as stream:
            if as_json:
                with console.status("generating"):
                    deque(stream, maxlen=0)
                console.json(_document(stream.completion))
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


def _start(llm: LLM, text: str, params: SamplingParams, raw: bool) -> CompletionStream:
    if raw:
        return llm.generate(text, params, stream=True)
    return llm.chat([{"role": "user", "content": text}], params, stream=True)


def _show(console: Console, stream: CompletionStream) -> None:
    """Shows the pieces as they come; a terminal gets the newline that the answer may lack."""
    with console.status("reading the prompt"):
        first = next(stream, "")
    for piece in chain([first], stream):
        console.answer(piece)
    console.end_terminal_line()


def _document(completion: Completion) -> dict[str, object]:
    return {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "usage": asdict(completion.usage),
    }


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
