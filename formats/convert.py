"""Converting a Hugging Face folder to one GGUF file.

``python -m pymixtral.formats.convert SRC OUT --type q8_0``
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import names
from .blocks import TYPES, TypeId, quantize
from .errors import FormatError
from .gguf import ValueType, open_gguf
from .gguf_writer import GGUFWriter
from .hf_config import read_hf_config
from .hf_vocabulary import read_hf_vocabulary
from .hparams import ARCHITECTURE, HParams, read_hparams
from .names import TensorRole, unpermute_rope
from .safetensors import SafetensorsModel
from .vocabulary import Vocabulary, read_vocabulary

Progress = Callable[[str, int, int], None]
Metadata = Iterator[tuple[str, Any, ValueType]]

# Name of a target to the type of its matrices, and general.file_type (llama_ftype of llama.cpp).
TARGETS: dict[str, tuple[TypeId, int]] = {
    "f32": (TypeId.F32, 0),
    "f16": (TypeId.F16, 1),
    "q8_0": (TypeId.Q8_0, 7),
    "bf16": (TypeId.BF16, 32),
}

_QUANTIZATION_VERSION = 2  # of the block formats, GGML_QNT_VERSION

# Small, and read by every token: they stay in float32.
_KEPT_F32 = {
    TensorRole.OUTPUT_NORM,
    TensorRole.ATTN_NORM,
    TensorRole.FFN_NORM,
    TensorRole.FFN_GATE_INP,
}

# Tensors that may be in a checkpoint though they follow from the hyperparameters.
_DERIVED_SUFFIX = ".rotary_emb.inv_freq"


_SOURCE_SUFFIXES = {".json", ".model", ".safetensors"}


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a tensor, or one expert of it, is in the checkpoint."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor `name`
    expert: int | None = None  # index into the first dimension
    rows: tuple[int, int | None] = (0, None)  # first and end, of the matrix
    rope_heads: int = 0  # above 0: the rows are to be un-permuted

    def load(self, model: SafetensorsModel) -> npt.NDArray[np.float32]:
        matrix = model.array(self.name, self.expert)[slice(*self.rows)]
        return unpermute_rope(matrix, self.rope_heads) if self.rope_heads else matrix


@dataclass(frozen=True, slots=True)
class _Target:
    """A tensor to write: its parts follow one another along the first dimension."""

    name: str
    type_id: TypeId
    shape: tuple[int, ...]
    parts: list[_Source]


def convert_hf(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    type: str,
    progress: Progress | None = None,
    *,
    name: str | None = None,
    license: str | None = None,
) -> None:
    """Convert the Hugging Face folder `src` to the GGUF file `out`.

    The folder holds config.json, tokenizer.model, and model.safetensors or shards of it, of a
    MixtralForCausalLM (experts one by one, or packed), MistralForCausalLM or LlamaForCausalLM. No
    more than one matrix, or one expert's, is in memory at a time. The file is checked before it
    takes its place.

    Args:
        type: a key of `TARGETS`. Norms and routers stay F32. A matrix whose rows do not fill Q8_0's
            blocks becomes F16.
        progress: called before each tensor with its name, its number from 0, and their count.
        name: for ``general.name``; the folder's name by default.
        license: an SPDX expression for ``general.license``.

    Raises:
        FormatError: a source file is malformed, incomplete, or asks for something unsupported.
        ValueError: `type` is not known.
        OSError: a file cannot be read or written.
    """
    if type not in TARGETS:
        raise ValueError(f"type {type!r} is none of {', '.join(TARGETS)}")
    folder, out = Path(src), Path(out)
    type_id, file_type = TARGETS[type]
    hparams = read_hf_config(folder / "config.json")
    vocabulary = read_hf_vocabulary(folder, hparams.n_vocab)
    with SafetensorsModel(folder) as model:
        _check_not_a_source(out, folder)
        is_packed = names.HF_PACKED_DOWN_NAME.format(layer=0) in model
        targets = list(_plan(hparams, type_id, is_packed=is_packed))
        _check_sources(model, targets, hparams)
        with GGUFWriter(out, check=_check_result) as writer:
            general = general_metadata(name or folder.resolve().name, license, file_type)
            for metadata in (general, hparams_metadata(hparams), vocabulary_metadata(vocabulary)):
                for key, value, kind in metadata:
                    writer.add(key, value, kind)
            for target in targets:
                writer.declare(target.name, target.type_id, target.shape)
            for i, target in enumerate(targets):
                if progress is not None:
                    progress(target.name, i, len(targets))
                _write_target(writer, model, target)


def _plan(hparams: HParams, type_id: TypeId, *, is_packed: bool) -> Iterator[_Target]:
    """The tensors to write, in the file's order."""
    for name, shape in hparams.tensor_shapes():
        parsed = names.parse_name(name)
        if parsed is None:
            raise ValueError(f"{name} is not in the table of names")
        role, layer = parsed
        parts = list(_sources(role, layer, shape, hparams, is_packed=is_packed))
        yield _Target(name, _type_for(role, shape, type_id), shape, parts)


