"""Converting a full-width Mixtral checkpoint to a float type, beside what `dd` does with its bytes.

    python bench/convert_speed.py FOLDER --layers 5 [--type bf16] [--rounds 3]

Writes a checkpoint of random weights to FOLDER, in Hugging Face's layout and BF16 (2.8 GB a layer),
unless it is there, and then in turns reads it with dd, copies it with dd, and converts it. Before
each, the system is asked to forget the source, so that the disk is read. Printed are the medians,
the fraction that the conversion reaches of dd's reading and of dd's copying, and the most memory
that a command has held, pages of the mapped source included. Needs room for twice the checkpoint,
and mistral-common for a tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

DIM, FFN_DIM, N_EXPERTS, N_VOCAB, KV_DIM = 4096, 14336, 8, 32000, 1024
BLOCK_BYTES = 64 << 20  # of random weights, which the file repeats

CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": DIM,
    "intermediate_size": FFN_DIM,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 8,
    "num_local_experts": N_EXPERTS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "vocab_size": N_VOCAB,
}


def shapes(n_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (N_VOCAB, DIM)
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (DIM,)
        yield f"{prefix}.post_attention_layernorm.weight", (DIM,)
        for name, n_rows in (("q", DIM), ("k", KV_DIM), ("v", KV_DIM), ("o", DIM)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (n_rows, DIM)
        yield f"{prefix}.block_sparse_moe.gate.weight", (N_EXPERTS, DIM)
        for expert in range(N_EXPERTS):
            for name, shape in (
                ("w1", (FFN_DIM, DIM)),
                ("w2", (DIM, FFN_DIM)),
                ("w3", (FFN_DIM, DIM)),
            ):
                yield f"{prefix}.block_sparse_moe.experts.{expert}.{name}.weight", shape
    yield "model.norm.weight", (DIM,)
    yield "lm_head.weight", (N_VOCAB, DIM)


def write_checkpoint(folder: Path, n_layers: int) -> Path:
    """Returns the file of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {"num_hidden_layers": n_layers}
    (folder / "config.json").write_text(json.dumps(config))
    with as_file(files("mistral_common") / "data" / "tokenizer.model.v1") as tokenizer:
        shutil.copy(tokenizer, folder / "tokenizer.model")
    header, end = {}, 0
    for name, shape in shapes(n_layers):
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    n_bytes = 8 + len(text) + end
    if not path.exists() or path.stat().st_size != n_bytes:
        values = np.random.default_rng(0).standard_normal(BLOCK_BYTES // 2, np.float32) * 0.02
        block = memoryview((values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")).cast(
            "B"
        )
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            while end:
                end -= file.write(block[: min(end, BLOCK_BYTES)])
            file.flush()
            os.fsync(file.fileno())
    return path


def seconds(command: list[str], *read: Path) -> float:
    """Of a command that finds none of these files in the page cache."""
    for path in read:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of a conversion.")
    parser.add_argument("folder", type=Path, help="for the checkpoint, and for what is written")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--type", default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    source = write_checkpoint(options.folder / "checkpoint", options.layers)
    copy, out = options.folder / "copy", options.folder / "out.gguf"
    dd = ["dd", f"if={source}", "bs=16M"]
    convert = [sys.executable, "-m", "pymixtral", "convert", str(source.parent), str(out)]
    commands = {
        "dd, reading": [*dd, "of=/dev/null"],
        "dd, copying": [*dd, f"of={copy}", "conv=fsync"],
        "convert": [*convert, "--type", options.type, "--quiet"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            times[name].append(seconds(command, source))
            for path in (copy, out):
                path.unlink(missing_ok=True)
    gigabytes = source.stat().st_size / 1e9
    rates = {name: gigabytes / statistics.median(of) for name, of in times.items()}
    for name, rate in rates.items():
        print(f"{name:12} {gigabytes:.1f} GB, {rate:.2f} GB/s")
    for name in ("dd, reading", "dd, copying"):
        print(f"convert to {options.type} / {name}: {rates['convert'] / rates[name]:.0%}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"most memory of a command: {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
