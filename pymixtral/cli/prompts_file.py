"""`pymixtral run --file`: prompts as JSON lines in, answers as JSON lines out, in their order."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from pymixtral.batch import Request
from pymixtral.cli.console import Console
from pymixtral.cli.document import answer_document
from pymixtral.completion import Completion
from pymixtral.errors import ParameterError, PymixtralError
from pymixtral.llm import LLM
from pymixtral.sampling import SamplingParams
from pymixtral.tokenizer import Tokenizer

KEYS = {"id", "prompt", "messages", "tools", "params"}
TOKEN_ID = re.compile(r"[0-9]{1,9}")
PARAMS = {field.name for field in fields(SamplingParams)}


class Setup(NamedTuple):
    """What the command line says of every prompt.

    Attributes:
        raw: it is to be continued, not answered as a question.
        tools: definitions of those that an answer may call.
    """

    params: SamplingParams
    raw: bool
    tools: list[Any] | None


class Prompt(NamedTuple):
    """A line of the file.

    Attributes:
        number: of the line, from 1.
        id: what the line calls itself.
        request: what it asks for, or why it cannot be understood.
    """

    number: int
    id: Any
    request: Request | PymixtralError


def read_prompts(data: bytes, setup: Setup) -> list[Prompt]:
    """The prompts in a file's bytes, a JSON object a line; blank lines are left out."""
    prompts = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        prompt_id: Any = None
        request: Request | PymixtralError
        try:
            values = _parse(line)
            prompt_id = _typed(values, "id", (str, int))
            request = _request(values, setup)
        except PymixtralError as error:
            request = error
        prompts.append(Prompt(number, prompt_id, request))
    return prompts


def answer_prompts(console: Console, llm: LLM, prompts: Sequence[Prompt]) -> int:
    """Prints a JSON line for each prompt, in their order; returns how many failed.

    A line is printed as soon as it and those before it are done; on Ctrl-C, what else is done.
    """
    results: dict[int, Completion | PymixtralError] = {
        place: prompt.request
        for place, prompt in enumerate(prompts)
        if isinstance(prompt.request, PymixtralError)
    }
    asked = {place: p.request for place, p in enumerate(prompts) if isinstance(p.request, Request)}
    places = list(asked)
    waiting = deque(range(len(prompts)))  # places whose lines are not printed yet

    def print_next() -> None:
        place = waiting.popleft()  # first: no line may come twice, whenever Ctrl-C strikes
        console.json(_line(prompts[place], results[place], llm.tokenizer))

    try:
        with console.progress("prompt") as progress:
            for n_done, (i, result) in enumerate(llm.generate_many(asked.values()), start=1):
                results[places[i]] = result
                while waiting and waiting[0] in results:
                    print_next()
                progress(n_done, len(asked))
    finally:
        waiting = deque(place for place in waiting if place in results)
        while waiting:
            print_next()
    return sum(isinstance(result, PymixtralError) for result in results.values())


def _line(
    prompt: Prompt, result: Completion | PymixtralError, tokenizer: Tokenizer
) -> dict[str, Any]:
    line = {"line": prompt.number} | ({} if prompt.id is None else {"id": prompt.id})
    if isinstance(result, PymixtralError):
        return line | {"error": str(result)}
    has_tools = isinstance(prompt.request, Request) and bool(prompt.request.tools)
    return line | answer_document(result, tokenizer, has_tools=has_tools)


# ---- One line ----


def _parse(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"the line is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ParameterError('the line is no JSON object; write {"prompt": ...}')
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _request(values: Mapping[str, Any], setup: Setup) -> Request:
    _refuse_unknown("key", values, KEYS)
    own_params = _typed(values, "params", dict) or {}
    _refuse_unknown("parameter", own_params, PARAMS)
    params = replace(setup.params, **_json_params(own_params))
    prompt, messages = _typed(values, "prompt", str), _typed(values, "messages", list)
    if prompt is not None and not setup.raw:
        if messages is not None:
            raise ParameterError("a line has a prompt or messages, and not both")
        prompt, messages = None, [{"role": "user", "content": prompt}]
    tools = _typed(values, "tools", list) or setup.tools
    return Request(prompt, messages, tools, params)


def _json_params(values: dict[str, Any]) -> dict[str, Any]:
    """Parameters, with the ids of "logit_bias" as numbers: JSON's keys are texts."""
    bias = values.get("logit_bias")
    if not isinstance(bias, dict):
        return values
    if not all(TOKEN_ID.fullmatch(key) for key in bias):
        raise ParameterError("logit_bias must be an object from token ids to numbers")
    return values | {"logit_bias": {int(key): value for key, value in bias.items()}}


_KINDS: dict[type | tuple[type, ...], str] = {
    str: "a text",
    list: "a list",
    dict: "an object",
    (str, int): "a text or an integer",
}


def _typed(values: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    value = values.get(key)
    if value is not None and not isinstance(value, kind):
        raise ParameterError(f"{key!r} must be {_KINDS[kind]}")
    return value


def _refuse_unknown(what: str, values: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(values.keys() - known):
        names = ", ".join(map(repr, unknown))
        raise ParameterError(f"unknown {what} {names}; there is {', '.join(sorted(known))}")
