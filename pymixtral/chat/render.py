"""Runs the Jinja template of a model's file in a process that is confined, watched and killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

from pymixtral.errors import ChatError
from pymixtral.formats.errors import one_line

SANDBOX = Path(__file__).with_name("sandbox.py")

CPU_SECONDS = 2
WALL_SECONDS = 20.0  # for a machine that is busy; the limit that counts is the CPU's
MEMORY_BYTES = 512 << 20
MAX_CHARACTERS = 4 << 20
MAX_BYTES = 12 * MAX_CHARACTERS + 1000  # of the answer, where JSON writes each as two \uXXXX

_SURROGATE = re.compile("[\ud800-\udfff]")

ADVICE = "choose another (--chat-template), or complete the prompt as it is (--raw)"


def render(template: str, messages: tuple[tuple[str, str], ...], **settings: Any) -> str:
    """What the template writes for a conversation.

    Args:
        template: Jinja, hostile or not.
        messages: roles and contents.
        settings: other variables of the template, hashable: add_generation_prompt, bos_token, ...

    Raises:
        ChatError: jinja2 is not installed, the template cannot be parsed or run, refuses the
            conversation, writes no Unicode, or exceeds a limit of time, memory or length.
    """
    return _rendered(template, messages, tuple(settings.items()))


@lru_cache(maxsize=16)  # a turn of a chat asks several times for the same
def _rendered(
    template: str, messages: tuple[tuple[str, str], ...], settings: tuple[tuple[str, Any], ...]
) -> str:
    if find_spec("jinja2") is None:
        raise ChatError(
            "this model's chat template needs jinja2; install it: pip install 'pymixtral[jinja]', "
            f"or {ADVICE}"
        )
    request = {
        "template": template,
        "context": {
            "messages": [{"role": role, "content": content} for role, content in messages],
            "tools": None,
            "documents": None,
            **dict(settings),
        },
        "limits": {
            "cpu_seconds": CPU_SECONDS,
            "memory_bytes": MEMORY_BYTES,
            "n_characters": MAX_CHARACTERS,
        },
    }
    answer = _run(json.dumps(request).encode())
    text, reason = answer.get("text"), str(answer.get("error"))
    if isinstance(text, str):
        if not _SURROGATE.search(text):
            return text
        reason = "writes a lone surrogate, which is no character"
    raise ChatError(f"the file's chat template {one_line(' '.join(reason.split()))}; {ADVICE}")


def _run(request: bytes) -> dict[str, Any]:
    """The sandbox's answer, or what became of the sandbox."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(SANDBOX)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # A preloaded library, such as a sanitizer, might need more memory than the limit.
        env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    )
    watchdog = threading.Timer(WALL_SECONDS, process.kill)
    watchdog.start()
    try:
        data = _exchange(process, request)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        return answer
    return {"error": f"was ended: it took more than {CPU_SECONDS} s, or its process died"}


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Sends the request, and reads the answer up to its limit."""
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    with stdout:
        with suppress(BrokenPipeError), stdin:  # it may have died
            stdin.write(request)
        return stdout.read(MAX_BYTES)
