"""`pymixtral run`: a prompt and its answer, or many from a file."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import click

from pymixtral.cli.console import Console, human_rate
from pymixtral.cli.document import answer_document
from pymixtral.cli.logit_bias import TokenBias, with_biases
from pymixtral.cli.model import loaded
from pymixtral.cli.options import (
    LoadOptions,
    console_options,
    load_options,
    sampling_options,
    shared,
)
from pymixtral.cli.prompts_file import Setup, answer_prompts, read_prompts
from pymixtral.cli.text import read_argument, read_bytes, read_file, split_model
from pymixtral.completion import Completion, CompletionStream, Usage
from pymixtral.errors import ChatError
from pymixtral.formats.errors import one_line
from pymixtral.llm import LLM
from pymixtral.sampling import SamplingParams
from pymixtral.tokenizer import Tokenizer

DEFAULT_PARALLEL = 4


@click.command("run")
@click.argument("arguments", nargs=-1, metavar="[MODEL] PROMPT")
@click.option("--raw", is_flag=True, help="Complete PROMPT as it is, without the chat template.")
@shared("chat_template")
@click.option(
    "--tools",
    "tools_file",
    type=click.Path(exists=True, dir_okay=False),
    help="JSON file: a list of the tools that the answer may call.",
)
@click.option(
    "--file",
    "prompts_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="JSON-lines file of prompts, in place of PROMPT.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    show_default=str(DEFAULT_PARALLEL),
    help="Prompts of --file to answer at a time; each takes a KV cache.",
)
@sampling_options()
@shared("biases")
@click.option(
    "--logprobs",
    type=click.IntRange(0),
    metavar="N",
    help="Tell each token's log-probability, and those of the N likeliest in its place.",
)
@load_options()
@shared("as_json")
@console_options
def command(
    console: Console,
    arguments: tuple[str, ...],
    raw: bool,
    chat_template: str | None,
    tools_file: str | None,
    prompts_file: str | None,
    parallel: int | None,
    params: SamplingParams,
    biases: Sequence[TokenBias],
    logprobs: int | None,
    load: LoadOptions,
    as_json: bool,
) -> None:
    """Answer PROMPT.

    "-" reads it from stdin, less one newline at its end.

    With --json: {text, token_ids, finish_reason ("stop" or "length"), usage {prompt_tokens,
    cached_tokens, completion_tokens, prompt_seconds, generation_seconds}}, with --tools also
    tool_calls: null, or [{name, arguments, id}], and with --logprobs also logprobs: [{token_id,
    piece, logprob, top [{token_id, piece, logprob}]}]. Without --json, the latter go to stderr.

    With --file, each line is {"prompt": text} or {"messages": [...]}, and may have an "id", "tools"
    and "params", which go on top of the options: {"max_tokens": 20, "seed": 1}. The answers are
    lines on stdout in the same order: {line, id}, and the keys of --json or {error}. A line that
    fails does not stop the rest; the exit code is 1 then.

    \b
    Examples:
      pymixtral run "Tell me a story about a fox."
      pymixtral run mixtral.gguf "Why is the sky blue?" --temperature 0
      pymixtral run --raw "Once upon a time" --max-tokens 64 --seed 1 --stop "The end"
      pymixtral run mixtral.gguf "Yes or no?" --max-tokens 1 --logprobs 5 --logit-bias " Maybe=-inf"
      git diff | pymixtral run -q mixtral.gguf - > review.txt
      pymixtral run mixtral-8x22b.gguf "Is it raining?" --tools tools.json --json | jq .tool_calls
      pymixtral run mixtral.gguf --file prompts.jsonl --parallel 8 > answers.jsonl
    """
    if raw and tools_file:
        raise click.UsageError("--tools needs the chat template, which --raw leaves out")
    if parallel and not prompts_file:
        raise click.UsageError("--parallel is for the prompts of --file")
    if logprobs is not None and console.quiet and not (as_json or prompts_file):
        raise click.UsageError("--quiet would silence --logprobs; give --json for them alone")
    tools = _read_tools(tools_file) if tools_file else None
    params = replace(params, logprobs=logprobs)
    if prompts_file:
        if len(arguments) > 1:
            raise click.UsageError("--file brings the prompts; leave PROMPT out")
        data = read_bytes(prompts_file)
        model = arguments[0] if arguments else None
        with loaded(console, model, load, chat_template, parallel or DEFAULT_PARALLEL) as llm:
            setup = Setup(with_biases(params, biases, llm.tokenizer), raw, tools)
            _answer_all(console, llm, data, setup)
    else:
        model, prompt = split_model(arguments, "prompt", "; to talk to a model: pymixtral chat {}")
        text = read_argument(prompt)
        with loaded(console, model, load, chat_template) as llm:
            setup = Setup(with_biases(params, biases, llm.tokenizer), raw, tools)
            _answer_one(console, llm, text, setup, as_json)


def _answer_all(console: Console, llm: LLM, data: bytes, setup: Setup) -> None:
    prompts = read_prompts(data, setup)
    n_failed = answer_prompts(console, llm, prompts)
    if n_failed:
        console.error(f"{n_failed} of {len(prompts)} prompts failed; their lines say why")
        raise click.exceptions.Exit(1)


def _answer_one(console: Console, llm: LLM, text: str, setup: Setup, as_json: bool) -> None:
    with _start(llm, text, setup) as stream:
        if as_json:
            with console.status("generating"):
                deque(stream, maxlen=0)
            has_tools = setup.tools is not None
            console.json(answer_document(stream.completion, llm.tokenizer, has_tools=has_tools))
        else:
            _show(console, stream)
            _show_logprobs(console, stream.completion, llm.tokenizer)
    console.note(_speeds(stream.completion.usage))


def _read_tools(path: str) -> list[Any]:
    """Definitions, which the chat template checks."""
    try:
        tools = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise ChatError(f"{path}: is not JSON: {error}") from None
    if not isinstance(tools, list):
        raise ChatError(f"{path}: must be a list of tools")
    return tools


def _start(llm: LLM, text: str, setup: Setup) -> CompletionStream:
    if setup.raw:
        return llm.generate(text, setup.params, stream=True)
    question = [{"role": "user", "content": text}]
    return llm.chat(question, setup.params, tools=setup.tools, stream=True)


def _show(console: Console, stream: CompletionStream) -> None:
    """Shows the pieces as they come; a terminal gets the newline that the answer may lack."""
    with console.status("reading the prompt"):
        first = next(stream, "")
    for piece in chain([first], stream):
        console.answer(piece)
    console.end_terminal_line()


def _show_logprobs(console: Console, completion: Completion, tokenizer: Tokenizer) -> None:
    """A line for each token: its log-probability, and the likeliest in its place."""

    def named(token_id: int, logprob: float) -> str:
        return f"{one_line(tokenizer.piece(token_id))} {logprob:.2f}"

    for entry in completion.logprobs or ():
        piece = one_line(tokenizer.piece(entry.token_id))
        alternatives = "  ".join(named(*pair) for pair in entry.top)
        console.note(f"{piece:16} {entry.logprob:7.2f}   {alternatives}".rstrip())


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
