"""`pymixtral bench`: how fast a model reads and generates."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import click
import numpy as np

from pymixtral.cli.console import Console, human_rate
from pymixtral.cli.model import loaded
from pymixtral.cli.options import LoadOptions, console_options, load_options, shared
from pymixtral.engine import Phase, Session
from pymixtral.errors import ContextError
from pymixtral.llm import LLM


@click.command("bench")
@click.argument("model", required=False)
@click.option(
    "-p",
    "--prompt-tokens",
    "n_prompt",
    type=click.IntRange(1),
    default=512,
    metavar="TOKENS",
    help="Tokens to read at once (prefill).",
)
@click.option(
    "-n",
    "--new-tokens",
    "n_new",
    type=click.IntRange(1),
    default=128,
    metavar="TOKENS",
    help="Tokens to generate one by one after the prompt (decode).",
)
@click.option(
    "-r",
    "--repetitions",
    type=click.IntRange(1),
    default=5,
    help="Measurements to take the median of.",
)
@shared("seed", seed={"default": 0, "help": "Seed of the tokens."})
@load_options()
@shared("as_json")
@console_options
def command(
    console: Console,
    model: str | None,
    n_prompt: int,
    n_new: int,
    repetitions: int,
    seed: int,
    load: LoadOptions,
    as_json: bool,
) -> None:
    """Measure how fast MODEL reads and generates.

    The tokens are random, so that every expert gets its share. Sampling is not
    measured. A first pass, in which the model's pages come from the disk, is not counted; it and
    the time to load are told on stderr. Where the context cannot hold the prompt and the new
    tokens, generation begins after as much of the prompt as leaves room for them.

    With --json: [{test ("prefill" or "decode"), n (tokens), tokens_per_second (median), spread (of
    tokens_per_second: the largest less the smallest)}].

    \b
    Examples:
      pymixtral bench mixtral.gguf
      pymixtral bench mixtral.gguf -p 2048 -n 64 -r 3 --threads 8 --json
    """
    start = time.perf_counter()
    with loaded(console, model, load) as llm:
        console.note(f"loaded in {time.perf_counter() - start:.2f} s")
        results = _measure(console, llm, n_prompt, n_new, repetitions, seed)
    if as_json:
        console.json([result.document() for result in results])
        return
    for result in results:
        console.answer(f"{result}\n")


@dataclass
class Result:
    """Measurements of one test.

    Attributes:
        test: "prefill" or "decode".
        n: tokens of each measurement.
        rates: tokens per second, one of each repetition.
    """

    test: str
    n: int
    rates: list[float] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        return {
            "test": self.test,
            "n": self.n,
            "tokens_per_second": statistics.median(self.rates),
            "spread": max(self.rates) - min(self.rates),
        }

    def __str__(self) -> str:
        median, low, high = map(
            human_rate, (statistics.median(self.rates), min(self.rates), max(self.rates))
        )
        return f"{self.test:8}{self.n:6} tokens  {median:>8} tokens/s  ({low} to {high})"


def _measure(
    console: Console, llm: LLM, n_prompt: int, n_new: int, repetitions: int, seed: int
) -> tuple[Result, Result]:
    _check_context(n_prompt, n_new, llm.n_ctx)
    prefill, decode = Result("prefill", n_prompt), Result("decode", n_new)
    random = np.random.default_rng(seed)
    session = llm.new_session()
    with console.progress("pass") as progress:
        for n_done in range(repetitions + 1):
            read, generate = _one_pass(session, random, llm, n_prompt, n_new)
            if n_done == 0:
                console.note(f"first pass: prompt in {read:.2f} s, generation in {generate:.2f} s")
            else:
                prefill.rates.append(n_prompt / read)
                decode.rates.append(n_new / generate)
            progress(n_done + 1, repetitions + 1)
    return prefill, decode


def _check_context(n_prompt: int, n_new: int, n_ctx: int) -> None:
    if max(n_prompt, n_new + 1) > n_ctx:
        raise ContextError(
            f"{n_prompt} prompt tokens and {n_new} new ones do not fit the context of {n_ctx}; "
            "choose fewer (-p, -n), or raise --ctx"
        )


def _one_pass(
    session: Session, random: np.random.Generator, llm: LLM, n_prompt: int, n_new: int
) -> tuple[float, float]:
    """Seconds to read a prompt, and to generate after it."""
    prompt, new = (random.integers(llm.n_vocab, size=n, dtype=np.int32) for n in (n_prompt, n_new))
    session.truncate(0)
    start = time.perf_counter()
    session.eval(prompt, Phase.PROMPT)
    read = time.perf_counter() - start

    session.truncate(min(n_prompt, llm.n_ctx - n_new))
    start = time.perf_counter()
    for token_id in new:
        session.eval([token_id], Phase.GENERATED)
    return read, time.perf_counter() - start
