"""The terminal's side of `pymixtral chat`: questions and commands, from a person or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click

from pymixtral.cli.console import Console
from pymixtral.cli.dialogue import Chat
from pymixtral.cli.history import History
from pymixtral.errors import ChatError, ContextError, PymixtralError
from pymixtral.formats import FormatError

PROMPT, MORE = "> ", "... "
QUOTES = '"""'

HELP = """\
/reset        forget the conversation, but not the system prompt
/system TEXT  begin a new conversation with TEXT as system prompt (none: without one)
/regen        answer the last question again
/undo         take back the last question and its answer
/save FILE    write the conversation to FILE
/load FILE    go on with the conversation in FILE
/help         show this
/exit         leave, as Ctrl-D does
A question of several lines stands between lines of \"\"\", or its lines end in a backslash.
Ctrl-C stops an answer; the arrow keys edit a question and recall earlier ones."""


class Input(NamedTuple):
    """What was typed.

    Attributes:
        is_quoted: it stood between quotes, so that it is a question whatever it begins with.
    """

    text: str
    is_quoted: bool


class Terminal:
    """Reads until the end of the input, and does what it is asked.

    Args:
        history: of a person's input, who is shown a prompt; None: the input is a pipe.
    """

    def __init__(self, console: Console, chat: Chat, history: History | None) -> None:
        self._console = console
        self._chat = chat
        self._history = history
        self._commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/regen": self._regen,
            "/undo": self._undo,
            "/save": self._save,
            "/load": self._load,
            "/help": self._help,
            "/exit": self._exit,
        }

    def talk(self) -> None:
        """Until the end of the input."""
        if self._history is not None:
            self._console.note("/help lists the commands, Ctrl-D leaves")
        with suppress(EOFError):
            while True:
                self._take_turn()

    def _take_turn(self) -> None:
        """A question or a command, and what it asks for."""
        try:
            self._obey(self._read())
        except KeyboardInterrupt:
            if self._history is None:
                raise
            click.echo(err=True)  # the terminal has shown ^C
            self._console.note("(Ctrl-D leaves)")
        except (PymixtralError, FormatError) as error:
            is_final = isinstance(error, ContextError) and not self._chat.can_forget
            if self._history is None or is_final:
                raise
            self._console.error(str(error))

    # ---- Input ----

    def _read(self) -> Input:
        text = self._line(PROMPT)
        if text.startswith(QUOTES):
            return self._quoted(text.removeprefix(QUOTES))
        while text.endswith("\\"):
            text = f"{text[:-1]}\n{self._next_line()}"
        return Input(text.strip(), is_quoted=False)

    def _quoted(self, text: str) -> Input:
        while not text.rstrip().endswith(QUOTES):
            text = f"{text}\n{self._next_line()}"
        return Input(text.rstrip().removesuffix(QUOTES).strip(), is_quoted=True)

    def _next_line(self) -> str:
        try:
            return self._line(MORE)
        except EOFError:
            raise ChatError(
                "the input ends within a question of several lines; its last line ends in "
                f"{QUOTES} if the first began with that, and else not in a backslash"
            ) from None

    def _line(self, prompt: str) -> str:
        """A line; several, where a terminal says that they were pasted."""
        if self._history is None:
            return input()
        line = input(prompt)
        self._history.add(line)
        return line

    # ---- Commands ----

    def _obey(self, given: Input) -> None:
        if given.is_quoted or not given.text.startswith("/"):
            if given.text:
                self._chat.ask(given.text)
            return
        word, *rest = given.text.split(maxsplit=1)
        if word in self._commands:
            self._commands[word](rest[0] if rest else "")
        else:
            self._console.error(f"{word} is no command; /help lists them")

    def _reset(self, _: str) -> None:
        self._chat.reset()
        self._console.note("(a new conversation)")

    def _system(self, text: str) -> None:
        self._chat.set_system(text)
        self._console.note(f"(a new conversation, {'with' if text else 'without'} system prompt)")

    def _regen(self, _: str) -> None:
        self._chat.regenerate()

    def _undo(self, _: str) -> None:
        question = self._chat.undo()
        self._console.note(f"(took back: {question})")

    def _save(self, name: str) -> None:
        n_turns = _with_file("/save", name, self._chat.save)
        self._console.note(f"(saved {_counted(n_turns)} to {name})")

    def _load(self, name: str) -> None:
        n_turns = _with_file("/load", name, self._chat.load)
        self._console.note(f"(loaded {_counted(n_turns)} from {name})")

    def _help(self, _: str) -> None:
        click.echo(HELP, err=True)

    def _exit(self, _: str) -> None:
        raise EOFError


def open_history(path: Path | None) -> History | None:
    """A person's history; None where the input is a pipe, or the output is none to a terminal."""
    return History(path) if sys.stdin.isatty() and sys.stdout.isatty() else None


def _with_file(command: str, name: str, act: Callable[[Path], int]) -> int:
    if not name:
        raise ChatError(f"{command}: name a file: {command} chat.json")
    try:
        return act(Path(name).expanduser())
    except OSError as error:
        raise ChatError(f"{command}: {name}: {error.strerror or error}") from None


def _counted(n_turns: int) -> str:
    return "1 turn" if n_turns == 1 else f"{n_turns} turns"