def _type_for(role: TensorRole, shape: tuple[int, ...], wanted: TypeId) -> TypeId:
    if role in _KEPT_F32:
        return TypeId.F32
    return TypeId.F16 if shape[-1] % TYPES[wanted].block_size else wanted


def _sources(
    role: TensorRole,
    layer: int | None,
    shape: tuple[int, ...],
    hparams: HParams,
    *,
    is_packed: bool,
) -> Iterator[_Source]:
    if role in names.HF_NAMES:
        heads = {TensorRole.ATTN_Q: hparams.n_heads, TensorRole.ATTN_K: hparams.n_kv_heads}
        name = names.HF_NAMES[role].format(layer=layer)
        yield _Source(name, shape, rope_heads=heads.get(role, 0))
    elif role is TensorRole.FFN_GATE_INP:
        template = names.HF_PACKED_ROUTER_NAME if is_packed else names.HF_ROUTER_NAME
        yield _Source(template.format(layer=layer), shape)
    elif not hparams.n_experts:
        yield _Source(names.HF_DENSE_FFN_NAMES[role].format(layer=layer), shape)
    elif is_packed:
        yield from _packed_experts(role, layer, hparams)
    else:
        for expert in range(hparams.n_experts):
            name = names.HF_EXPERT_NAMES[role].format(layer=layer, expert=expert)
            yield _Source(name, shape[1:])


def _packed_experts(role: TensorRole, layer: int | None, hparams: HParams) -> Iterator[_Source]:
    ffn = hparams.ffn_dim
    if role is TensorRole.FFN_DOWN:
        name, shape, rows = names.HF_PACKED_DOWN_NAME, (hparams.dim, ffn), (0, hparams.dim)
    else:
        name, shape = names.HF_PACKED_GATE_UP_NAME, (2 * ffn, hparams.dim)
        rows = (0, ffn) if role is TensorRole.FFN_GATE else (ffn, 2 * ffn)
    for expert in range(hparams.n_experts):
        yield _Source(name.format(layer=layer), (hparams.n_experts, *shape), expert, rows)


def _check_sources(model: SafetensorsModel, targets: list[_Target], hparams: HParams) -> None:
    """Every source is there in its shape, and nothing is left over."""
    shapes = {part.name: part.shape for target in targets for part in target.parts}
    for name, shape in shapes.items():
        if name not in model:
            raise model.error(name, f"is missing, must have shape {shape}")
        if model.shape(name) != shape:
            raise model.error(name, f"has shape {model.shape(name)}, must have {shape}")
    ignored = {names.HF_NAMES[TensorRole.OUTPUT]} if hparams.tied_output else set()
    for name in model:
        if name not in shapes and name not in ignored and not name.endswith(_DERIVED_SUFFIX):
            raise model.error(name, "is not understood, and may change the model's result")


def _check_not_a_source(out: Path, folder: Path) -> None:
    if not out.exists():
        return
    for source in folder.iterdir():
        if source.suffix in _SOURCE_SUFFIXES and out.samefile(source):
            raise FormatError(out, "file", "is a source of this conversion; write elsewhere")


def _check_result(path: Path) -> None:
    with open_gguf(path) as gguf:
        read_hparams(gguf)
        read_vocabulary(gguf)


