"""Writes the seeds of the fuzz targets: small files of each format, whole and nearly so.

    PYTHONPATH=tests python tests/fuzz/make_corpus.py

Findings that were mended are added to the same folders by hand, under names of their own.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch_files as tf
from byte_level_files import byte_characters
from fuzz.targets import SAVED_MODEL, SHARD_EDGE
from gguf_files import tiny_metadata, write_model
from packed_files import write_small_packed

from pymixtral.chat import SavedChat
from pymixtral.formats.gguf import ValueType
from pymixtral.formats.gguf_split import split_gguf
from pymixtral.formats.pre_tokenizers import PRE_TOKENIZERS

TEMPLATES = Path(__file__).parents[1] / "data" / "templates"
CORPUS = Path(__file__).parent / "corpus"


def gguf() -> Iterator[tuple[str, bytes]]:
    few = {"token_embd.weight": (3, 32), "output_norm.weight": (32,)}
    for name, metadata, shapes in (
        ("empty", {}, {}),
        ("tensors", {"general.alignment": (64, ValueType.UINT32)}, few),
        ("dense", _small_vocabulary(tiny_metadata()), few),
        ("experts", _small_vocabulary(tiny_metadata(n_experts=8)), few),
    ):
        yield name, _written(metadata, shapes)


def _small_vocabulary(metadata: dict[str, Any]) -> dict[str, Any]:
    arrays = {name: value for name, (value, kind) in metadata.items() if kind is ValueType.ARRAY}
    return metadata | {name: (value[:8], ValueType.ARRAY) for name, value in arrays.items()}


def _written(metadata: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_model(Path(folder) / "seed.gguf", metadata, shapes).read_bytes()


def tokenizer() -> Iterator[tuple[str, bytes]]:
    special = ["\2\x80<unk>", "\3\x80<s>", "\3\x80</s>"]
    byte_tokens = [f"\6\x80<0x{byte:02X}>" for byte in b" ab\xc3\xa9"]  # others are missing
    letters = ["\1\x7f\u2581", "\1\x7ea", "\1\x7db", "\1\x7cab", "\1\x7b\u2581ab", "\4\x80<tool>"]
    for name, records in (
        ("bytes", [*special, *byte_tokens, *letters]),
        ("letters", [*special, *letters]),
        ("duplicates", [*special, *letters, *letters]),
        ("empty", [*special, "\1\x80"]),
    ):
        # Scores are bytes, and pieces UTF-8.
        encoded = [record[:2].encode("latin-1") + record[2:].encode() for record in records]
        yield name, b"\0".join([*encoded, "a bab\u00e9 <tool>".encode()])


def byte_level() -> Iterator[tuple[str, bytes]]:
    text = "over the <|end|> 2026 \u00e9"
    characters = byte_characters()
    ordinary = [
        *(characters[byte] for byte in sorted(set(text.encode()))),
        "th",
        "the",
        "\u0120the",
    ]
    records = [f"\1{token}" for token in ordinary]
    records += ["\3<|end|>", "\4<|added|>", "\tt h", "\tth e", "\t\u0120 the"]
    one_of_each = {rules: pre for pre, rules in PRE_TOKENIZERS.items()}.values()
    for pre in sorted(one_of_each):
        number = sorted(PRE_TOKENIZERS).index(pre)
        yield pre, bytes([number]) + b"\0".join(record.encode() for record in [*records, text])


def shards() -> Iterator[tuple[str, bytes]]:
    """Of models with one layer and six tokens, which are good from end to end."""
    for name, n_experts in (("dense", 0), ("experts", 2)):
        with tempfile.TemporaryDirectory() as folder:
            model = write_model(Path(folder) / "whole", *_least_model(n_experts))
            paths = split_gguf(model, Path(folder) / "m", max_tensors=5)
            yield name, SHARD_EDGE.join(path.read_bytes() for path in paths)


def packed() -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        yield "whole", write_small_packed(Path(folder) / "seed").read_bytes()


def _least_model(n_experts: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    n_vocab, dim, ffn_dim = 6, 4, 3
    integers = {"vocab_size": n_vocab, "embedding_length": dim, "block_count": 1,
                "feed_forward_length": ffn_dim, "attention.head_count": 1,
                "attention.head_count_kv": 1, "rope.dimension_count": dim}  # fmt: skip
    metadata = tiny_metadata(n_experts) | {
        **{f"llama.{key}": (value, ValueType.UINT32) for key, value in integers.items()},
        "tokenizer.ggml.tokens": (["<unk>", "<s>", "</s>", "<0x41>", "a", "b"], ValueType.ARRAY),
        "tokenizer.ggml.scores": (np.zeros(n_vocab, np.float32), ValueType.ARRAY),
        "tokenizer.ggml.token_type": (np.array([2, 3, 3, 6, 1, 1], np.int32), ValueType.ARRAY),
    }
    experts = range(n_experts) if n_experts else [None]  # each in a tensor of its own
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (n_vocab, dim), "output_norm": (dim,)}
    shapes |= {f"blk.0.{name}_norm": (dim,) for name in ("attn", "ffn")}
    shapes |= {f"blk.0.attn_{name}": (dim, dim) for name in ("q", "k", "v", "output")}
    if n_experts:
        shapes["blk.0.ffn_gate_inp"] = (n_experts, dim)
    for expert in experts:
        suffix = "" if expert is None else f".{expert}"
        shapes |= {f"blk.0.ffn_{name}{suffix}": (ffn_dim, dim) for name in ("gate", "up")}
        shapes[f"blk.0.ffn_down{suffix}"] = (dim, ffn_dim)
    return metadata, {f"{name}.weight": shape for name, shape in shapes.items()}


def safetensors() -> Iterator[tuple[str, bytes]]:
    header = {"__metadata__": {"format": "pt"}, "a": _span("F32", [2, 2], 0, 16),
              "b": _span("BF16", [3], 16, 22), "c": _span("F16", [0, 4], 22, 22)}  # fmt: skip
    for name, tensors, n_bytes in (("empty", {}, 0), ("tensors", header, 22)):
        text = json.dumps(tensors).encode()
        yield name, struct.pack("<Q", len(text)) + text + bytes(n_bytes)


def _span(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def torch_pickle() -> Iterator[tuple[str, bytes]]:
    yield "empty", tf.pickle_of({})
    yield "tensor", tf.pickle_of({"a": tf.tensor("0", 6, (2, 3), (3, 1))})
    yield "tensors", tf.pickle_of({
        "a": tf.tensor("0", 6, (2, 3), (3, 1)), "b": tf.tensor("1", 4, (4,), (1,)),
    })  # fmt: skip


def sentencepiece() -> Iterator[tuple[str, bytes]]:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def piece(text: str, score: float, kind: int) -> bytes:
        scored = field(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        return field(1, scored + bytes([3 << 3, kind]))

    pieces = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("ab", -1, 1)
    trainer = field(2, bytes([3 << 3, 2]))  # model_type = BPE
    yield "pieces", pieces
    yield "model", pieces + trainer + field(3, field(1, b"identity") + bytes([3 << 3, 1]))


def tokenizer_json() -> Iterator[tuple[str, bytes]]:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x00>": 3, "a": 4, "b": 5, "ab": 6, "\u2581ab": 7}
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": vocab}
    added = [{"id": 1, "content": "<s>", "special": True}, {"id": 8, "content": "<tool>"}]
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    normalizer = {"type": "Sequence", "normalizers": [prepend]}
    byte_vocab = {"a": 0, "b": 1, "ab": 2, "<s>": 3}
    for name, document in (
        (
            "byte_level",
            {
                "model": {"type": "BPE", "vocab": byte_vocab, "merges": [["a", "b"]]},
                "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
                "normalizer": {"type": "NFC"},
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Digits", "individual_digits": True},
                        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                    ],
                },
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                },
            },
        ),
        ("strings", {"model": model | {"merges": ["a b", "\u2581 ab"]}, "added_tokens": added}),
        ("pairs", {"model": model | {"merges": [["a", "b"]]}, "normalizer": normalizer}),
    ):
        yield name, json.dumps(document).encode()


def imatrix() -> Iterator[tuple[str, bytes]]:
    values = np.ones(4, np.float32).tobytes()
    entry = struct.pack("<i", 15) + b"blk.0.attn_q.we" + struct.pack("<ii", 3, 4) + values
    yield "dat", struct.pack("<i", 1) + entry + struct.pack("<ii", 1, 4) + b"text"
    experts = [
        struct.pack("<i", 21) + f"blk.0.ffn_up.{expert}.weight".encode() + entry[19:]
        for expert in range(2)
    ]
    yield "dat_experts", struct.pack("<i", 2) + b"".join(experts)
    metadata = {"general.type": ("imatrix", ValueType.STRING)}
    counted = {"blk.0.attn_q.weight.in_sum2": (1, 32), "blk.0.attn_q.weight.counts": (1, 1)}
    yield "gguf", _written(metadata, counted)


def saved_chat() -> Iterator[tuple[str, bytes]]:
    turns = (("a b", (4, 5)), ("", ()))
    for name, system, some in (("turns", "b", turns), ("empty", None, ())):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chat"
            SavedChat(SAVED_MODEL, "v1", system, some, 2**64 - 1).write(path)
            yield name, path.read_bytes()


def chat_template() -> Iterator[tuple[str, bytes]]:
    """Templates of models, each for a vocabulary with other control tokens."""
    for path in sorted(TEMPLATES.glob("*.jinja")):
        yield path.stem, b"\4" + path.read_bytes()
    turns = b"{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    yield "v1", b"\0" + turns
    yield "v3", b"\1" + turns
    yield "v7", b"\2[SYSTEM_PROMPT]" + turns
    yield "chatml", b"\3<|im_start|>" + turns
    yield "end", b"\x84{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    yield (
        "functions",
        (
            b"\4{% set n = namespace(i=0) %}{% macro say(m) %}{{ m['role'] | upper }}{% endmacro %}"
            b"{% for m in messages if m.role %}{% set n.i = n.i + 1 %}{{ say(m) }}{% endfor %}"
        ),
    )
    yield (
        "ours",
        (
            b"\4{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}"
            b"{% if loop.last %}{% break %}{% endif %}{% endfor %}"
            b"{{ strftime_now('%Y') }}{{ raise_exception('no') }}"
        ),
    )


def main() -> None:
    for target in (gguf, shards, packed, tokenizer, byte_level, safetensors, torch_pickle,
                   sentencepiece, tokenizer_json, imatrix, saved_chat, chat_template):  # fmt: skip
        folder = CORPUS / target.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in target():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
