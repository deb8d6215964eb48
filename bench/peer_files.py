"""Our files in llama.cpp, and llama.cpp's in ours: the same greedy text, recipe by recipe.

    python bench/peer_files.py MODEL-F32.gguf --peer-python peer/bin/python [--prompt TEXT]

For each recipe the model is quantized by both programs, and each file is run by both, from the same
ids. Printed is how many generated tokens agree before the first that differs, and how far apart our
logits of the two choices are there: the engines round activations differently, so that where two
tokens are almost equally likely either may be chosen. A gap above --tie fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from quantize_race import PEER as PEER_QUANTIZE

from pymixtral import LLM, SamplingParams
from pymixtral.formats.quantize import quantize_gguf
from pymixtral.formats.recipes import RECIPES
from pymixtral.quantizer import encode

PEER_RUN = """
import json, sys
import numpy as np
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, logits_all=True, verbose=False)
ids, found = json.loads(sys.argv[2]), []
model.eval(ids)
for _ in range(int(sys.argv[3])):
    found.append(int(np.argmax(model.scores[model.n_tokens - 1])))
    model.eval(found[-1:])
print(json.dumps(found))
"""


def peer_ids(python: str, path: Path, ids: list[int], n: int) -> list[int]:
    command = [python, "-c", PEER_RUN, str(path), json.dumps(ids), str(n)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: list[int] = json.loads(result.stdout.splitlines()[-1])
    return found


def compared(python: str, path: Path, prompt: str, n: int) -> tuple[int, float]:
    """Tokens that agree, of n, and the gap of our logits at the first that does not."""
    with LLM(path, n_ctx=512) as llm:
        ids = llm.tokenize(prompt, add_bos=True)
        ours = llm.generate(ids, SamplingParams(temperature=0, max_tokens=n)).token_ids
        theirs = peer_ids(python, path, ids, len(ours))
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a != b:
                last = llm.logits([*ids, *ours[:i]])[-1]
                return i, float(last[a] - last[b])
    return len(ours), 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Files and texts against llama.cpp's.")
    parser.add_argument("model", type=Path, help="GGUF file in F32")
    parser.add_argument("--peer-python", required=True, help="the interpreter that has llama_cpp")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("-n", type=int, default=64, help="tokens to generate")
    parser.add_argument("--tie", type=float, default=0.2)
    options = parser.parse_args()
    print("| recipe | whose file | tokens that agree | gap |\n|---|---|---|---|")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes:
            ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
            quantize_gguf(options.model, ours, RECIPES[recipe], encode)
            arguments = [str(options.model), str(theirs), str(RECIPES[recipe].file_type), "2"]
            subprocess.run([options.peer_python, "-c", PEER_QUANTIZE, *arguments], check=True)
            for whose, path in (("ours", ours), ("theirs", theirs)):
                n, gap = compared(options.peer_python, path, options.prompt, options.n)
                print(f"| {recipe} | {whose} | {n} of {options.n} | {gap:.3f} |", flush=True)
                worst = max(worst, gap)
    if worst > options.tie:
        sys.exit(f"a gap of {worst:.3f} is no tie: the two engines disagree")


if __name__ == "__main__":
    main()
