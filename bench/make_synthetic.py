"""Writes a Mixtral of random weights: full width, as many layers as asked for, of any type.

    python bench/make_synthetic.py synthetic-4L.Q4_K_M.gguf --layers 4 --type Q4_K_M

Speed depends on shapes and types, not on what the numbers mean, so a few layers of random weights
stand in for a model of 26 GB. What must hold is that no two experts are alike, that activations
neither explode nor vanish, and that the router's choices vary from token to token. Block types are
written as random blocks with scales that give the weights the standard deviation asked for.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pymixtral.formats.blocks import TYPES, TypeId, dequantize, quantize
from pymixtral.formats.convert import (
    general_metadata,
    hparams_metadata,
    vocabulary_metadata,
)
from pymixtral.formats.gguf_writer import GGUFWriter
from pymixtral.formats.hparams import HParams
from pymixtral.formats.names import TensorRole, parse_name
from pymixtral.formats.vocabulary import SENTENCEPIECE, TokenType, Vocabulary

WEIGHT_STD = 0.02  # as models are initialised; a row of 4096 then has a gain of about 1.3
EMBEDDING_STD = 1.0  # large beside the layers' output, so that routing depends on the token
CHUNK_BYTES = 4 << 20  # written at a time


NORM_ROLES = {TensorRole.ATTN_NORM, TensorRole.FFN_NORM, TensorRole.OUTPUT_NORM}
FLOAT_ROLES = NORM_ROLES | {TensorRole.FFN_GATE_INP}  # never quantized


@dataclass(frozen=True)
class Recipe:
    """The types that llama.cpp's quantizer gives to the matrices of a model with 8 experts."""

    file_type: int  # llama_ftype, for general.file_type
    base: TypeId
    special: dict[TensorRole, TypeId] = field(default_factory=dict)
    more_bits: TypeId | None = None  # of ffn_down, in the layers of `uses_more_bits`

    def type_of(self, role: TensorRole, layer: int | None, n_layers: int) -> TypeId:
        if role in FLOAT_ROLES:
            return TypeId.F32
        if role is TensorRole.FFN_DOWN and self.more_bits is not None and layer is not None:
            return self.more_bits if uses_more_bits(layer, n_layers) else self.base
        return self.special.get(role, self.base)


