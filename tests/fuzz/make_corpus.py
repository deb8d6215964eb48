"""Writes the first seeds of tests/fuzz/corpus: small good files, from which fuzzers go astray.

PYTHONPATH=tests python tests/fuzz/make_corpus.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from byte_level_files import byte_characters, golden_merges
from fuzz.targets import PRES, SEPARATOR
from gguf_files import Metadata, Shapes, tiny_metadata, write_model

from pymixtral.formats.expert_layout import ExpertLayout
from pymixtral.formats.gguf import ValueType
from pymixtral.formats.gguf_split import merge_gguf, split_gguf
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS

CORPUS = Path(__file__).parent / "corpus"
N_VOCAB, DIM, FFN = 6, 4, 3


def smallest_model(n_experts: int) -> tuple[Metadata, Shapes]:
    """One layer, one head, six tokens."""
    integers = {
        "llama.vocab_size": N_VOCAB,
        "llama.embedding_length": DIM,
        "llama.block_count": 1,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.rope.dimension_count": DIM,
    }
    metadata = tiny_metadata(n_experts) | {
        **{name: (value, ValueType.UINT32) for name, value in integers.items()},
        "tokenizer.ggml.tokens": (["<unk>", "<s>", "</s>", "<0x41>", "a", "▁"], ValueType.ARRAY),
        "tokenizer.ggml.scores": (np.zeros(N_VOCAB, np.float32), ValueType.ARRAY),
        "tokenizer.ggml.token_type": (np.array([2, 3, 3, 6, 1, 1], np.int32), ValueType.ARRAY),
    }
    shapes: Shapes = {"token_embd.weight": (N_VOCAB, DIM), "output_norm.weight": (DIM,)}
    shapes |= {f"blk.0.attn_{name}.weight": (DIM, DIM) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.{name}_norm.weight": (DIM,) for name in ("attn", "ffn")}
    experts, suffix = ((n_experts,), "_exps") if n_experts else ((), "")
    shapes |= {f"blk.0.ffn_{name}{suffix}.weight": (*experts, FFN, DIM) for name in ("gate", "up")}
    shapes[f"blk.0.ffn_down{suffix}.weight"] = (*experts, DIM, FFN)
    if n_experts:
        shapes["blk.0.ffn_gate_inp.weight"] = (n_experts, DIM)
    return metadata, shapes


def vocabulary(choice: int, text: str, tokens: dict[str, int], merges: list[str]) -> bytes:
    """In the words of `targets.tokenizer`."""
    lines = [text.encode(), *(bytes([kind]) + token.encode() for token, kind in tokens.items())]
    lines += [b"\t" + merge.encode() for merge in merges]
    return bytes([choice]) + b"\n".join(lines)


def main() -> None:
    seeds: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n_experts in (0, 2):
            path = write_model(folder / f"m{n_experts}.gguf", *smallest_model(n_experts))
            seeds[f"gguf/{n_experts}-experts"] = path.read_bytes()
        merge_gguf(folder / "m2.gguf", folder / "apart.gguf", ExpertLayout.PER_EXPERT)
        seeds["gguf/experts-apart"] = (folder / "apart.gguf").read_bytes()
        paths = split_gguf(folder / "m0.gguf", folder / "s", max_tensors=4)
        seeds["shards/three"] = SEPARATOR.join(path.read_bytes() for path in paths)
    pieces = {f"<0x{byte:02X}>": 6 for byte in range(256)}
    pieces |= {"<unk>": 2, "<s>": 3, "▁": 1, "a": 1, "▁a": 1, "<|im_end|>": 4}
    seeds["tokenizer/sentencepiece"] = vocabulary(0, "a <s> é<|im_end|>", pieces, [])
    merges = golden_merges()[:20]
    ordinary = [*byte_characters(), *(merge.replace(" ", "") for merge in merges)]
    tokens = {token: 1 for token in ordinary} | {"<|end|>": 3, "<|added|>": 4}
    one_of_each = {PRE_TOKENIZERS[pre]: pre for pre in reversed(PRES)}.values()
    for choice in range(1, len(PRES) + 1):
        if (pre := PRES[choice % len(PRES)]) in one_of_each:
            text = "the 12345 é<|end|>"
            seeds[f"tokenizer/{pre}"] = vocabulary(choice, text, tokens, merges)
    for name, data in seeds.items():
        (CORPUS / name).parent.mkdir(parents=True, exist_ok=True)
        (CORPUS / name).write_bytes(data)


if __name__ == "__main__":
    main()
