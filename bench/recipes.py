"""Our files of every recipe against llama.cpp's: perplexity, and divergence from the F32 model.

    python bench/recipes.py LIBGGML MODEL-F32.gguf TEXT [--imatrix FILE] [--recipes q4_k_m ...]

LIBGGML is the peer's libggml-base.so (PyPI's llama-cpp-python has it in llama_cpp/lib). Both files
have the same type for every tensor, and are decoded to F32 before they are run, so that only the
quantizers differ. For each: the perplexity, and the mean Kullback-Leibler divergence in nats.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

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
    """Bytes of the file, and what decoding it to F32 gives."""
    with tempfile.TemporaryDirectory() as folder:
        small, decoded = Path(folder) / "small.gguf", Path(folder) / "decoded.gguf"
        quantize_gguf(exact.file.gguf.path, small, RECIPES[recipe], by, imatrix=imatrix)
        quantize_gguf(small, decoded, RECIPES["f32"], encode, allow_requantize=True)
        with LLM(decoded, n_ctx=exact.n_ctx) as llm:
            return small.stat().st_size, divergence(exact, llm, text, exact.n_ctx)


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
    print("| recipe | MB | ours | llama.cpp's | KL, ours | KL, llama.cpp's |")
    print("|---|---|---|---|---|---|")
    with LLM(options.model, n_ctx=options.ctx) as exact:
        n_experts = exact.file.hparams.n_experts
        imatrix = None if options.imatrix is None else read_imatrix(options.imatrix, n_experts)
        for recipe in options.recipes:
            n_bytes, ours = measured(exact, recipe, encode, imatrix, text)
            _, theirs = measured(exact, recipe, by_peer, imatrix, text)
            print(
                f"| {recipe} | {n_bytes / 1e6:.1f} | {ours.b.perplexity:.3f} "
                f"| {theirs.b.perplexity:.3f} | {ours.kl:.5f} | {theirs.kl:.5f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
