"""`pymixtral tokenize`: a text's token ids."""

from __future__ import annotations

import click

from pymixtral.cli.console import Console
from pymixtral.cli.model import opened
from pymixtral.cli.options import console_options, shared
from pymixtral.cli.text import read_argument
from pymixtral.formats.errors import one_line
from pymixtral.tokenizer import Tokenizer


@click.command("tokenize")
@click.argument("model")
@click.argument("text")
@click.option("--bos", is_flag=True, help="Put the BOS token in front, as `run --raw` does.")
@shared("as_json")
@console_options
def command(console: Console, model: str, text: str, bos: bool, as_json: bool) -> None:
    """Print the token ids of TEXT.

    One line for each token: its id and its piece. Nothing in TEXT is special: "</s>" is four
    characters. "-" reads it from stdin, less one newline at its end. Of the file MODEL only the
    header is read.

    With --json: {ids, pieces}.

    \b
    Examples:
      pymixtral tokenize mixtral.gguf "Hello, world"
      pymixtral tokenize mixtral.gguf --json - < question.txt
    """
    text = read_argument(text)
    with opened(console, model) as file:
        tokenizer = Tokenizer(file.vocabulary)
    ids = tokenizer.encode(text, add_bos=bos)
    pieces = [tokenizer.piece(token_id) for token_id in ids]
    if as_json:
        console.json({"ids": ids, "pieces": pieces})
        return
    width = len(str(tokenizer.n_vocab - 1))
    for token_id, piece in zip(ids, pieces, strict=True):
        console.answer(f"{token_id:{width}}  {one_line(piece)}\n")
