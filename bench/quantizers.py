"""Our quantizers against llama.cpp's: error and speed, type by type.

    python bench/quantizers.py LIBGGML [--tensors MODEL.gguf] [--threads 1] [--rounds 5]

LIBGGML is the peer's libggml-base.so (PyPI's llama-cpp-python has it in llama_cpp/lib). Both sides
quantize the same rows in turns, with the same number of threads. The error is that of the bytes as
PyPI's gguf decodes them, as a ratio, ours over the peer's, below 1 where ours is better:

    weighted    by the weights that the peer itself minimises for that type
    plain       by the importance alone (mean square error where there is none)
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from gguf import GGMLQuantizationType as QuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from pymixtral.formats import open_gguf
from pymixtral.formats.blocks import row_bytes
from pymixtral.quantizer import Quantizer

Floats = NDArray[np.float32]
Encode = Callable[[Floats, int, Floats | None], bytes]

LEGACY = ["Q4_0", "Q4_1", "Q5_0", "Q5_1"]  # whose bytes are equal where there is no importance
TYPES = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", *LEGACY]


def peer(path: str, n_threads: int) -> Encode:
    """llama.cpp's quantizers, the rows cut among threads as its own tool does it."""
    function = ctypes.CDLL(path).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    threads = ThreadPoolExecutor(n_threads)

    def encode(values: Floats, target: int, importance: Floats | None) -> bytes:
        n_rows, n_cols = values.shape
        out = np.empty((n_rows, row_bytes(target, n_cols)), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        step = -(-n_rows // (4 * n_threads))

        def part(first: int) -> None:
            n = min(step, n_rows - first)
            source, start = values.ctypes.data, first * n_cols
            function(target, source, out.ctypes.data, start, n, n_cols, weights)

        list(threads.map(part, range(0, n_rows, step)))
        return out.tobytes()

    return encode


def ours(n_threads: int) -> Encode:
    quantizer = Quantizer(n_threads)

    def encode(values: Floats, target: int, importance: Floats | None) -> bytes:
        rows = memoryview(values).cast("B")
        return bytes(quantizer(rows, 0, target, values.shape[1], importance).data)

    return encode


def peer_weights(name: str, x: Floats, importance: Floats | None) -> NDArray[np.float64]:
    """What the peer multiplies squared errors with (for Q2_K without importance: absolute ones)."""

    def mean_square(n: int) -> NDArray[np.float64]:
        squares = (x.astype(np.float64) ** 2).reshape(-1, n)
        return np.repeat(squares.mean(axis=1), n).reshape(x.shape)

    square = x.astype(np.float64) ** 2
    if importance is not None:
        if name == "Q6_K":
            return np.broadcast_to(importance.astype(np.float64), x.shape)
        if name in LEGACY:
            return importance * np.sqrt(mean_square(x.shape[1]) + square)
        spread = mean_square(32 if name == "IQ4_NL" else 256) * (1 if name == "Q2_K" else 2)
        return importance * np.sqrt(spread + square)
    if name in ("Q4_K", "Q5_K"):
        return np.abs(x) + np.sqrt(mean_square(32))
    return np.abs(x).astype(np.float64) if name == "Q2_K" else square


def samples(model: str | None) -> dict[str, Floats]:
    rng = np.random.default_rng(0)
    found = {
        "Gaussian": rng.standard_normal((1024, 4096)).astype(np.float32) * np.float32(0.02),
        "heavy tails": (rng.standard_t(4, (1024, 4096)) * 0.02).astype(np.float32),
    }
    if model is not None:
        with open_gguf(model) as gguf:
            for info in gguf.tensors.values():
                if len(info.shape) >= 2 and info.shape[-1] % 256 == 0 and info.shape[-2] >= 16:
                    found[info.name] = gguf.array(info.name).reshape(-1, info.shape[-1])
    return found


def error_of(data: bytes, name: str, x: Floats, weights: NDArray[np.float64]) -> float:
    back = dequantize(np.frombuffer(data, np.uint8), QuantizationType[name]).reshape(x.shape)
    return float((weights * (x.astype(np.float64) - back) ** 2).sum())


def timed(encode: Encode, x: Floats, target: int, importance: Floats | None) -> tuple[bytes, float]:
    start = time.perf_counter()
    data = encode(x, target, importance)
    return data, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Our quantizers against llama.cpp's.")
    parser.add_argument("libggml")
    parser.add_argument("--tensors", metavar="MODEL.gguf", help="its matrices are samples, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES)
    options = parser.parse_args()
    sides = (ours(options.threads), peer(options.libggml, options.threads))
    tensors = samples(options.tensors)
    rng = np.random.default_rng(1)
    print("| type | importance | weighted (worst) | plain (worst) | ours M/s | peer | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in options.types:
        target = int(QuantizationType[name])
        for with_importance in (False, True):
            weighted, plain = [], []
            rates: tuple[list[float], list[float]] = ([], [])
            for x in tensors.values():
                importance = None
                if with_importance:
                    importance = np.exp(rng.standard_normal(x.shape[1])).astype(np.float32)
                for i in range(options.rounds if x.size >= 1 << 22 else 1):
                    results = [timed(side, x, target, importance) for side in sides]
                    (a, seconds_a), (b, seconds_b) = results
                    if x.size >= 1 << 22:
                        rates[0].append(x.size / seconds_a / 1e6)
                        rates[1].append(x.size / seconds_b / 1e6)
                    if i == 0:
                        for ratios, w in (
                            (weighted, peer_weights(name, x, importance)),
                            (plain, np.float64(1) if importance is None else importance),
                        ):
                            ratios.append(error_of(a, name, x, w) / error_of(b, name, x, w))
            fast, slow = statistics.median(rates[0]), statistics.median(rates[1])
            print(
                f"| {name} | {'yes' if with_importance else 'no'} "
                f"| {statistics.mean(weighted):.3f} ({max(weighted):.3f}) "
                f"| {statistics.mean(plain):.3f} ({max(plain):.3f}) "
                f"| {fast:.0f} | {slow:.1f} | {fast / slow:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
