"""What passes ask of memory and of arithmetic, and how much of both the machine has.

The model is the roofline's (Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785): the
time is at least what the bytes take to read, and at least what the products take to compute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pymixtral.engine import Engine, kv_bytes
from pymixtral.formats.gguf import GGUFFile, TensorInfo
from pymixtral.formats.hparams import HParams
from pymixtral.formats.names import TensorRole, parse_name
from pymixtral.memory import available_bytes

READ_BYTES = 2 << 30  # far above any cache
MAX_SHARE = 0.25  # of the memory that is available
MULTIPLY_SECONDS = 0.2
REPETITIONS = 5

_EXPERT_ROLES = {TensorRole.FFN_GATE, TensorRole.FFN_UP, TensorRole.FFN_DOWN}
_KEY_AND_VALUE_ROLES = {TensorRole.ATTN_K, TensorRole.ATTN_V}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a measurement's passes need at least.

    Attributes:
        n_bytes: weights, read once in each pass; for a generated token also the context's keys
            and values.
        n_products: multiply-adds, of weights and of attention.
    """

    n_bytes: float
    n_products: float

    @property
    def intensity(self) -> float:
        """Products for each byte."""
        return self.n_products / self.n_bytes


def prefill_cost(gguf: GGUFFile, hparams: HParams, n_tokens: int, batch_rows: int) -> Cost:
    """Of reading a prompt, whose tokens choose experts as if by lot.

    Only the last token's logits are computed; of the last layer, the others need keys and values
    alone.
    """
    n_bytes = 0.0
    n_products = _attention_products(hparams, range(n_tokens), hparams.n_layers - 1)
    n_products += _attention_products(hparams, range(n_tokens - 1, n_tokens), 1)
    passes = [min(batch_rows, n_tokens - at) for at in range(0, n_tokens, batch_rows)]
    for tensor, role, layer in _matrices(gguf, hparams):
        share = _share_used(role, hparams)
        n_rows = _prompt_rows(role, layer, hparams, n_tokens)
        in_passes = passes if n_rows == n_tokens else [n_rows]
        # What no token of a pass has chosen is not read.
        n_bytes += tensor.n_bytes * sum(1 - (1 - share) ** rows for rows in in_passes)
        n_products += math.prod(tensor.shape) * share * n_rows
    return Cost(n_bytes, n_products)


def decode_cost(
    gguf: GGUFFile, hparams: HParams, first: int, n_tokens: int, kv_type: str = "f16"
) -> Cost:
    """Of generating tokens one by one, from position `first` on."""
    positions = range(first, first + n_tokens)
    n_bytes = n_tokens * batch_bytes(gguf, hparams, hparams.n_experts_used)
    n_bytes += kv_bytes(hparams, 1, kv_type) * _positions_seen(hparams, positions)
    n_products = _attention_products(hparams, positions, hparams.n_layers)
    for tensor, role, _ in _matrices(gguf, hparams):
        n_products += math.prod(tensor.shape) * _share_used(role, hparams) * n_tokens
    return Cost(n_bytes, n_products)


def batch_bytes(gguf: GGUFFile, hparams: HParams, n_read: float) -> float:
    """Of weights, in a pass over several sessions that reads `n_read` experts of a layer."""
    part_read = n_read / hparams.n_experts if hparams.n_experts else 1.0
    return sum(
        tensor.n_bytes * (part_read if role in _EXPERT_ROLES else 1.0)
        for tensor, role, _ in _matrices(gguf, hparams)
    )


def expert_products(gguf: GGUFFile, hparams: HParams, n_tokens: int) -> float:
    """Multiply-adds of a prompt's tokens with the experts that they chose."""
    return sum(
        math.prod(tensor.shape)
        * _share_used(role, hparams)
        * _prompt_rows(role, layer, hparams, n_tokens)
        for tensor, role, layer in _matrices(gguf, hparams)
        if role in _EXPERT_ROLES
    )


def _matrices(
    gguf: GGUFFile, hparams: HParams
) -> Iterator[tuple[TensorInfo, TensorRole, int | None]]:
    """The tensors that are read as a whole, those of experts by the tokens that chose them."""
    for tensor in gguf.tensors.values():
        role, layer = parse_name(tensor.name) or (None, None)
        is_looked_up = role is TensorRole.TOKEN_EMBD and not hparams.tied_output
        if role is not None and not is_looked_up and len(tensor.shape) > 1:
            yield tensor, role, layer


def _prompt_rows(role: TensorRole, layer: int | None, hparams: HParams, n_tokens: int) -> int:
    """How many of a prompt's tokens are multiplied with a tensor."""
    is_last = layer is None or layer == hparams.n_layers - 1
    return 1 if is_last and role not in _KEY_AND_VALUE_ROLES else n_tokens


def _share_used(role: TensorRole, hparams: HParams) -> float:
    """The part of a tensor that one token is multiplied with."""
    is_expert = role in _EXPERT_ROLES and hparams.n_experts
    return hparams.n_experts_used / hparams.n_experts if is_expert else 1.0


def _positions_seen(hparams: HParams, positions: range) -> int:
    """Those that tokens at these positions look at, in all."""
    window = hparams.sliding_window or positions.stop
    return sum(min(position + 1, window) for position in positions)


def _attention_products(hparams: HParams, positions: range, n_layers: int) -> float:
    n_seen = _positions_seen(hparams, positions)
    return 2.0 * n_layers * hparams.n_heads * hparams.head_dim * n_seen


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine reaches with the engine's threads and instructions.

    Attributes:
        bytes_per_second: best rate of reading a large buffer.
        products_per_second: best rate of multiplying what is in registers.
        instruction: that does it.
    """

    bytes_per_second: float
    products_per_second: float
    instruction: str

    def seconds(self, cost: Cost) -> float:
        """The least time that the cost can take."""
        return max(cost.n_bytes / self.bytes_per_second, cost.n_products / self.products_per_second)

    def fraction(self, cost: Cost, seconds: float) -> float:
        """The part of what is possible that `seconds` for the cost is; 1 is the roof."""
        return self.seconds(cost) / seconds

    def is_bound_by_memory(self, cost: Cost) -> bool:
        return cost.intensity < self.products_per_second / self.bytes_per_second


def measure_limits(engine: Engine) -> Limits:
    """Measure for about two seconds. The best of five is taken: others' work only slows down.

    The buffer that is read has 2 GB, or less where memory is short.
    """
    available = available_bytes()
    n_bytes = READ_BYTES if available is None else min(READ_BYTES, int(MAX_SHARE * available))
    buffer = np.ones(n_bytes, np.uint8)  # written, so that every page exists
    return Limits(
        max(n_bytes / _seconds_to_read(engine, buffer) for _ in range(REPETITIONS)),
        _best_product_rate(engine),
        engine.multiply_instruction,
    )


def _seconds_to_read(engine: Engine, buffer: npt.NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    engine.read(buffer)
    return time.perf_counter() - start


def _best_product_rate(engine: Engine) -> float:
    best, n_products = 0.0, 1
    for _ in range(REPETITIONS + 1):  # the first tells how many make a measurement
        start = time.perf_counter()
        done = engine.multiply(n_products)
        rate = done / (time.perf_counter() - start)
        best, n_products = max(best, rate), int(rate * MULTIPLY_SECONDS)
    return best
