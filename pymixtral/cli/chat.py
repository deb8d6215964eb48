"""`pymixtral chat`: a conversation at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import replace
from importlib import import_module

import click

from pymixtral.cli.console import Console
from pymixtral.cli.model import loaded
from pymixtral.cli.options import (
    LoadOptions,
    console_options,
    load_options,
    sampling_options,
    shared,
)
from pymixtral.errors import ContextError, PymixtralError
from pymixtral.generate import check_prompt
from pymixtral.llm import LLM, CompletionStream
from pymixtral.sampling import SamplingParams

PROMPT = "> "

COMMANDS_HELP = """\
/reset        forget the conversation, but not the system prompt
/system TEXT  begin a new conversation with TEXT as system prompt (none: without one)
/help         show this
/exit         leave, as Ctrl-D does
Ctrl-C stops an answer; the arrow keys edit a question and recall earlier ones."""


@click.command("chat")
@click.argument("model", required=False)
@click.option(
    "--no-shift",
    is_flag=True,
    help="Fail when the context is full, instead of forgetting the oldest turns.",
)
@shared("chat_template")
@sampling_options()
@load_options()
@console_options
def command(
    console: Console,
    model: str | None,
    no_shift: bool,
    chat_template: str | None,
    params: SamplingParams,
    load: LoadOptions,
) -> None:
    """Talk with MODEL: a question a line, until Ctrl-D.

    Ctrl-C stops an answer; what there is of it stays in the conversation. When the context is full,
    the oldest questions and answers are forgotten.

    \b
    Within the conversation:
      /reset        forget the conversation, but not the system prompt
      /system TEXT  begin a new conversation with TEXT as system prompt
      /help         list these
      /exit         leave

    \b
    Examples:
      pymixtral chat
      pymixtral chat mixtral.gguf --ctx 16384 --temperature 0.5
    """
    with loaded(console, model, load, chat_template) as llm:
        Terminal(console, Chat(console, llm, params, can_forget=not no_shift)).talk()


class Chat:
    """A conversation that makes room for itself.

    Args:
        can_forget: drop the oldest turns when the context is full; otherwise that is an error.
    """

    def __init__(
        self, console: Console, llm: LLM, params: SamplingParams, *, can_forget: bool
    ) -> None:
        self.can_forget = can_forget
        self._console = console
        self._llm = llm
        self._params = params
        self._system: str | None = None
        self.reset()

    def reset(self) -> None:
        """Forget every turn."""
        self._conversation = self._llm.new_conversation(self._system)

    def set_system(self, text: str) -> None:
        """Begin anew with a system prompt, or with "" without one."""
        self._system = text or None
        self.reset()

    def ask(self, question: str) -> None:
        """Show the answer to a question. Ctrl-C ends it early.

        Raises:
            ContextError: question and answer do not fit the context.
            ParameterError: the question is no text that can be encoded.
        """
        self._conversation.add_user(question)
        answer_ids: list[int] = []
        try:
            n_least = len(self._conversation.least_ids)
            check_prompt(n_least, self._llm.n_ctx)  # before anything is forgotten
            with closing(self._pieces(answer_ids)) as pieces:
                for piece in pieces:
                    self._console.answer(piece)
        except KeyboardInterrupt:
            self._console.note("(stopped)")
        finally:
            self._console.end_line()
            if answer_ids:
                self._conversation.add_answer_ids(answer_ids)
            else:
                self._conversation.retract_question()

    def _pieces(self, answer_ids: list[int]) -> Generator[str, None, None]:
        """The answer's pieces, whose ids are appended to `answer_ids` however it ends."""
        while True:
            self._make_room(len(answer_ids))
            stream = self._stream(answer_ids)
            try:
                yield from stream
            finally:
                stream.close()
                answer_ids += stream.token_ids
            if not self._is_cut_off(stream, len(answer_ids)):
                return

    def _stream(self, answer_ids: list[int]) -> CompletionStream:
        """The answer from its beginning, or from where the context became full."""
        ids = self._conversation.ids + answer_ids
        if not answer_ids:
            return self._llm.answer(ids, self._params, stream=True)
        n_left = self._params.max_tokens and self._params.max_tokens - len(answer_ids)
        return self._llm.generate(ids, replace(self._params, max_tokens=n_left), stream=True)

    def _is_cut_off(self, stream: CompletionStream, n_answer: int) -> bool:
        """Whether the full context ended the answer, and making room would let it go on."""
        n_tokens = len(self._conversation.ids) + n_answer
        is_ended = stream.completion.finish_reason == "stop" or n_answer == self._params.max_tokens
        if is_ended or n_tokens < self._llm.n_ctx:
            return False
        if self._conversation.n_turns == 1 and self.can_forget:
            self._console.note("(the context is full: the answer ends here)")
            return False
        return True

    def _make_room(self, n_answer: int) -> None:
        """If the context is full, forgets turns until a quarter of it is free.

        A turn at a time would not do: each time, the whole rest has to be read again.
        """
        conversation, n_ctx = self._conversation, self._llm.n_ctx
        if len(conversation.ids) + n_answer < n_ctx:
            return
        if not self.can_forget:
            raise ContextError(
                f"the conversation fills the context of {n_ctx} tokens; raise it (--ctx), or leave "
                "out --no-shift"
            )
        n_forgotten = 0
        while conversation.n_turns > 1 and len(conversation.ids) + n_answer > n_ctx * 3 // 4:
            conversation.drop_oldest_turn()
            n_forgotten += 1
        turns = "turn" if n_forgotten == 1 else f"{n_forgotten} turns"
        self._console.note(f"(the context of {n_ctx} tokens is full: forgot the oldest {turns})")


class Terminal:
    """Reads questions and commands, from a person or a pipe."""

    def __init__(self, console: Console, chat: Chat) -> None:
        self._console = console
        self._chat = chat
        self._is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/help": self._help,
            "/exit": self._exit,
        }

    def talk(self) -> None:
        """Until the end of the input."""
        with suppress(ImportError):  # not every Python has it
            import_module("readline")  # input() uses it once it is imported
        if self._is_interactive:
            self._console.note("/help lists the commands, Ctrl-D leaves")
        with suppress(EOFError):
            while True:
                self._take_turn()

    def _take_turn(self) -> None:
        """A line, and what it asks for."""
        try:
            line = input(PROMPT if self._is_interactive else "")
            self._obey(line)
        except KeyboardInterrupt:
            if not self._is_interactive:
                raise
            click.echo(err=True)  # the terminal has shown ^C
            self._console.note("(Ctrl-D leaves)")
        except PymixtralError as error:
            if not (self._is_interactive and self._chat.can_forget):
                raise
            self._console.error(str(error))

    def _obey(self, line: str) -> None:
        if not line.startswith("/"):
            if line.strip():
                self._chat.ask(line.strip())
            return
        word, _, rest = line.partition(" ")
        if word in self._commands:
            self._commands[word](rest.strip())
        else:
            self._console.error(f"{word} is no command; /help lists them")

    def _reset(self, _: str) -> None:
        self._chat.reset()
        self._console.note("(a new conversation)")

    def _system(self, text: str) -> None:
        self._chat.set_system(text)
        self._console.note(f"(a new conversation, {'with' if text else 'without'} system prompt)")

    def _help(self, _: str) -> None:
        click.echo(COMMANDS_HELP, err=True)

    def _exit(self, _: str) -> None:
        raise EOFError
