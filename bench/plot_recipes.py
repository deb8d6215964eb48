"""Draws what `recipes.py` measured: perplexity, and divergence from F32, against the file's size.

    python bench/plot_recipes.py docs/recipes.jsonl docs/recipes.png [--table]

Needs the extra `plot`. With --table, the table of docs/quantizing.md is printed, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

Row = dict[str, Any]

# Whose file, and whether with an importance matrix: color, marker and label.
SERIES = {
    ("ours", False): ("tab:blue", "o", "pymixtral"),
    ("ours", True): ("tab:orange", "o", "pymixtral, imatrix"),
    ("peer", False): ("tab:blue", "x", "llama.cpp"),
    ("peer", True): ("tab:orange", "x", "llama.cpp, imatrix"),
}

SAME_BYTES = 150_000

HEADER = """\
| recipe | MB | perplexity | peer's | KL | peer's | with imatrix | peer's | KL | peer's |
|---|---|---|---|---|---|---|---|---|---|"""


def draw(axes: Axes, rows: list[Row], quantity: str) -> None:
    for (side, imatrix), (color, marker, label) in SERIES.items():
        chosen = [row for row in rows if row["imatrix"] == imatrix]
        sizes = [row["n_bytes"] / 1e6 for row in chosen]
        values = [row[side][quantity] for row in chosen]
        axes.scatter(sizes, values, color=color, marker=marker, s=24, label=label)
    axes.set_xlabel("file, MB")
    axes.grid(alpha=0.3)


def name_recipes(axes: Axes, rows: list[Row], quantity: str) -> None:
    """Above their points; recipes whose files are of about one size share a label."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row["n_bytes"]):
        if not groups or row["n_bytes"] - groups[-1][-1]["n_bytes"] > SAME_BYTES:
            groups.append([])
        groups[-1].append(row)
    for i, group in enumerate(groups):
        top = max(row[side][quantity] for row in group for side in ("ours", "peer"))
        axes.annotate(
            "\n".join(dict.fromkeys(row["recipe"] for row in group)),
            (group[0]["n_bytes"] / 1e6, top),
            xytext=(0, 8 + 14 * (i % 2)),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "gray"},
        )


def plot(exact: Row, rows: list[Row], out: Path) -> None:
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(10, 11), layout="constrained")
    draw(upper, rows, "perplexity")
    upper.axhline(exact["perplexity"], color="gray", lw=0.8, ls="--", label="F32")
    upper.set_ylabel("perplexity")
    upper.legend()
    draw(lower, rows, "kl")
    lower.set_yscale("log")
    lower.set_ylabel("KL divergence from F32, nats per token")
    for axes, quantity in ((upper, "perplexity"), (lower, "kl")):
        name_recipes(axes, rows, quantity)
        axes.margins(y=0.2)
    figure.savefig(out, dpi=90)


def table(rows: list[Row]) -> str:
    """Perplexities, and divergences in thousandths of a nat."""
    lines = [HEADER]
    plain = [row for row in rows if not row["imatrix"]]
    with_imatrix = {row["recipe"]: row for row in rows if row["imatrix"]}
    for row in sorted(plain, key=lambda row: row["n_bytes"]):
        cells = [row["recipe"], f"{row['n_bytes'] / 1e6:.1f}"]
        for measured in (row, with_imatrix[row["recipe"]]):
            for quantity, form in (("perplexity", "{:.3f}"), ("kl", "{:.2f}")):
                scale = 1000 if quantity == "kl" else 1
                cells += [
                    form.format(scale * measured[side][quantity]) for side in ("ours", "peer")
                ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Plots the recipes' perplexities.")
    parser.add_argument("measured", type=Path, help="what recipes.py printed")
    parser.add_argument("out", type=Path, help="PNG file")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    lines = options.measured.read_text(encoding="utf-8").splitlines()
    exact, *rows = map(json.loads, lines)
    plot(exact, rows, options.out)
    if options.table:
        print(table(rows))


if __name__ == "__main__":
    main()
