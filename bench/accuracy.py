"""What computing in 8 or 16 bits costs: each tier and phase against exact arithmetic, in Markdown.

    python bench/accuracy.py tests/data/tinystories_60k.txt Q8_0.gguf Q4_K_M.gguf \\
        --peer-python peer/bin/python

For each GGUF file, exact is the model of the file's own weights, decoded to F32 and run in float32,
keys and values included: what the weights' type has lost already is no part of the table. Scored
are the tokens that `pymixtral perplexity` scores. Three tables are printed: perplexities, what each
adds to the exact one, and the Kullback-Leibler divergence of the next token's distribution from the
exact one, the mean over the tokens and (in brackets) the median: a few tokens for which a router
chooses another expert make up most of the mean. The peer is llama.cpp with its own defaults, given
the same tokens. Tiers that this CPU lacks are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contenders import PEER_DEFAULTS, Peer, PeerError
from numpy.typing import NDArray

from pymixtral import LLM, Phase
from pymixtral.chunks import text_chunks
from pymixtral.divergence import log_softmax
from pymixtral.engine import Logits, default_threads, tiers
from pymixtral.formats.quantize import quantize_gguf
from pymixtral.formats.recipes import RECIPES
from pymixtral.perplexity import scored_logits, summary
from pymixtral.quantizer import encode

Chunks = list[NDArray[np.int32]]
EXACT = "exact"


@dataclass(frozen=True)
class Measured:
    """Of one engine on one file; divergences are in nats."""

    perplexity: float
    kl_mean: float
    kl_median: float


def compared(exact: Iterable[Logits], found: Iterable[Logits], chunks: Chunks) -> Measured:
    """Both give, for each chunk, the logits of its scored tokens."""
    losses, divergences = [], []
    for exact_logits, found_logits, chunk in zip(exact, found, chunks, strict=True):
        targets = chunk[-len(found_logits) :]
        log_p, log_q = log_softmax(exact_logits), log_softmax(found_logits)
        losses.append(-log_q[np.arange(len(targets)), targets])
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
    kl = np.concatenate(divergences)
    perplexity = summary(np.concatenate(losses)).perplexity
    return Measured(perplexity, float(kl.mean()), float(np.median(kl)))


def our_logits(
    model: Path, chunks: Chunks, tier: str, phase: Phase, kv_type: str = "f16"
) -> Iterator[Logits]:
    """For each chunk, the logits of its scored tokens."""
    with LLM(model, n_ctx=len(chunks[0]), tier=tier, kv_type=kv_type) as llm:
        session = llm.new_session()
        for chunk in chunks:
            yield np.concatenate([rows for rows, _ in scored_logits(session, chunk, phase)])
        session.close()


def exact_logits(model: Path, chunks: Chunks) -> list[Logits]:
    """Those of the model decoded to float32.

    Of F32 weights and an F32 cache every tier computes the same, but for the last bits of sums:
    a divergence of 3e-13 nats. So a fast one is taken.
    """
    tier = "avx2" if tiers().get("avx2") else "generic"
    with tempfile.TemporaryDirectory() as folder:
        decoded = Path(folder) / "decoded.gguf"
        quantize_gguf(model, decoded, RECIPES["f32"], encode, allow_requantize=True)
        return list(our_logits(decoded, chunks, tier, Phase.PROMPT, kv_type="f32"))


def peer_logits(model: Path, chunks: Chunks, python: str) -> Iterator[Logits]:
    """For each chunk, the logits of its scored tokens, by llama.cpp as it is by default.

    Raises:
        PeerError: it cannot run, is not installed, or failed.
    """
    n_ctx = len(chunks[0])
    sizes = {"n_batch": n_ctx, "n_ctx": n_ctx, "n_threads": default_threads(), "n_sequences": 1}
    settings = PEER_DEFAULTS["llama_cpp"] | sizes | {"flash_attn": -1}
    with closing(Peer(python, "llama_cpp", model, settings)) as peer:
        for chunk in chunks:
            yield peer.logits(chunk[:-1].tolist())[n_ctx // 2 :]


def measured(
    model: Path, text: str, n_ctx: int, chosen_tiers: list[str], peer_python: str | None
) -> dict[str, Measured]:
    """Of each engine by its name, the exact one first."""
    with LLM(model, n_ctx=n_ctx) as llm:
        chunks = text_chunks(llm, text, n_ctx)
    exact = exact_logits(model, chunks)
    found = {EXACT: compared(exact, exact, chunks)}
    if peer_python is not None:
        found["llama.cpp"] = compared(exact, peer_logits(model, chunks, peer_python), chunks)
    for tier in chosen_tiers:
        for phase in Phase:
            logits = our_logits(model, chunks, tier, phase)
            found[f"{tier}, {phase.name.lower()}"] = compared(exact, logits, chunks)
    return found


Cell = Callable[[Measured, Measured], str]


def table(rows: dict[str, dict[str, Measured]], cell: Cell, with_exact: bool = False) -> str:
    """A row for each file; `cell` gets what an engine and what the exact one gave."""
    engines = [name for name in next(iter(rows.values())) if with_exact or name != EXACT]
    lines = ["| file |" + "".join(f" {engine} |" for engine in engines)]
    lines.append("|---|" + "---|" * len(engines))
    for name, row in rows.items():
        lines.append(f"| {name} |" + "".join(f" {cell(row[e], row[EXACT])} |" for e in engines))
    return "\n".join(lines)


def main() -> None:
    supported = [name for name, is_supported in tiers().items() if is_supported]
    parser = argparse.ArgumentParser(description="What inexact arithmetic costs, tier by tier.")
    parser.add_argument("text", type=Path)
    parser.add_argument("models", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--ctx", type=int, default=256)
    parser.add_argument("--tiers", nargs="+", choices=supported, default=supported)
    parser.add_argument("--peer-python", help="the interpreter that has llama_cpp; default: none")
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8")
    rows = {}
    for model in options.models:
        print(model.stem, file=sys.stderr, flush=True)
        try:
            rows[model.stem] = measured(
                model, text, options.ctx, options.tiers, options.peer_python
            )
        except PeerError as error:
            sys.exit(str(error))
    print("Perplexity:\n")
    print(table(rows, lambda found, _: f"{found.perplexity:.4f}", with_exact=True))
    print("\nPerplexity, less the exact one, in thousandths:\n")
    print(table(rows, lambda found, exact: f"{1e3 * (found.perplexity - exact.perplexity):+.1f}"))
    print("\nDivergence from the exact distribution, in thousandths of a nat:\n")
    print(table(rows, lambda found, _: f"{1e3 * found.kl_mean:.3f} ({1e3 * found.kl_median:.3f})"))


if __name__ == "__main__":
    main()
