"""Every type against a peer on the same file: reading a prompt, and generating.

    python bench/all_types.py --peer-python peer/bin/python [--types Q2_K IQ3_S] [--out FILE.md]
    python bench/all_types.py --package ik_llama_cpp --peer-python ik/bin/python --tier avx2

For each type a full-width Mixtral of three layers is written to a temporary folder (up to 5 GB),
raced by peers.py in interleaved rounds, and deleted. Our weights are as the file has them and then,
for the types that can be, repacked; the peer has flash attention, its weights repacked and not. Of
the peer's two the faster one counts, for each test by itself. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contenders import at_least_one
from facts import facts_of_run
from results import markdown_row

from pymixtral.engine import TENSOR_TYPES, default_threads, is_repackable
from pymixtral.formats.names import TensorRole

HERE = Path(__file__).parent
LAYERS, COLUMNS, ROWS = 3, 4096, 14336
SETTINGS = ("flash_attn=1,repack=0", "flash_attn=1,repack=1")
PEERS = {"llama_cpp": "llama.cpp", "ik_llama_cpp": "ik_llama.cpp"}
TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S"),
)

Result = dict[str, Any]


def race(model: Path, options: argparse.Namespace, *more: str) -> list[Result]:
    """What peers.py found, ours first, for "prefill" and then for "decode"."""
    command = [HERE / "peers.py", model, "--json", "--peer-python", options.peer_python]
    command += ["--package", options.package, "-r", str(options.rounds), "-n", "32", *more]
    command += [word for settings in SETTINGS for word in ("--peer", settings)]
    command += ["--tier", options.tier] if options.tier else []
    found = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE)
    results: list[Result] = json.loads(found.stdout)["results"]
    return results


def row_of(type_name: str, options: argparse.Namespace) -> list[str]:
    """The cells of a type."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model = Path(folder) / f"synthetic-{LAYERS}L.{type_name}.gguf"
        make = [HERE / "make_synthetic.py", model, "--layers", str(LAYERS), "--type", type_name]
        subprocess.run([sys.executable, *make], check=True, capture_output=True)
        as_it_is = race(model, options, "-p", "512")
        found = [type_name, *cells(as_it_is, "prefill"), *decode_cells(as_it_is)]
        if not is_repackable(TensorRole.FFN_GATE, TENSOR_TYPES[type_name], (COLUMNS, ROWS)):
            return [*found, *("",) * 4]
        return [*found, *decode_cells(race(model, options, "-p", "64", "--repack"))]


def cells(results: list[Result], test: str) -> list[str]:
    """Our speed, the faster peer's, and their ratio."""
    ours, *peers = (result for result in results if result["test"] == test)
    best = max(peers, key=lambda result: result["tokens_per_second"])
    speeds = [f"{r['tokens_per_second']:.1f} ±{r['spread'] / 2:.0%}" for r in (ours, best)]
    return [*speeds, f"{best['ours_over_this']:.2f}"]


def decode_cells(results: list[Result]) -> list[str]:
    ours = next(result for result in results if result["test"] == "decode")
    return [*cells(results, "decode"), f"{ours['bandwidth_fraction']:.0%}"]


def heading(options: argparse.Namespace) -> list[str]:
    peer = PEERS[options.package]
    facts = facts_of_run(default_threads(), options.rounds) | {peer: "; ".join(SETTINGS)}
    rows = [line for fact in facts.items() for line in markdown_row(fact)]
    of_run = markdown_row(["of the run", ""], is_head=True)
    columns = [
        *("type", "prompt, tokens/s", peer, "ratio"),
        *("generated, tokens/s", peer, "ratio", "of the read bandwidth"),
        *("repacked, generated", peer, "ratio", "of the read bandwidth"),
    ]
    return ["# Every type", "", *of_run, *rows, "", *markdown_row(columns, is_head=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--package", choices=PEERS, default="llama_cpp", help="the peer (llama_cpp)"
    )
    parser.add_argument("--peer-python", required=True, help="an interpreter that has it")
    parser.add_argument("--tier", help="ours (the CPU's best)")
    parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES, metavar="TYPE")
    parser.add_argument("-r", "--rounds", type=at_least_one, default=5, help="rounds (5)")
    parser.add_argument("--folder", type=Path, help="for the models (the system's for such files)")
    parser.add_argument("--out", type=Path, help="a file that gets what is printed")
    options = parser.parse_args()
    lines = heading(options)
    print("\n".join(lines), flush=True)
    for type_name in options.types:
        lines += markdown_row(row_of(type_name, options))
        print(lines[-1], flush=True)
        if options.out is not None:
            options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
