"""`pymixtral chat`: a conversation at the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click

from pymixtral.cli.console import Console
from pymixtral.cli.dialogue import Chat
from pymixtral.cli.history import history_file
from pymixtral.cli.logit_bias import TokenBias, with_biases
from pymixtral.cli.model import loaded
from pymixtral.cli.options import (
    LoadOptions,
    console_options,
    load_options,
    sampling_options,
    shared,
)
from pymixtral.cli.terminal import Terminal, open_history
from pymixtral.sampling import SamplingParams


@click.command("chat")
@click.argument("model", required=False)
@click.option(
    "--no-shift",
    is_flag=True,
    help="Fail when the context is full, instead of forgetting the oldest turns.",
)
@click.option(
    "--no-history", is_flag=True, help="Neither recall earlier chats' questions nor keep these."
)
@shared("chat_template")
@sampling_options()
@shared("biases")
@load_options()
@console_options
def command(
    console: Console,
    model: str | None,
    no_shift: bool,
    no_history: bool,
    chat_template: str | None,
    params: SamplingParams,
    biases: Sequence[TokenBias],
    load: LoadOptions,
) -> None:
    """Talk with MODEL: a question a line, until Ctrl-D.

    Ctrl-C stops an answer; what there is of it stays in the conversation. When the context is full,
    the oldest questions and answers are forgotten.

    Lines that begin with a slash are commands: /help lists them, among them /regen for another
    answer, /undo, /save and /load. A question of several lines stands between lines of three
    quotes, or is pasted.

    Questions are kept for the arrow keys in $XDG_STATE_HOME/pymixtral/chat_history.

    \b
    Examples:
      pymixtral chat
      pymixtral chat mixtral.gguf --ctx 16384 --temperature 0.5
      pymixtral chat mixtral.gguf --stop "User:" --no-history
    """
    with loaded(console, model, load, chat_template) as llm:
        params = with_biases(params, biases, llm.tokenizer)
        chat = Chat(console, llm, params, can_forget=not no_shift)
        history = open_history(None if no_history else history_file())
        Terminal(console, chat, history).talk()
