"""The chat template of a model's file, as a target for `targets`.

What runs here is what the program does with a template's text: it is recognised; where it is of a
version that we know, that version writes the conversation; where not, Jinja parses it, and runs it
in its sandbox with the program's own additions; and what it wrote becomes ids.

What does not run here is the process around the sandbox, because to start one for each input would
leave some ten inputs a second. Its limits, and that it is killed, are the subject of
tests/attacks/test_chat_template_attacks.py. Limits that can be lifted again stand in for them.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from pymixtral.chat import make_template, render, sandbox
from pymixtral.chat.recognise import recognise_template
from pymixtral.chat.turns import Answer, Question, System, Turn
from pymixtral.formats import TokenType, Vocabulary
from pymixtral.tokenizer import Tokenizer

CPU_SECONDS = 0.1
MEMORY_BYTES = 16 << 20  # beyond what the process has
MAX_CHARACTERS = 1 << 16
MAX_POWER_BITS = 1 << 16

MISTRAL_V3 = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
              "[TOOL_RESULTS]", "[/TOOL_RESULTS]")  # fmt: skip
CONTROL_TOKENS = (
    (),
    MISTRAL_V3,
    (*MISTRAL_V3, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    ("<|im_start|>", "<|im_end|>"),
    ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
)

SNOW = "\u2603\u2744\u2603"  # what no template writes of its own accord


def chat_template(content: bytes) -> None:
    """A template is recognised, and writes a conversation; no text of it becomes a control token.

    The first byte picks the vocabulary's control tokens, and whether it is the conversation that is
    wanted, or the token that ends an answer.
    """
    end_wanted, which = divmod(sum(content[:1]), 128)
    control_tokens = CONTROL_TOKENS[which % len(CONTROL_TOKENS)]
    source = content[1:].decode(errors="surrogateescape")
    found = recognise_template(replace(_vocabulary(control_tokens), chat_template=source))
    if found.version is None:
        return
    tokenizer = copy(_tokenizer(control_tokens))
    tokenizer.chat_template = source
    with _rendering_here() as written:
        template = make_template(tokenizer, found.version)
        if end_wanted:
            _ = template.end_id
            return
        ids = template.encode(_turns(SNOW.join(["", *tokenizer.control_tokens, ""])))
        own = set(template.encode(_turns("a"))) if found.version != "jinja" else set()
    if any(SNOW in text for text in written):
        raise RuntimeError("the template was shown a text as it is")
    own |= {i for token, i in tokenizer.control_tokens.items() if token in "".join(written)}
    control = {*tokenizer.control_tokens.values()} - {tokenizer.bos_id}
    if spelled := control.intersection(ids) - own:
        raise RuntimeError(f"a text became the control tokens {spelled}")


def _turns(text: str) -> list[Turn]:
    return [System("b"), Question(text), Answer(ids=(4, 5)), Question("a")]


@cache
def _vocabulary(control_tokens: tuple[str, ...]) -> Vocabulary:
    tokens = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", *control_tokens]
    control = TokenType.CONTROL
    types = [TokenType.UNKNOWN, control, control, *[TokenType.NORMAL] * 3]
    types += [control] * len(control_tokens)
    return Vocabulary(
        model="llama",
        tokens=tokens,
        scores=np.zeros(len(tokens), np.float32),
        types=np.array(types, np.int32),
        bos_id=1,
        eos_id=2,
        unk_id=0,
        add_bos=True,
        add_space_prefix=True,
    )


@cache
def _tokenizer(control_tokens: tuple[str, ...]) -> Tokenizer:
    return Tokenizer(_vocabulary(control_tokens))


# ---- Jinja in this process ----


class _TooLong(BaseException):
    """Time is up; no handler of exceptions in Jinja or in a template catches this."""


class _Environment(ImmutableSandboxedEnvironment):
    """Refuses huge powers, the one operation that takes for ever in a single step of Python."""

    intercepted_binops = frozenset({"**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        are_integers = isinstance(left, int) and isinstance(right, int)
        if are_integers and left.bit_length() * right > MAX_POWER_BITS:
            raise SecurityError("too large a power")
        return super().call_binop(context, operator, left, right)


@contextmanager
def _rendering_here() -> Iterator[list[str]]:
    """Has templates rendered in this process; gives the texts that they write."""
    written: list[str] = []

    def run(request: bytes) -> dict[str, Any]:
        values = json.loads(request)
        try:
            with _limits():
                answer = sandbox.render(values["template"], values["context"], MAX_CHARACTERS)
        except _TooLong:
            return {"error": "was ended"}
        written.append(answer.get("text", ""))
        return dict(json.loads(json.dumps(answer)))

    uncached = render._rendered.__wrapped__
    with (
        patch.multiple(render, _run=run, _rendered=uncached),
        patch.object(sandbox, "ImmutableSandboxedEnvironment", _Environment),
    ):
        yield written


@contextmanager
def _limits() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    handler = signal.signal(signal.SIGPROF, _end)
    resource.setrlimit(
        resource.RLIMIT_AS, (n_pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES, hard)
    )
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS, CPU_SECONDS)  # again, should it be missed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, handler)


def _end(*_: object) -> NoReturn:
    raise _TooLong
