"""Options that several commands share: each is defined once, in `OPTIONS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from pymixtral.chat import TEMPLATES
from pymixtral.cli.console import Console
from pymixtral.cli.logit_bias import parse_biases
from pymixtral.errors import ParameterError
from pymixtral.sampling import SamplingParams

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

_SAMPLING = SamplingParams()  # for its defaults

# Name of the parameter -> flags, settings of click.option.
OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "threads": (
        ("-t", "--threads"),
        {
            "type": click.IntRange(1, 1024),
            "show_default": "what CPU affinity and cgroup quota allow",
            "help": "Threads to compute with.",
        },
    ),
    "n_ctx": (
        ("--ctx",),
        {
            "type": click.IntRange(1),
            "metavar": "TOKENS",
            "show_default": "the model's, at most 8192",
            "help": "Context: tokens that prompt and answer may take together.",
        },
    ),
    "tier": (
        ("--tier",),
        {
            "metavar": "NAME",
            "show_default": "$PYMIXTRAL_TIER, or the best that the CPU has",
            "help": "Instruction-set tier; `pymixtral info` lists them.",
        },
    ),
    "kv_type": (
        ("--kv-type",),
        {
            "type": click.Choice(["f16", "q8_0", "f32"]),
            "default": "f16",
            "help": "Type of the KV cache's elements; q8_0 takes about half the memory of f16.",
        },
    ),
    "no_mmap": (
        ("--no-mmap",),
        {"is_flag": True, "help": "Read the model into memory instead of mapping its file."},
    ),
    "repack": (
        ("--repack/--no-repack",),
        {
            "default": None,
            "show_default": "the file that `pymixtral pack` has written, if there is one",
            "help": "Read the weights in a layout that is faster: from the file that `pymixtral "
            "pack` has written, or else by copying them at the start. Or leave them as the model "
            "has them. The text stays the same.",
        },
    ),
    "no_memory_check": (
        ("--no-memory-check",),
        {"is_flag": True, "help": "Load the model even if it does not seem to fit the memory."},
    ),
    "chat_template": (
        ("--chat-template",),
        {
            "type": click.Choice(tuple(TEMPLATES)),
            "show_default": "the one that is recognised",
            "help": "Chat template that the model was trained on.",
        },
    ),
    "seed": (
        ("--seed",),
        {
            "type": click.IntRange(0),
            "show_default": "another each time",
            "help": "Seed of the random choices.",
        },
    ),
    "temperature": (
        ("--temperature",),
        {
            "type": click.FloatRange(0, 100),
            "default": _SAMPLING.temperature,
            "help": "Evens out (above 1) or sharpens the probabilities; 0 takes the likeliest.",
        },
    ),
    "top_k": (
        ("--top-k",),
        {
            "type": click.IntRange(0),
            "default": _SAMPLING.top_k,
            "help": "Choose among the K likeliest tokens; 0: among all.",
        },
    ),
    "top_p": (
        ("--top-p",),
        {
            "type": click.FloatRange(0, 1),
            "default": _SAMPLING.top_p,
            "help": "Choose among the likeliest tokens that together reach this probability.",
        },
    ),
    "min_p": (
        ("--min-p",),
        {
            "type": click.FloatRange(0, 1),
            "default": _SAMPLING.min_p,
            "help": "Choose among tokens at least this times as likely as the likeliest.",
        },
    ),
    "max_tokens": (
        ("--max-tokens",),
        {
            "type": click.IntRange(1),
            "metavar": "TOKENS",
            "show_default": "what the context holds",
            "help": "Length of an answer at most.",
        },
    ),
    "stop": (
        ("--stop",),
        {
            "multiple": True,
            "metavar": "TEXT",
            "help": "End an answer before this text; can be given several times.",
        },
    ),
    "biases": (
        ("--logit-bias",),
        {
            "callback": parse_biases,
            "multiple": True,
            "metavar": "TOKEN=VALUE",
            "help": "Add VALUE (-100 to 100; -inf bans) to the logit of TOKEN, an id or spelled as "
            "`pymixtral tokenize` does; can be given several times.",
        },
    ),
    "as_json": (
        ("--json",),
        {"is_flag": True, "help": "Print one JSON document, whose keys are stable."},
    ),
}


def shared(*names: str, **overrides: dict[str, Any]) -> Decorator:
    """Adds options of the table to a command, in this order.

    Args:
        names: keys of `OPTIONS`.
        overrides: settings that differ for this command, by option.
    """

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            flags, settings = OPTIONS[name]
            command = click.option(*flags, name, **settings | overrides.get(name, {}))(command)
        return command

    return decorate


def _gathered(
    parameter: str, kind: Callable[..., Any], names: tuple[str, ...]
) -> Callable[..., Decorator]:
    """A `shared` whose options reach the command as one `parameter`, an object of `kind`."""

    def with_overrides(**overrides: dict[str, Any]) -> Decorator:
        def decorate(command: Command) -> Command:
            @wraps(command)
            def gathering(*args: Any, **values: Any) -> Any:
                try:
                    group = kind(**{name: values.pop(name) for name in names})
                except ParameterError as error:
                    raise click.UsageError(str(error)) from None
                return command(*args, **values, **{parameter: group})

            return shared(*names, **overrides)(gathering)

        return decorate

    return with_overrides


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model; see `pymixtral.LLM`."""

    threads: int | None
    n_ctx: int | None
    tier: str | None
    kv_type: str
    no_mmap: bool
    repack: bool | None
    no_memory_check: bool


load_options = _gathered(
    "load",
    LoadOptions,
    ("threads", "n_ctx", "tier", "kv_type", "no_mmap", "repack", "no_memory_check"),
)
sampling_options = _gathered(
    "params",
    SamplingParams,
    ("temperature", "top_k", "top_p", "min_p", "max_tokens", "seed", "stop"),
)


def _console_flag(attribute: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def switch_on(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            setattr(ctx.ensure_object(Console), attribute, True)

    return switch_on


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_console_flag("debug"),
    help="Show the traceback of an error.",
)
quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_console_flag("quiet"),
    help="Say nothing on stderr but errors.",
)


def console_options(command: Command) -> Command:
    """Adds --quiet and --debug; the command gets the console as its first argument."""
    return quiet_option(debug_option(click.pass_obj(command)))
