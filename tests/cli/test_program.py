"""What all commands have in common: help, errors, exit codes, signals, pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from cpu_time import slowness
from reference.tiny import TINY_MODELS, random_weights
from reference.tiny_gguf import write_tiny_gguf

from pymixtral import __version__
from pymixtral.cli import info
from pymixtral.cli.main import COMMANDS, program

LOAD_OPTIONS = (
    "--threads",
    "--ctx",
    "--tier",
    "--kv-type",
    "--no-mmap",
    "--repack",
    "--no-repack",
    "--no-memory-check",
)
SAMPLING_OPTIONS = (
    "--temperature", "--top-k", "--top-p", "--min-p", "--max-tokens", "--seed", "--stop",
    "--logit-bias",
)  # fmt: skip


# ---- Help ----


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(invoke, command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Examples:\n    pymixtral " in result.stdout
    assert f"pymixtral {command}" in result.stdout
    assert ("--json" in result.stdout) == (command != "chat")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", (*LOAD_OPTIONS, *SAMPLING_OPTIONS, "--chat-template", "--tools", "--file")),
        (
            "chat",
            (*LOAD_OPTIONS, *SAMPLING_OPTIONS, "--chat-template", "--no-shift", "--no-history"),
        ),
        ("bench", (*LOAD_OPTIONS, "--seed")),
        ("perplexity", (*LOAD_OPTIONS, "--phase")),
        ("experts", (*LOAD_OPTIONS, "--chat-template", "--tokens", "--plot")),
        ("inspect", ("--ctx", "--kv-type")),
    ],
)
def test_shared_options(invoke, command: str, options: tuple[str, ...]) -> None:
    text = invoke(command, "--help").stdout
    assert [option for option in options if f"{option} " not in text] == []


def test_version(invoke) -> None:
    assert invoke("--version").stdout == f"pymixtral, version {__version__}\n"


def test_without_command_shows_help(invoke) -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Commands:\n  run " in result.stderr


# ---- Errors ----


@pytest.mark.parametrize(
    "args",
    [
        ("--no-such-option",),
        ("no-such-command",),
        ("run",),
        ("run", "--no-such-option", "Hello"),
        ("run", "Hello", "--temperature", "-1"),
        ("run", "Hello", "--top-p", "1.5"),
        ("run", "Hello", "--threads", "0"),
        ("run", "Hello", "--kv-type", "f8"),
        ("chat", "--json"),
        ("inspect",),
        ("tokenize", "model.gguf"),
        ("perplexity", "model.gguf"),
        ("perplexity", "model.gguf", "text", "--phase", "other"),
        ("bench", "-n", "0"),
    ],
    ids=" ".join,
)
def test_usage_error_is_one_line_and_2(invoke, args: tuple[str, ...]) -> None:
    result = invoke(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith(" --help'\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("run", "{dir}/none.gguf", "Hello"), "cannot open {dir}/none.gguf: No such file"),
        (("chat", "{dir}"), "{dir} is a folder"),
        (("inspect", "{text}"), "{text}: magic: "),
        (("tokenize", "{text}", "Hello"), "(offset 0)"),
        (("run", "{text}", "Hello"), "a GGUF file begins with"),
        (("perplexity", "{model}", "{dir}/none.txt"), "{dir}/none.txt: No such file"),
        (("run", "Hello", "--tier", "no-such-tier"), "no-such-tier"),
        (("run", "Hello", "--ctx", "99999"), "1 to 512"),
        (("run", "ab\udcff", "--raw"), "lone surrogate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_failure_is_one_line_and_1(
    invoke, tmp_path: Path, storyteller: Path, args: tuple[str, ...], words: str
) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("This is no model, but a text that is longer than a header.")
    places = {"dir": tmp_path, "text": text, "model": storyteller}
    result = invoke(*(arg.format(**places) for arg in args))
    assert (result.exit_code, result.stdout) == (1, "")
    last_line = result.stderr.splitlines()[-1]
    assert last_line.startswith("error: ")
    assert words.format(**places) in last_line


def test_bug_is_one_line_without_debug(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("oops")

    monkeypatch.setattr(info, "_facts", broken)
    result = invoke("info")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: internal error, KeyError: 'oops'; ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [("--debug", "inspect", "none"), ("inspect", "none", "--debug")])
def test_debug_shows_the_traceback(start, args: tuple[str, ...]) -> None:
    process = start(*args)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert b"Traceback" in stderr
    assert b"ModelLoadError" in stderr


def test_warnings_are_lines_without_a_source(invoke, tmp_path: Path) -> None:
    model = TINY_MODELS["dense"]  # too few tokens for one of each byte
    path = write_tiny_gguf(tmp_path / "dense.gguf", model, random_weights(model))
    result = invoke("tokenize", path, "7")
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert lines
    assert all(line.startswith("warning: ") and ".py" not in line for line in lines)
    assert invoke("tokenize", path, "7", "-q").stderr == ""


# ---- Pipes and signals ----


def test_broken_pipe_is_quiet(start) -> None:
    process = start("run", "-q", "Tell me a story about a fox.")
    process.stdout.read(4)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_answer_streams(start, endless: Path) -> None:
    process = start("run", "--raw", endless, "7", "--temperature", 0, "--max-tokens", 60000)
    assert process.stdout.read(20)  # long before the answer is complete
    assert process.poll() is None


def interrupt(process: subprocess.Popen[bytes]) -> float:
    """Sends Ctrl-C once the model has been at work for a while; seconds until the end."""
    assert process.stderr.readline().startswith(b"endless.gguf: ")
    time.sleep(0.5)
    assert process.poll() is None  # or the test says nothing
    begin = time.perf_counter()
    process.send_signal(signal.SIGINT)
    process.wait()
    return time.perf_counter() - begin


def test_ctrl_c_while_a_prompt_is_read(start, endless: Path) -> None:
    """Within half a second; the best of three, for the machine may be busy."""
    seconds = []
    for _ in range(3):
        process = start("run", "--raw", endless, "-", "--ctx", 65536, "--max-tokens", 1)
        process.stdin.write(b"7 " * 30_000)
        process.stdin.close()
        seconds.append(interrupt(process))
        assert process.stdout.read() == b""  # nothing was generated yet
        assert (process.returncode, process.stderr.read()) == (130, b"\n")
    assert min(seconds) < 0.5 * slowness()


def test_impatient_ctrl_c_does_no_harm(start, endless: Path) -> None:
    """The second and third arrive while the first is being answered."""
    process = start("run", "--raw", endless, "-", "--ctx", 65536)
    process.stdin.write(b"7 " * 30_000)
    process.stdin.close()
    assert process.stderr.readline().startswith(b"endless.gguf: ")
    time.sleep(0.5)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    assert process.wait() in (130, -signal.SIGINT)  # a shell shows both as 130


def test_ctrl_c_while_an_answer_is_generated(start, endless: Path) -> None:
    process = start("run", "--raw", endless, "7", "--temperature", 0)
    interrupt(process)
    assert process.stdout.read()
    assert (process.returncode, process.stderr.read()) == (130, b"\n")


def test_module_and_script_are_the_same() -> None:
    script = Path(sys.executable).parent / "pymixtral"
    if not os.access(script, os.X_OK):
        pytest.skip("the script is not installed beside the interpreter")
    outputs = [
        subprocess.run([*command, "tokenize", "-h"], capture_output=True, check=True).stdout
        for command in ([script], [sys.executable, "-m", "pymixtral"])
    ]
    assert outputs[0] == outputs[1]


def test_in_process_runs_leave_no_warning_hook() -> None:
    import warnings

    before = warnings.showwarning
    CliRunner().invoke(program, ["info"])
    assert warnings.showwarning is before
