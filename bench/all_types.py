"""Every type against llama.cpp on the same file: reading a prompt, and generating.

    python bench/all_types.py --peer-python peer/bin/python [--types Q2_K IQ3_S] [--out FILE.md]

For each type a full-width Mixtral of three layers is written to a temporary folder (up to 5 GB),
raced by peers.py in interleaved rounds, our weights as the file has them, the peer with flash
attention, its weights repacked and not, and deleted. Of the peer's two the faster one counts, for
each test by itself. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from facts import facts_of_run
from results import markdown_row

from pymixtral.engine import default_threads

HERE = Path(__file__).parent
LAYERS = 3
PEERS = ("flash_attn=1,repack=0", "flash_attn=1,repack=1")
TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S"),
)
HEADS = (
    *("type", "prompt, tokens/s", "llama.cpp", "ratio"),
    *("generated, tokens/s", "llama.cpp", "ratio", "of the read bandwidth"),
)

Result = dict[str, Any]


def race(type_name: str, options: argparse.Namespace) -> list[Result]:
    """What peers.py found, ours first, for "prefill" and then for "decode"."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model = Path(folder) / f"synthetic-{LAYERS}L.{type_name}.gguf"
        make = [HERE / "make_synthetic.py", model, "--layers", str(LAYERS), "--type", type_name]
        subprocess.run([sys.executable, *make], check=True, capture_output=True)
        command = [HERE / "peers.py", model, "--json", "--peer-python", options.peer_python]
        command += ["-r", str(options.rounds), "-p", "512", "-n", "32"]
        command += [word for settings in PEERS for word in ("--peer", settings)]
        found = subprocess.run(
            [sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True
        )
    results: list[Result] = json.loads(found.stdout)["results"]
    return results


def cells(results: list[Result], test: str) -> tuple[list[str], Result]:
    """Our speed, the faster peer's, and their ratio; and our result."""
    ours, *peers = (result for result in results if result["test"] == test)
    best = max(peers, key=lambda result: result["tokens_per_second"])
    speeds = [f"{r['tokens_per_second']:.1f} ±{r['spread'] / 2:.0%}" for r in (ours, best)]
    return [*speeds, f"{best['ours_over_this']:.2f}"], ours


def heading(options: argparse.Namespace) -> list[str]:
    facts = facts_of_run(default_threads(), options.rounds) | {"llama.cpp": "; ".join(PEERS)}
    rows = [line for fact in facts.items() for line in markdown_row(fact)]
    of_run = markdown_row(["of the run", ""], is_head=True)
    return ["# Every type", "", *of_run, *rows, "", *markdown_row(HEADS, is_head=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="an interpreter that has llama_cpp")
    parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES, metavar="TYPE")
    parser.add_argument("-r", "--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--folder", type=Path, help="for the models (the system's for such files)")
    parser.add_argument("--out", type=Path, help="a file that gets what is printed")
    options = parser.parse_args()
    lines = heading(options)
    print("\n".join(lines), flush=True)
    for type_name in options.types:
        results = race(type_name, options)
        prompt, _ = cells(results, "prefill")
        generated, ours = cells(results, "decode")
        fraction = f"{ours['bandwidth_fraction']:.0%}"
        lines += markdown_row([type_name, *prompt, *generated, fraction])
        print(lines[-1], flush=True)
        if options.out is not None:
            options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
