"""Perplexity of GGUF files on a text, for every tier and phase, as a Markdown table.

    python bench/accuracy.py tests/data/tinystories_60k.txt st-F32.gguf st-Q8_0.gguf

Tiers that this CPU lacks are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pymixtral import LLM, Phase
from pymixtral.engine import tiers
from pymixtral.perplexity import perplexity


def main() -> None:
    parser = argparse.ArgumentParser(description="Perplexities by tier and phase.")
    parser.add_argument("text", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--ctx", type=int, default=256)
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    print("| tier, phase |" + "".join(f" {model.name} |" for model in args.models))
    print("|---|" + "---|" * len(args.models))
    for tier in (name for name, is_supported in tiers().items() if is_supported):
        for phase in Phase:
            row = f"| {tier}, {phase.name.lower()} |"
            for model in args.models:
                with LLM(model, tier=tier) as llm:
                    row += f" {perplexity(llm, text, args.ctx, phase).perplexity:.4f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
