"""`pymixtral bench`: how fast a model reads and generates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field

import click
import numpy as np

from pymixtral.cli.console import Console, human_rate
from pymixtral.cli.model import loaded
from pymixtral.cli.options import LoadOptions, console_options, load_options, shared
from pymixtral.cli.plot import check_plot
from pymixtral.cli.roofline_plot import draw_roofline
from pymixtral.engine import Phase, Session
from pymixtral.errors import ContextError
from pymixtral.llm import LLM
from pymixtral.loader import ModelFile, open_model
from pymixtral.roofline import Cost, Limits, decode_cost, measure_limits, prefill_cost


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
@click.option("--roofline", is_flag=True, help="Tell what part of the machine's limits it reaches.")
@click.option("--profile", is_flag=True, help="Tell where the time of a token goes.")
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Draw the roofline: PNG, SVG or PDF, by the name's ending.",
)
@shared("seed", seed={"default": 0, "show_default": True, "help": "Seed of the tokens."})
@load_options()
@shared("as_json")
@console_options
def command(
    console: Console,
    model: str | None,
    n_prompt: int,
    n_new: int,
    repetitions: int,
    roofline: bool,
    profile: bool,
    picture: str | None,
    seed: int,
    load: LoadOptions,
    as_json: bool,
) -> None:
    """Measure how fast MODEL reads and generates.

    The tokens are random, so that every expert gets its share. Sampling is not
    measured. A first pass, in which the model's pages come from the disk, is not counted; it and
    the time to load are told on stderr. Where the context cannot hold the prompt and the new
    tokens, generation begins after as much of the prompt as leaves room for them.

    --roofline measures how fast the same threads can read memory (2 GB, the best of five) and
    multiply, and tells what part of these limits each test reaches: generating is bound by
    memory, reading a long prompt by arithmetic. A small model may beat the memory's limit, as it
    stays in the caches.

    With --json: [{test ("prefill" or "decode"), n (tokens), tokens_per_second (median), spread (of
    tokens_per_second: the largest less the smallest), engine {model, tier, threads, kv_type,
    weights ("rows" as the file has them, "copied" by --repack, or "packed")}}]; with --roofline,
    "roofline" in each:
    {bytes_per_second, products_per_second, bound_by ("memory" or "arithmetic"), fraction,
    limits {bytes_per_second, products_per_second, instruction}}; with --profile, "profile": {part:
    seconds per token}.

    \b
    Examples:
      pymixtral bench mixtral.gguf
      pymixtral bench mixtral.gguf -p 2048 -n 64 -r 3 --threads 8 --json
      pymixtral bench mixtral.gguf --roofline --profile --plot roofline.png
    """
    if picture:
        check_plot(picture)
    file = open_model(model)
    with closing(file.gguf):
        _check_context(file, n_prompt, n_new, load.n_ctx)
    start = time.perf_counter()
    limits = None
    with loaded(console, model, load) as llm:
        console.note(f"loaded in {time.perf_counter() - start:.2f} s")
        results = _measure(console, llm, n_prompt, n_new, repetitions, load.kv_type, seed)
        if roofline or picture:
            with console.status("measuring the machine's limits"):
                limits = measure_limits(llm.engine)
        name, threads = llm.file.name, llm.engine.threads
        engine = {
            "model": name,
            "tier": llm.engine.tier,
            "threads": threads,
            "kv_type": load.kv_type,
            "weights": str(llm.weight_layout),
        }
    if as_json:
        console.json([_document(result, engine, limits, profile) for result in results])
    else:
        for line in _lines(results, limits if roofline else None, profile, threads):
            console.answer(f"{line}\n")
    if picture and limits is not None:
        with console.status("drawing"):
            draw_roofline(picture, name, limits, results)
        console.note(f"wrote {picture}")


def _document(
    result: Result, engine: dict[str, object], limits: Limits | None, profile: bool
) -> dict[str, object]:
    document: dict[str, object] = {
        "test": result.test,
        "n": result.n,
        "tokens_per_second": result.median,
        "spread": max(result.rates) - min(result.rates),
        "engine": engine,
    }
    if limits is not None:
        document["roofline"] = {
            "bytes_per_second": result.cost.n_bytes / result.seconds,
            "products_per_second": result.cost.n_products / result.seconds,
            "bound_by": _bound_by(limits, result.cost),
            "fraction": limits.fraction(result.cost, result.seconds),
            "limits": asdict(limits),
        }
    if profile:
        document["profile"] = result.profile
    return document


def _bound_by(limits: Limits, cost: Cost) -> str:
    return "memory" if limits.is_bound_by_memory(cost) else "arithmetic"


# ---- Tables ----


def _lines(
    results: Sequence[Result], limits: Limits | None, profile: bool, threads: int
) -> Iterator[str]:
    for result in results:
        median, low, high = map(human_rate, (result.median, min(result.rates), max(result.rates)))
        yield f"{result.test:8}{result.n:6} tokens  {median:>8} tokens/s  ({low} to {high})"
    if limits is not None:
        yield ""
        yield from _roofline_lines(results, limits, threads)
    if profile:
        yield ""
        yield from _profile_lines(results)


def _roofline_lines(results: Sequence[Result], limits: Limits, threads: int) -> Iterator[str]:
    yield (
        f"limits of {threads} threads: read {_giga(limits.bytes_per_second)} GB/s, "
        f"multiply {_giga(limits.products_per_second)} GMAC/s ({limits.instruction})"
    )
    for result in results:
        read, multiplied = (
            _giga(amount / result.seconds)
            for amount in (result.cost.n_bytes, result.cost.n_products)
        )
        fraction = limits.fraction(result.cost, result.seconds)
        yield (
            f"{result.test:8}  {read:>8} GB/s  {multiplied:>8} GMAC/s  "
            f"{fraction:4.0%} of what {_bound_by(limits, result.cost)} allows"
        )


def _profile_lines(results: Sequence[Result]) -> Iterator[str]:
    width = max(len(part) for part in results[0].profile)
    yield f"{'':{width}}" + "".join(f"{result.test:>20}" for result in results)
    yield f"{'':{width}}" + "  ms per token  share" * len(results)
    totals = [sum(result.profile.values()) for result in results]
    for part in results[0].profile:
        cells = (
            f"{1000 * result.profile[part]:14.3f} {result.profile[part] / total:6.1%}"
            for result, total in zip(results, totals, strict=True)
        )
        yield f"{part:{width}}" + "".join(cells)


def _giga(value: float) -> str:
    return human_rate(value / 1e9)


# ---- Measuring ----


@dataclass
class Result:
    """Measurements of one test.

    Attributes:
        test: "prefill" or "decode".
        n: tokens of each measurement.
        cost: of each measurement.
        rates: tokens per second, one of each repetition.
        profile: seconds per token that each part of the passes took, over all repetitions.
    """

    test: str
    n: int
    cost: Cost
    rates: list[float] = field(default_factory=list)
    profile: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def seconds(self) -> float:
        """Of the median measurement."""
        return self.n / self.median


def _measure(
    console: Console,
    llm: LLM,
    n_prompt: int,
    n_new: int,
    repetitions: int,
    kv_type: str,
    seed: int,
) -> tuple[Result, Result]:
    gguf, hparams = llm.file.gguf, llm.file.hparams
    first_new = min(n_prompt, llm.n_ctx - n_new)
    prefill = Result(
        "prefill", n_prompt, prefill_cost(gguf, hparams, n_prompt, llm.engine.batch_rows)
    )
    decode = Result("decode", n_new, decode_cost(gguf, hparams, first_new, n_new, kv_type))
    random = np.random.default_rng(seed)
    session = llm.new_session()
    with console.progress("pass") as progress:
        for n_done in range(repetitions + 1):
            if n_done == 1:
                before = [llm.engine.op_seconds(phase) for phase in Phase]
            read, generate = _one_pass(session, random, llm, n_prompt, n_new)
            if n_done == 0:
                console.note(f"first pass: prompt in {read:.2f} s, generation in {generate:.2f} s")
            else:
                prefill.rates.append(n_prompt / read)
                decode.rates.append(n_new / generate)
            progress(n_done + 1, repetitions + 1)
    for result, phase in ((prefill, Phase.PROMPT), (decode, Phase.GENERATED)):
        n_tokens = repetitions * result.n
        result.profile = {
            part: (seconds - before[phase][part]) / n_tokens
            for part, seconds in llm.engine.op_seconds(phase).items()
        }
    return prefill, decode


def _check_context(file: ModelFile, n_prompt: int, n_new: int, n_ctx: int | None) -> None:
    n_ctx, longest = file.choose_n_ctx(n_ctx), file.hparams.n_ctx_train
    for what, n_tokens, option in (
        (f"{n_prompt} prompt tokens", n_prompt, "-p"),
        (f"{n_new} new tokens, and one before them,", n_new + 1, "-n"),
    ):
        if n_tokens > n_ctx:
            or_raise = f", or raise --ctx (up to {longest})" if n_tokens <= longest else ""
            raise ContextError(
                f"{what} do not fit the context of {n_ctx}; choose fewer ({option}){or_raise}"
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
