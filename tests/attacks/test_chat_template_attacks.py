"""Cases 25 and 26: hostile chat templates end in one line, soon, and reach nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pymixtral.chat import render
from pymixtral.errors import ChatError

pytest.importorskip("jinja2", reason="the jinja extra is not installed")

WALL_SECONDS = 15  # far more than the second of CPU that a template gets here, for busy machines
PEAK_BYTES = 700 << 20


def children_peak() -> int:
    """Most bytes that any child of this process has had, those of other tests included."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def refused(template: str) -> str:
    """What there is to say of a template that must not succeed."""
    started, peak_before = time.monotonic(), children_peak()
    with pytest.raises(ChatError) as caught:
        render.render(template, (("user", "Hello"),), bos_token="<s>")
    assert time.monotonic() - started < WALL_SECONDS
    assert children_peak() <= max(peak_before, PEAK_BYTES)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000
    assert line.startswith("the file's chat template ")
    assert line.endswith(f"; {render.ADVICE}")
    return line


@pytest.fixture(autouse=True)
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "CPU_SECONDS", 1)


LOOP = "{% for i in range(99999) %}"


@pytest.mark.parametrize(
    "template",
    [
        LOOP * 3 + "{% endfor %}" * 3,
        "{{ 10 ** (10 ** 8) }}",
        "{% set x = namespace(n=7) %}" + LOOP + "{% set x.n = x.n * x.n %}{% endfor %}",
        "{{ (['a'] * 9999) | map('center', 9999) | map('upper') | join | length }}" * 50,
    ],
    ids=["nested loops", "power", "growing number", "filters"],
)
def test_case_25_endless_work(template: str) -> None:
    line = refused(template)
    assert "took more than 1 s" in line or "too much memory" in line


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{% set x = [0] * 10 ** 9 %}",
        "{{ '%9999999999d' % 1 }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{% set x = namespace(s='a') %}" + LOOP + "{% set x.s = x.s ~ x.s %}{% endfor %}",
    ],
    ids=["text", "list", "format", "filter", "doubling"],
)
def test_case_25_memory(template: str) -> None:
    assert "takes too much memory" in refused(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 7 }}",
        LOOP + "{{ 'a' * 999 }}{% endfor %}",
        "a" * (render.MAX_CHARACTERS + 1),
    ],
    ids=["at once", "in pieces", "plain"],
)
def test_case_25_long_output(template: str) -> None:
    assert "writes too long a text" in refused(template)


@pytest.mark.parametrize("template", ["{{ range(10 ** 9) }}", "{{ range(100001) | list }}"])
def test_case_25_huge_ranges(template: str) -> None:
    assert "Range too big" in refused(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__']['__base__'] }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ joiner.__init__.__globals__.os.system('id') }}",
        "{{ raise_exception.__globals__['sys'].modules['os'].system('id') }}",
        "{{ strftime_now.__globals__.sys.exit(0) }}",
        "{{ self._TemplateReference__context.environment.overlay() }}",
        "{{ namespace.__init__.__globals__['__builtins__'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(content='other') }}",
        "{{ messages[0].pop('content') }}",
        "{% set _ = messages[0].__setitem__('content', 'other') %}{{ _ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system('id') }}",
        "{% extends '/etc/passwd' %}",
        "{{ open('/etc/passwd').read() }}",
        "{{ __import__('os').system('id') }}",
        "{{ (1).real.__class__('7') }}",
        "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m.__call__.__func__.__globals__ }}",
    ],
)
def test_case_25_escapes(template: str) -> None:
    line = refused(template)
    assert "says: " in line or "fails: " in line


@pytest.mark.parametrize(
    "template",
    [
        "{{ loop.__class__ }}",
        "{{ ''|attr('__class__')|attr('__mro__') }}",
        "{{ '{0.__class__}'.format('a') }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{{ namespace.__init__ }}",
    ],
)
def test_case_25_attributes_that_are_hidden(template: str) -> None:
    assert render.render(template, ()) == ""


@pytest.mark.parametrize(
    "template",
    [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{{ " + "-" * 100_000 + "1 }}",
        "{{ " + "[" * 100_000 + " }}",
    ],
    ids=["macro", "parentheses", "blocks", "signs", "brackets"],
)
def test_case_25_nesting(template: str) -> None:
    refused(template)


@pytest.mark.parametrize(
    "template",
    ["{% if %}", "{{", "{% endfor %}", "{% unknown %}", "{% generation %}", "{{ 1 | no_such }}",
     "{{ undefined.attribute }}", "{{ 1 / 0 }}", "{{ raise_exception('a\\x1b[2J\\nb' * 1000) }}",
     "{{ raise_exception(messages) }}", "\ud800{{ 'a'.encode() }}{{ '\ud800' | urlencode }}",
     "\ud800", "{{ '\\ud800' }}"],
)  # fmt: skip
def test_case_26_templates_that_do_not_parse_or_run(template: str) -> None:
    refused(template)


# ---- Should something get out of Jinja's sandbox all the same ----

REACHES = {
    "file": "open('/etc/hostname')",
    "write": "open('/dev/null', 'w')",
    "socket": "__import__('_socket').socket()",
    "process": "__import__('posix').pipe()",
}


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES.keys())
def test_a_confined_process_opens_nothing(reach: str) -> None:
    code = (
        "import _socket, posix\n"
        "from pymixtral.chat.sandbox import confine\n"
        f"{reach}\n"  # which works before
        "confine(5, 512 << 20)\n"
        "print('confined')\n"
        f"{reach}\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    )
    assert (result.returncode, result.stdout) == (1, "confined\n")
    assert result.stderr.splitlines()[-1].startswith("OSError: [Errno 24] Too many open files")


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nwhile True: sys.stdout.write('a' * 9999)",
        "import time\ntime.sleep(60)",
        "raise SystemExit(3)",
        "import os\nos.abort()",
        "print('no JSON')",
        "print('[' * 100000)",
        "print([1])",
        "import json\nprint(json.dumps({'text': 5}))",
        "import sys\nsys.stdin.close()\nprint('{}')",
    ],
    ids=lambda program: program.splitlines()[-1],
)
def test_a_sandbox_that_misbehaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    path = tmp_path / "sandbox.py"
    path.write_text(program)
    monkeypatch.setattr(render, "SANDBOX", path)
    monkeypatch.setattr(render, "WALL_SECONDS", 1.0)
    monkeypatch.setattr(render, "MAX_BYTES", 100_000)
    refused("anything" * 50_000)


def test_what_was_refused_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is kept, a failure is not: the machine may have been busy."""
    answers: list[dict[str, Any]] = [{"error": "was ended"}, {"text": "done"}]
    monkeypatch.setattr(render, "_run", lambda request: answers.pop(0))
    with pytest.raises(ChatError):
        render.render("once more", ())
    assert render.render("once more", ()) == "done"
    assert render.render("once more", ()) == "done"
