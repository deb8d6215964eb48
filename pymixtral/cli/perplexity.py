"""`pymixtral perplexity`: how well a model predicts a text."""

from __future__ import annotations

import click

from pymixtral.cli.console import Console
from pymixtral.cli.model import loaded
from pymixtral.cli.options import LoadOptions, console_options, load_options, shared
from pymixtral.cli.text import read_file
from pymixtral.engine import Phase
from pymixtral.perplexity import perplexity


@click.command("perplexity")
@click.argument("model")
@click.argument("file")
@click.option(
    "--phase",
    type=click.Choice([phase.name.lower() for phase in Phase]),
    default=Phase.PROMPT.name.lower(),
    help="Kernels to use: those that read a prompt, or those that generate.",
)
@load_options(n_ctx={"default": 512, "help": "Length of a chunk."})
@shared("as_json")
@console_options
def command(
    console: Console, model: str, file: str, phase: str, load: LoadOptions, as_json: bool
) -> None:
    """Measure the perplexity of the text in FILE.

    As llama.cpp defines it: the text is cut into chunks of --ctx tokens, each beginning with BOS,
    and the second half of each is scored. Figures can be compared only at the same text, vocabulary
    and --ctx. "-" reads the text from stdin.

    With --json: {perplexity, stderr (of the perplexity), tokens (scored)}.

    \b
    Examples:
      pymixtral perplexity mixtral.gguf wiki.test.raw
      pymixtral perplexity mixtral.gguf wiki.test.raw --ctx 2048 --phase generated --json
    """
    text = read_file(file)
    with loaded(console, model, load) as llm, console.progress("chunk") as progress:
        result = perplexity(llm, text, llm.n_ctx, Phase[phase.upper()], progress)
    if as_json:
        console.json(
            {
                "perplexity": result.perplexity,
                "stderr": result.stderr,
                "tokens": result.n_tokens,
            }
        )
    else:
        console.answer(
            f"perplexity {result.perplexity:.4f} +/- {result.stderr:.4f} "
            f"({result.n_tokens} tokens scored)\n"
        )
