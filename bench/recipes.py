"""Our files of every recipe against llama.cpp's: perplexity, and divergence from the F32 model.

    python bench/recipes.py LIBGGML MODEL-F32.gguf TEXT --imatrix FILE > docs/recipes.jsonl
    python bench/plot_recipes.py docs/recipes.jsonl docs/recipes.png

LIBGGML is the peer's libggml-base.so (PyPI's llama-cpp-python has it in llama_cpp/lib). Both files
have the same type for every tensor, and are decoded to F32 before they are run, so that only the
quantizers differ. Printed is a line of JSON for each recipe, without and with the matrix: {recipe,
n_bytes, imatrix (true or false), ours, peer {perplexity, kl (mean Kullback-Leibler divergence from
F32's next-token distribution, in nats)}}; the first line is F32 itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quantizers import peer

from pymixtral import LLM
from pymixtral.divergence import Divergence, divergence
from pymixtral.engine import default_threads, dequantize_rows
from pymixtral.formats.blocks import row_bytes
from pymixtral.formats.imatrix import ImportanceMatrix, read_imatrix
from pymixtral.formats.quantize import Encoded, Encoder, quantize_gguf
from pymixtral.formats.recipes import FLOAT_TYPES, RECIPES
from pymixtral.perplexity import perplexity
from pymixtral.quantizer import encode

DEFAULT = [name for name in RECIPES if RECIPES[name].rules[0].type not in FLOAT_TYPES]


def peer_encoder(libggml: str) -> Encoder:
    quantize = peer(libggml, default_threads())

    def encode_by_peer(
        data: memoryview,
        source: int,
        target: int,
        n_cols: int,
        importance: NDArray[np.float32] | None,
    ) -> Encoded:
        if target in FLOAT_TYPES:
            return encode(data, source, target, n_cols, importance)
        values = dequantize_rows(data, source, data.nbytes // row_bytes(source, n_cols), n_cols)
        return Encoded(quantize(values, target, importance), 0, 0)

    return encode_by_peer


def measured(
    exact: LLM, recipe: str, by: Encoder, imatrix: ImportanceMatrix | None, text: str
) -> tuple[int, Divergence]:
    """The file's bytes, and how the model decoded from it differs."""
    with tempfile.TemporaryDirectory() as folder:
        small, decoded = Path(folder) / "small.gguf", Path(folder) / "decoded.gguf"
        quantize_gguf(exact.file.gguf.path, small, RECIPES[recipe], by, imatrix=imatrix)
        quantize_gguf(small, decoded, RECIPES["f32"], encode, allow_requantize=True)
        with LLM(decoded, n_ctx=exact.n_ctx) as llm:
            return small.stat().st_size, divergence(exact, llm, text, exact.n_ctx)


def compared(
    exact: LLM, recipe: str, by_peer: Encoder, imatrix: ImportanceMatrix | None, text: str
) -> dict[str, Any]:
    n_bytes, ours = measured(exact, recipe, encode, imatrix, text)
    _, theirs = measured(exact, recipe, by_peer, imatrix, text)
    return {
        "recipe": recipe,
        "n_bytes": n_bytes,
        "imatrix": imatrix is not None,
        "ours": {"perplexity": ours.b.perplexity, "kl": ours.kl},
        "peer": {"perplexity": theirs.b.perplexity, "kl": theirs.kl},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Our files against llama.cpp's.")
    parser.add_argument("libggml")
    parser.add_argument("model", help="GGUF file in F32")
    parser.add_argument("text")
    parser.add_argument("--recipes", nargs="+", default=DEFAULT, choices=RECIPES)
    parser.add_argument("--imatrix")
    parser.add_argument("--ctx", type=int, default=256)
    options = parser.parse_args()
    text = Path(options.text).read_text(encoding="utf-8")
    by_peer = peer_encoder(options.libggml)
    with LLM(options.model, n_ctx=options.ctx) as exact:
        matrices = [None]
        if options.imatrix is not None:
            matrices.append(read_imatrix(options.imatrix, exact.file.hparams.n_experts))
        whole = perplexity(exact, text, options.ctx).perplexity
        n_bytes = Path(options.model).stat().st_size
        print(json.dumps({"recipe": "f32", "n_bytes": n_bytes, "perplexity": whole}), flush=True)
        for recipe in options.recipes:
            for imatrix in matrices:
                row = compared(exact, recipe, by_peer, imatrix, text)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