def uses_more_bits(layer: int, n_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third one between them."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


MIX_OF_8_EXPERTS = {
    TensorRole.ATTN_K: TypeId.Q8_0,
    TensorRole.ATTN_V: TypeId.Q8_0,
    TensorRole.ATTN_OUTPUT: TypeId.Q5_K,
    TensorRole.OUTPUT: TypeId.Q6_K,
}

RECIPES = {
    # Every matrix in one type (IQ1_M, whose scale is in four pieces, is left out):
    "F32": Recipe(0, TypeId.F32),
    "F16": Recipe(1, TypeId.F16),
    "BF16": Recipe(32, TypeId.BF16),
    "Q4_0": Recipe(2, TypeId.Q4_0),
    "Q4_1": Recipe(3, TypeId.Q4_1),
    "Q5_0": Recipe(8, TypeId.Q5_0),
    "Q5_1": Recipe(9, TypeId.Q5_1),
    "Q8_0": Recipe(7, TypeId.Q8_0),
    "Q2_K": Recipe(10, TypeId.Q2_K),
    "Q3_K": Recipe(11, TypeId.Q3_K),
    "Q4_K": Recipe(14, TypeId.Q4_K),
    "Q5_K": Recipe(16, TypeId.Q5_K),
    "Q6_K": Recipe(18, TypeId.Q6_K),
    "IQ4_NL": Recipe(25, TypeId.IQ4_NL),
    "IQ4_XS": Recipe(30, TypeId.IQ4_XS),
    "IQ3_XXS": Recipe(23, TypeId.IQ3_XXS),
    "IQ3_S": Recipe(26, TypeId.IQ3_S),
    "IQ2_XXS": Recipe(19, TypeId.IQ2_XXS),
    "IQ2_XS": Recipe(20, TypeId.IQ2_XS),
    "IQ2_S": Recipe(28, TypeId.IQ2_S),
    "IQ1_S": Recipe(24, TypeId.IQ1_S),
    # As people download them:
    "Q4_K_M": Recipe(15, TypeId.Q4_K, MIX_OF_8_EXPERTS, more_bits=TypeId.Q6_K),
    "Q5_K_M": Recipe(17, TypeId.Q5_K, MIX_OF_8_EXPERTS, more_bits=TypeId.Q6_K),
}


@dataclass(frozen=True)
class BlockScale:
    """Where a block type keeps its scale d (float16), and whether a second number follows it.

    Weights are d * (scale) * q - dmin * (min), or d * q + m, in the types that have a second
    number; its ratio to d is such that the weights are centred on 0. In the other types d has a
    random sign, to the same end.
    """

    offset: int  # bytes into the block
    min_ratio: float | None = None  # dmin / d, or m / d


BLOCK_SCALES = {
    TypeId.Q4_0: BlockScale(0),
    TypeId.Q4_1: BlockScale(0, min_ratio=-7.5),
    TypeId.Q5_0: BlockScale(0),
    TypeId.Q5_1: BlockScale(0, min_ratio=-15.5),
    TypeId.Q8_0: BlockScale(0),
    TypeId.Q2_K: BlockScale(80, min_ratio=1.5),
    TypeId.Q3_K: BlockScale(108),
    TypeId.Q4_K: BlockScale(0, min_ratio=7.5),
    TypeId.Q5_K: BlockScale(0, min_ratio=15.5),
    TypeId.Q6_K: BlockScale(208),
    TypeId.IQ4_NL: BlockScale(0),
    TypeId.IQ4_XS: BlockScale(0),
    TypeId.IQ3_XXS: BlockScale(0),
    TypeId.IQ3_S: BlockScale(0),
    TypeId.IQ2_XXS: BlockScale(0),
    TypeId.IQ2_XS: BlockScale(0),
    TypeId.IQ2_S: BlockScale(0),
    TypeId.IQ1_S: BlockScale(0),
}


def random_blocks(
    random: np.random.Generator, type_id: TypeId, n_blocks: int, d: float
) -> NDArray[np.uint8]:
    """Blocks (n_blocks, type_size) with random quants, and scales between d / 2 and 3 d / 2."""
    place = BLOCK_SCALES[type_id]
    size = TYPES[type_id].type_size
    blocks = np.frombuffer(bytearray(random.bytes(n_blocks * size)), np.uint8).reshape(-1, size)
    scales = random.uniform(d / 2, 3 * d / 2, (n_blocks, 1))
    if place.min_ratio is None:
        scales *= random.choice([-1, 1], (n_blocks, 1))
    else:
        scales = scales * [1, place.min_ratio]
    as_bytes = scales.astype("<f2").view(np.uint8)
    blocks[:, place.offset : place.offset + as_bytes.shape[1]] = as_bytes
    return blocks


def unit_std(type_id: TypeId) -> float:
    """The standard deviation of the weights in random blocks of d = 1."""
    blocks = random_blocks(np.random.default_rng(0), type_id, 4096, 1.0)
    shape = len(blocks), TYPES[type_id].block_size
    return float(dequantize(blocks.tobytes(), type_id, shape).std())


def tensor_chunks(
    random: np.random.Generator, role: TensorRole, type_id: TypeId, n_values: int
) -> Iterator[bytes]:
    """The bytes of a tensor, some megabytes at a time."""
    std = EMBEDDING_STD if role is TensorRole.TOKEN_EMBD else WEIGHT_STD
    kind = TYPES[type_id]
    d = std / unit_std(type_id) if type_id in BLOCK_SCALES else 0.0
    n_blocks = n_values // kind.block_size
    per_chunk = CHUNK_BYTES // kind.type_size
    for first in range(0, n_blocks, per_chunk):
        n = min(per_chunk, n_blocks - first)
        if role in NORM_ROLES:
            yield quantize(np.ones(n, np.float32), type_id)
        elif type_id in BLOCK_SCALES:
            yield random_blocks(random, type_id, n, d).tobytes()
        else:
            yield quantize(random.standard_normal(n, np.float32) * np.float32(std), type_id)


def synthetic_vocabulary(n_tokens: int) -> Vocabulary:
    """Special tokens, bytes, characters, then syllables and words made of them."""
    specials = {"<unk>": TokenType.UNKNOWN, "<s>": TokenType.CONTROL, "</s>": TokenType.CONTROL}
    byte_tokens = {f"<0x{byte:02X}>": TokenType.BYTE for byte in range(256)}
    characters = ["▁", *(chr(code) for code in range(0x21, 0x7F))]
    syllables = ["".join(pair) for pair in itertools.product("bcdfghjklmnpqrstvwxyz", "aeiou")]
    words = (
        start + "".join(word)
        for length in itertools.count(1)
        for word in itertools.product(syllables, repeat=length)
        for start in ("", "▁")
    )
    pieces = itertools.chain(characters, words)
    types = specials | byte_tokens
    if n_tokens < len(types):
        raise ValueError(f"a vocabulary has at least {len(types)} tokens, not {n_tokens}")
    types |= dict.fromkeys(itertools.islice(pieces, n_tokens - len(types)), TokenType.NORMAL)
    return Vocabulary(
        model=SENTENCEPIECE,
        tokens=list(types),
        scores=-np.arange(n_tokens, dtype=np.float32),
        types=np.array([*types.values()], np.int32),
        bos_id=1,
        eos_id=2,
        unk_id=0,
        add_bos=True,
        add_space_prefix=True,
    )


def write_synthetic(path: Path, hparams: HParams, recipe: Recipe, seed: int) -> None:
    """Writes the model; progress goes to stderr."""
    random = np.random.default_rng(seed)
    tensors = []
    with GGUFWriter(path) as writer:
        metadata = itertools.chain(
            general_metadata(path.stem, None, recipe.file_type),
            hparams_metadata(hparams),
            vocabulary_metadata(synthetic_vocabulary(hparams.n_vocab)),
        )
        for key, value, kind in metadata:
            writer.add(key, value, kind)
        for name, shape in hparams.tensor_shapes():
            role, layer = parse_name(name)
            type_id = recipe.type_of(role, layer, hparams.n_layers)
            writer.declare(name, type_id, shape)
            tensors.append((name, role, type_id, math.prod(shape)))
        for i, (name, role, type_id, n_values) in enumerate(tensors, 1):
            print(f"[{i}/{len(tensors)}] {name} {type_id.name}", file=sys.stderr)
            for chunk in tensor_chunks(random, role, type_id, n_values):
                writer.write(name, chunk)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="GGUF file to write")
    parser.add_argument("--type", choices=RECIPES, default="Q4_K_M", help="default: %(default)s")
    sizes = {  # those of Mixtral 8x7B
        "layers": 32,
        "dim": 4096,
        "ffn-dim": 14336,
        "heads": 32,
        "kv-heads": 8,
        "head-dim": 128,
        "experts": 8,
        "experts-used": 2,
        "vocab": 32000,
        "context": 32768,
    }
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the weights; default: %(default)s")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    hparams = HParams(
        n_layers=options.layers,
        dim=options.dim,
        ffn_dim=options.ffn_dim,
        n_heads=options.heads,
        n_kv_heads=options.kv_heads,
        head_dim=options.head_dim,
        n_vocab=options.vocab,
        n_ctx_train=options.context,
        norm_eps=1e-5,
        rope_theta=1e6,
        n_rot=options.head_dim,
        n_experts=options.experts,
        n_experts_used=options.experts_used,
        sliding_window=0,
        tied_output=False,
    )
    start = time.monotonic()
    try:
        write_synthetic(options.out, hparams, RECIPES[options.type], options.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    gigabytes = options.out.stat().st_size / 1e9
    print(f"{options.out}: {gigabytes:.2f} GB in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
