"""Tiny random models bound to an engine directly, in any weight type."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from reference.tiny import WEIGHT_STD, TinyModel, Weights, random_weights

from pymixtral.engine import TENSOR_TYPES, Engine, EngineOptions, EngineTensor
from pymixtral.formats.blocks import TYPES
from pymixtral.formats.names import parse_name

# A Mixtral whose every matrix can be cut into 256-column blocks.
BLOCK_MODEL = TinyModel(
    n_heads=8, n_kv_heads=2, head_dim=32, dim=256, ffn_dim=256, n_experts=5, n_experts_used=2,
    n_vocab=333, n_layers=2,
)  # fmt: skip

# Where a block's float16 scales are, in bytes, and about the largest weight at scale 1.
_SCALES: dict[str, tuple[tuple[int, ...], float]] = {
    "Q4_0": ((0,), 8),
    "Q4_1": ((0, 2), 15),
    "Q5_0": ((0,), 16),
    "Q5_1": ((0, 2), 31),
    "Q8_0": ((0,), 127),
    "Q2_K": ((80, 82), 15 * 3),
    "Q3_K": ((108,), 32 * 4),
    "Q4_K": ((0, 2), 63 * 15),
    "Q5_K": ((0, 2), 63 * 31),
    "Q6_K": ((208,), 127 * 32),
    "IQ4_NL": ((0,), 127),
    "IQ4_XS": ((0,), 32 * 127),
    "IQ3_XXS": ((0,), 31 * 62 / 4),
    "IQ3_S": ((0,), 31 * 15),
    "IQ2_XXS": ((0,), 31 * 43 / 8),
    "IQ2_XS": ((0,), 31 * 43 / 8),
    "IQ2_S": ((0,), 31 * 43 / 8),
    "IQ1_S": ((0,), 15 * 9 / 8),
    "IQ1_M": ((), 15 * 9 / 8),  # in pieces: see _put_iq1_m_scales
}


def _random_halves(random: np.random.RandomState, n: int, mean: float) -> NDArray[np.float16]:
    """(n, 1), between mean / 2 and 3 mean / 2."""
    return (random.uniform(0.5, 1.5, (n, 1)) * mean).astype("<f2")


def _put_iq1_m_scales(data: NDArray[np.uint8], scales: NDArray[np.float16]) -> None:
    """The nibbles of a block's scale, from the lowest, are on top of its last four words."""
    words = data[:, 48:].view("<u2")
    nibbles = scales.view("<u2") >> np.arange(0, 16, 4, dtype=np.uint16) & np.uint16(15)
    words[:] = words & 0xFFF | nibbles << 12


def random_blocks(
    type_name: str, n_weights: int, random: np.random.RandomState
) -> NDArray[np.uint8]:
    """Random bytes of a block type, with scales that keep weights at about WEIGHT_STD."""
    block = TYPES[TENSOR_TYPES[type_name]]
    n_blocks = n_weights // block.block_size
    data = random.randint(0, 256, (n_blocks, block.type_size)).astype(np.uint8)
    offsets, largest = _SCALES[type_name]
    mean = 3 * WEIGHT_STD / largest
    for offset in offsets:
        data[:, offset : offset + 2] = _random_halves(random, n_blocks, mean).view(np.uint8)
    if type_name == "IQ1_M":
        _put_iq1_m_scales(data, _random_halves(random, n_blocks, mean))
    return data.ravel()


def encode(type_name: str, weight: NDArray[np.float32], random: np.random.RandomState) -> bytes:
    """`weight` in a float type; for block types random blocks of the same size."""
    if type_name == "F32":
        return weight.tobytes()
    if type_name == "F16":
        return weight.astype("<f2").tobytes()
    if type_name == "BF16":
        return (weight.view(np.uint32) >> 16).astype("<u2").tobytes()
    return random_blocks(type_name, weight.size, random).tobytes()


def is_float(name: str, weight: NDArray[np.float32]) -> bool:
    """Norms and routers are never quantized."""
    return weight.ndim == 1 or "gate_inp" in name


def tiny_tensors(
    model: TinyModel = BLOCK_MODEL, type_name: str = "F32", weights: Weights | None = None
) -> list[EngineTensor]:
    """Matrices of `type_name`; norms and router are F32. Their bytes can be written to."""
    random = np.random.RandomState(model.seed)
    tensors = []
    for name, weight in (random_weights(model) if weights is None else weights).items():
        place = parse_name(name)
        assert place is not None, name
        tensor_type = "F32" if is_float(name, weight) else type_name
        data = bytearray(encode(tensor_type, weight, random))
        role, layer = place
        tensors.append(
            EngineTensor(
                role,
                layer or 0,
                TENSOR_TYPES[tensor_type],
                tuple(reversed(weight.shape)),
                memoryview(data),
            )
        )
    return tensors


def tiny_engine(
    model: TinyModel = BLOCK_MODEL,
    type_name: str = "F32",
    options: EngineOptions | None = None,
    weights: Weights | None = None,
) -> Engine:
    """An engine with `tiny_tensors`."""
    return Engine(model, tiny_tensors(model, type_name, weights), options)
