"""Races pymixtral against llama.cpp, or ik_llama.cpp, on one GGUF file.

    python bench/peers.py MODEL.gguf --peer-python PEER_VENV/bin/python
    python bench/peers.py MODEL.gguf --package ik_llama_cpp --peer-python IK_VENV/bin/python \\
        --tier avx2  # its wheel is built for AVX2
    python bench/peers.py MODEL.gguf --depth 8192 -p 512 -n 16  # attention over a long context
    python bench/peers.py MODEL.gguf --sequences 8 -n 16  # batched decode

Machines are noisy and their speed drifts, so only ratios from one run mean anything: every round
measures each contender and the read bandwidth in turn. Each runs in a process of its own, with the
same number of threads and the same token ids, which are random: a repeated token would ask the same
two experts for ever.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from bandwidth import ReadBandwidth
from contenders import (
    PEER_DEFAULTS,
    WARM_UP_IDS,
    Ours,
    Peer,
    PeerError,
    at_least_one,
    peer_settings,
    shown,
)
from race import Race, print_table

from pymixtral import FormatError, PymixtralError


@contextmanager
def loaded(options: argparse.Namespace) -> Iterator[tuple[Ours, list[Peer]]]:
    """The contenders. A peer that is not there is left out, and said to be."""
    n_new = max(options.prompt, options.generate)
    n_ctx = max(options.depth + n_new, len(WARM_UP_IDS))
    peers: list[Peer] = []
    ours = Ours(
        options.model,
        n_ctx,
        options.threads,
        options.kv_type,
        options.sequences,
        options.tier,
        options.repack,
    )
    with closing(ours), ExitStack() as stack:
        for settings in options.peer:
            settings = settings | {
                "n_ctx": n_ctx,
                "n_threads": ours.llm.engine.threads,
                "n_sequences": options.sequences,
            }
            try:
                peer = Peer(options.peer_python, options.package, options.model, settings)
            except PeerError as error:
                print(f"{options.package} is left out: {error}", file=sys.stderr)
                break
            peers.append(stack.enter_context(closing(peer)))
        yield ours, peers


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-p", "--prompt", type=at_least_one, default=512, help="tokens read (512)")
    parser.add_argument(
        "-n", "--generate", type=at_least_one, default=32, help="tokens generated (32)"
    )
    parser.add_argument(
        "--depth", type=int, default=0, help="tokens in the context before both tests (0)"
    )
    parser.add_argument(
        "--sequences",
        type=int,
        default=1,
        help="with 2 or more, measure generating with so many at once instead of the tests",
    )
    parser.add_argument("--kv-type", default="f16", help="of our KV cache: f16, q8_0 or f32 (f16)")
    parser.add_argument("--tier", help="ours (the CPU's best)")
    parser.add_argument("--repack", action="store_true", help="our weights repacked")
    parser.add_argument("-r", "--rounds", type=at_least_one, default=5, help="rounds (5)")
    parser.add_argument("-t", "--threads", type=int, help="default: all that may be used")
    parser.add_argument("--seed", type=int, default=0, help="of the token ids (0)")
    parser.add_argument(
        "--package", choices=PEER_DEFAULTS, default="llama_cpp", help="the peer (llama_cpp)"
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, help="an interpreter that has it (this one)"
    )
    defaults = "; ".join(
        f"{package}: {shown(package, PEER_DEFAULTS[package])}" for package in PEER_DEFAULTS
    )
    parser.add_argument(
        "--peer",
        action="append",
        metavar="KEY=VALUE,...",
        help="a peer's settings, as often as there are peers: n_batch; flash_attn; repack (weights "
        "are copied into another layout); kv_q8_0 (the KV cache is not f16); kv_unified (one for "
        f"all sequences); fused_moe. Defaults: {defaults}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        options.peer = [peer_settings(options.package, text) for text in options.peer or [""]]
    except PeerError as error:
        parser.error(str(error))
    return options


def run(ours: Ours, peers: list[Peer], options: argparse.Namespace) -> Race:
    """Measures all rounds."""
    random = np.random.default_rng(options.seed)
    bandwidth = ReadBandwidth(ours.llm.engine)
    if options.sequences > 1:
        sizes = {"batch": options.generate * options.sequences}
    else:
        sizes = {"prefill": options.prompt, "decode": options.generate}
    depth_ids = random.integers(0, ours.llm.n_vocab, options.depth).tolist()
    for contender in (ours, *peers) if options.depth else ():
        contender.measure("fill", depth_ids)
    counted_ids = random.integers(0, ours.llm.n_vocab, options.generate * options.sequences)
    race = Race(sizes=sizes, bytes_per_token=ours.bytes_per_token(counted_ids.tolist()))
    for i in range(options.rounds):
        print(f"round {i + 1} of {options.rounds}", file=sys.stderr)
        ids = random.integers(0, ours.llm.n_vocab, max(race.sizes.values())).tolist()
        race.run_round([ours, *peers], bandwidth, ids)
    return race


def main() -> None:
    try:
        race_and_print(parse_arguments())
    except (PeerError, PymixtralError, FormatError) as error:
        raise SystemExit(f"error: {error}") from None


def race_and_print(options: argparse.Namespace) -> None:
    with loaded(options) as (ours, peers):
        race = run(ours, peers, options)
        facts: dict[str, Any] = {
            "model": options.model.name,
            "threads": ours.llm.engine.threads,
            "rounds": options.rounds,
            "depth": options.depth,
            "sequences": options.sequences,
            "bytes_per_token": race.bytes_per_token,
            "read_bytes_per_second": round(max(race.bandwidths)),
            "seconds_to_ready": {c.name: round(c.seconds_to_ready, 2) for c in (ours, *peers)},
        }
    results = list(race.results())
    if options.json:
        print(json.dumps(facts | {"results": [asdict(result) for result in results]}, indent=2))
    else:
        print_facts(facts)
        print_table(results)


def print_facts(facts: dict[str, Any]) -> None:
    print(f"{facts['model']}, {facts['threads']} threads, {facts['rounds']} rounds, ", end="")
    print(f"depth {facts['depth']}, sequences {facts['sequences']}")
    print(f"read bandwidth {facts['read_bytes_per_second'] / 1e9:.2f} GB/s, ", end="")
    print(f"weights read for a generated token {facts['bytes_per_token'] / 1e9:.3f} GB")
    for name, seconds in facts["seconds_to_ready"].items():
        print(f"ready after {seconds:.2f} s: {name}")


if __name__ == "__main__":
    main()
