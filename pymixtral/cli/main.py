"""The command `pymixtral`: finds the subcommand, and turns exceptions into exit codes.

0    done
1    it failed: one line on stderr says why
2    the command line is wrong: one line on stderr says how
130  Ctrl-C
143  SIGTERM, as `kill` and `timeout` send it
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from pymixtral import __version__
from pymixtral.cli.console import Console
from pymixtral.cli.options import debug_option
from pymixtral.errors import PymixtralError
from pymixtral.formats import FormatError

COMMANDS = (
    "run",
    "chat",
    "inspect",
    "tokenize",
    "bench",
    "perplexity",
    "experts",
    "convert",
    "quantize",
    "imatrix",
    "diff",
    "merge",
    "split",
    "pack",
    "verify",
    "info",
)

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Program(click.Group):
    """A group whose commands are imported when they are used, and whose errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"pymixtral.cli.{cmd_name}").command
        return command

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run the command that `args` asks for, and exit."""
        console = Console()
        extra |= {"standalone_mode": False, "obj": console}
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.warning(str(message))
            sys.exit(self._run(console, args, extra))

    def _run(self, console: Console, args: Sequence[str] | None, extra: dict[str, Any]) -> int:
        """The exit code of a command, whose errors are told."""
        try:
            exit_code = super().main(args, **extra)
            return exit_code if isinstance(exit_code, int) else 0
        except click.Abort:
            return EXIT_INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return error.exit_code
        except click.ClickException as error:
            console.error(_usage(error) if isinstance(error, click.UsageError) else str(error))
            return error.exit_code
        except BrokenPipeError:
            _discard_output()
            return EXIT_FAILURE
        except Exception as error:
            if console.debug:
                raise
            console.error(_failure(error))
            return EXIT_FAILURE


def _usage(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "pymixtral"
    return f"{error.format_message().rstrip('.')}; see '{path} --help'"


def _failure(error: Exception) -> str:
    if isinstance(error, PymixtralError | FormatError):
        return str(error)
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"internal error, {type(error).__name__}: {error}; `pymixtral --debug ...` shows more"


def _discard_output() -> None:
    """Nobody reads stdout any more: let Python's own flush at the end go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


@click.group(
    cls=Program,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name="pymixtral")
@debug_option
def program() -> None:
    """Run Mixtral (sparse mixture-of-experts) models on the CPU.

    Models are GGUF files. The commands that take [MODEL] use, without one, a small storyteller that
    ships with the program. The answer goes to stdout, everything about it to stderr.

    \b
    Examples:
      pymixtral run "Tell me a story about a fox."
      pymixtral run mixtral-8x7b-instruct-v0.1.Q4_K_M.gguf "Why is the sky blue?"
      pymixtral chat mixtral-8x7b-instruct-v0.1.Q4_K_M.gguf
    """


def _terminate(*_: object) -> NoReturn:
    """Ends the program as Ctrl-C does: what it was writing is taken back."""
    sys.exit(EXIT_TERMINATED)


def main() -> NoReturn:
    """Entry point."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # not None, as where the caller closed it
            stream.reconfigure(errors="replace")  # '?' for what the locale lacks, not a failure
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        program.main(prog_name="pymixtral")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only be a traceback
