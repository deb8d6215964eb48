"""Renders the Jinja template of a model's file: a program of its own, which its caller can kill.

It reads one JSON document, {"template", "context", "limits" {"cpu_seconds", "memory_bytes",
"n_characters"}}, and writes another, {"text"} or {"error"}. Before the template is even parsed, the
process gives up the right to open files, to grow and to run for long. What templates can use beyond
Jinja itself is what transformers gives them (`apply_chat_template`).
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any, NoReturn

import jinja2.debug  # noqa: F401 - loaded now, for files cannot be opened later
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Uses what Jinja and Python load when it is first used: codecs, the time zone.
WARM_UP = r"{{ 'a\n' }}{{ strftime_now('%c') }}{{ 'a' | urlencode }}{{ 1 | tojson }}"


class GenerationExtension(Extension):
    """{% generation %}, which marks answers for training: here it does nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def confine(cpu_seconds: int, memory_bytes: int) -> None:
    """Limit this process, for good."""
    for limit, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, 0),  # those that are open stay open
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def render(template: str, context: dict[str, Any], n_characters: int) -> dict[str, str]:
    """The text, or what is wrong with the template or with the conversation."""
    parts: list[str] = []
    try:
        for part in _environment().from_string(template).generate(context):
            n_characters -= len(part)
            if n_characters < 0:
                return {"error": "writes too long a text"}
            parts.append(part)
    except MemoryError:
        return {"error": "takes too much memory"}
    except RecursionError:
        return {"error": "is nested too deeply"}
    except TemplateError as error:
        return {"error": f"says: {error.message}"}
    except Exception as error:  # whatever operators and filters raise
        return {"error": f"fails: {type(error).__name__}: {error}"}
    return {"text": "".join(parts)}


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # it runs once
        extensions=[LoopControlExtension, GenerationExtension],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def main() -> None:
    request = json.load(sys.stdin)
    limits = request["limits"]
    render(WARM_UP, {}, limits["n_characters"])
    confine(limits["cpu_seconds"], limits["memory_bytes"])
    answer = render(request["template"], request["context"], limits["n_characters"])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