def _write_target(writer: GGUFWriter, model: SafetensorsModel, target: _Target) -> None:
    for part in target.parts:
        try:
            encoded = quantize(part.load(model), target.type_id)
        except FormatError:
            raise
        except ValueError as error:
            raise model.error(part.name, f"{error} (wanted {target.type_id.name})") from None
        writer.write(target.name, encoded)


def general_metadata(name: str, license: str | None, file_type: int) -> Metadata:
    """``general.*``; `file_type` is llama.cpp's llama_ftype."""
    yield "general.architecture", ARCHITECTURE, ValueType.STRING
    yield "general.type", "model", ValueType.STRING
    yield "general.name", name, ValueType.STRING
    if license is not None:
        yield "general.license", license, ValueType.STRING
    yield "general.file_type", file_type, ValueType.UINT32
    yield "general.quantization_version", _QUANTIZATION_VERSION, ValueType.UINT32


def hparams_metadata(hparams: HParams) -> Metadata:
    """``llama.*``, as `read_hparams` reads them."""
    integers = {
        "vocab_size": hparams.n_vocab,
        "context_length": hparams.n_ctx_train,
        "embedding_length": hparams.dim,
        "block_count": hparams.n_layers,
        "feed_forward_length": hparams.ffn_dim,
        "attention.head_count": hparams.n_heads,
        "attention.head_count_kv": hparams.n_kv_heads,
        "attention.key_length": hparams.head_dim,
        "attention.value_length": hparams.head_dim,
        "rope.dimension_count": hparams.n_rot,
    }
    if hparams.n_experts:
        integers["expert_count"] = hparams.n_experts
        integers["expert_used_count"] = hparams.n_experts_used
    if hparams.sliding_window:
        integers["attention.sliding_window"] = hparams.sliding_window
    for key, value in integers.items():
        yield f"{ARCHITECTURE}.{key}", value, ValueType.UINT32
    epsilon_key = f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon"
    yield epsilon_key, hparams.norm_eps, ValueType.FLOAT32
    yield f"{ARCHITECTURE}.rope.freq_base", hparams.rope_theta, ValueType.FLOAT32


def vocabulary_metadata(vocabulary: Vocabulary) -> Metadata:
    """``tokenizer.*``, as `read_vocabulary` reads them."""
    yield "tokenizer.ggml.model", vocabulary.model, ValueType.STRING
    yield "tokenizer.ggml.pre", "default", ValueType.STRING
    yield "tokenizer.ggml.tokens", vocabulary.tokens, ValueType.ARRAY
    yield "tokenizer.ggml.scores", vocabulary.scores, ValueType.ARRAY
    yield "tokenizer.ggml.token_type", vocabulary.types, ValueType.ARRAY
    ids = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "unknown": vocabulary.unk_id}
    for name, token_id in ids.items():
        if token_id is not None:
            yield f"tokenizer.ggml.{name}_token_id", token_id, ValueType.UINT32
    yield "tokenizer.ggml.add_bos_token", vocabulary.add_bos, ValueType.BOOL
    yield "tokenizer.ggml.add_eos_token", vocabulary.add_eos, ValueType.BOOL
    yield "tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix, ValueType.BOOL
    if vocabulary.chat_template is not None:
        yield "tokenizer.chat_template", vocabulary.chat_template, ValueType.STRING


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pymixtral.formats.convert",
        description="Convert a Hugging Face Mixtral, Mistral or Llama folder to GGUF.",
    )
    parser.add_argument("src", type=Path, help="folder with config.json, safetensors, tokenizer")
    parser.add_argument("out", type=Path, help="GGUF file to write")
    parser.add_argument("--type", choices=TARGETS, default="q8_0", help="default: %(default)s")
    parser.add_argument("--name", help="general.name; default: the folder's name")
    parser.add_argument("--license", help="general.license, as an SPDX expression")
    options = parser.parse_args(arguments)

    def show(name: str, i: int, n: int) -> None:
        print(f"[{i + 1}/{n}] {name}", file=sys.stderr)

    try:
        convert_hf(
            options.src,
            options.out,
            options.type,
            show,
            name=options.name,
            license=options.license,
        )
    except (FormatError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
