"""`pymixtral inspect`: what is in a model file."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np

from pymixtral.chat import recognise_template
from pymixtral.cli.console import Console
from pymixtral.cli.model import bits_per_weight, count_parameters, opened
from pymixtral.cli.options import console_options, shared
from pymixtral.engine import TENSOR_TYPES, repack_version
from pymixtral.formats.errors import FormatError, one_line
from pymixtral.formats.gguf import GGUFFile, element_type, open_gguf
from pymixtral.formats.gguf_shards import open_model_file
from pymixtral.formats.hparams import ARCHITECTURE, is_per_expert, read_hparams
from pymixtral.formats.packed import check_belongs, looks_packed, model_path, read_packed_header
from pymixtral.loader import ModelFile
from pymixtral.memory import available_bytes, format_gb
from pymixtral.packer import packed_header

N_SHOWN = 8  # elements of an array


@click.command("inspect")
@click.argument("model")
@shared("n_ctx", "kv_type", n_ctx={"help": "Context to tell the memory for."})
@click.option("--tensors", "with_tensors", is_flag=True, help="List the tensors, too.")
@shared("as_json")
@console_options
def command(
    console: Console, model: str, n_ctx: int | None, kv_type: str, with_tensors: bool, as_json: bool
) -> None:
    """Print what is in the file MODEL, and the memory it takes.

    Only its header is read. Of a packed file: whose it is.

    With --json: {metadata {key: value}, tensors [{name, type, shape, n_bytes, file, offset}],
    memory {n_ctx, kv_type, weights, kv_cache, scratch, total, available}}. Shapes are (experts,
    rows, columns), memory is in bytes. An array of the metadata is {type, length, first}, the
    latter being its first 8 elements. Bytes that are not UTF-8 are replaced by U+FFFD. Of a packed
    file, packed {version, source, source_size, model (beside it, or null), fits} instead of memory.

    \b
    Examples:
      pymixtral inspect mixtral.gguf --ctx 32768
      pymixtral inspect mixtral.gguf --tensors
      pymixtral inspect mixtral.gguf --json | jq .memory
    """
    if looks_packed(model):
        _inspect_packed(console, Path(model), with_tensors, as_json)
        return
    with opened(console, model) as file:
        memory = _memory(file, n_ctx, kv_type)
        if as_json:
            console.json(
                {
                    **_json_contents(file.gguf),
                    "memory": memory,
                }
            )
            return
        _warn_of_types(console, file)
        _print_table(console, _summary(file, memory))
        _print_contents(console, file.gguf, with_tensors)


def _inspect_packed(console: Console, path: Path, with_tensors: bool, as_json: bool) -> None:
    """The same of a packed file, which has no model in it."""
    with open_gguf(path) as gguf:
        header = read_packed_header(gguf)
        model = model_path(path)
        problem = None if model is None else _why_unfit(gguf, model)
        if as_json:
            packed = {
                "version": header.version,
                "source": _json_value(header.source_name),
                "source_size": header.source_size,
                "model": None if model is None else str(model),
                "fits": None if model is None else problem is None,
            }
            console.json({**_json_contents(gguf), "packed": packed})
            return
        beside = "is not beside it" if model is None else f"{model}, which it fits"
        rows = {
            "file": f"{path}, GGUF version {gguf.version}",
            "holds": f"packed weights of {header.source_name} ({format_gb(header.source_size)})",
            "layout": f"version {header.version}; this program's is {repack_version()}",
            "size": f"{len(header.sizes)} tensors, {format_gb(sum(header.sizes.values()))}",
            "model": problem or beside,
        }
        _print_table(console, rows)
        _print_contents(console, gguf, with_tensors)


def _why_unfit(packed: GGUFFile, model: Path) -> str | None:
    """Why a packed file is not used with the model beside it."""
    try:
        with open_model_file(model) as gguf:
            read_hparams(gguf)
            check_belongs(packed, packed_header(gguf))
    except (FormatError, OSError) as error:
        return str(error)
    return None


def _memory(file: ModelFile, n_ctx: int | None, kv_type: str) -> dict[str, Any]:
    chosen = file.choose_n_ctx(n_ctx)
    need = file.memory_need(chosen, kv_type)
    return {
        "n_ctx": chosen,
        "kv_type": kv_type,
        "weights": need.weights,
        "kv_cache": need.kv_cache,
        "scratch": need.scratch,
        "total": need.total,
        "available": available_bytes(),
    }


# ---- JSON ----


def _json_contents(gguf: GGUFFile) -> dict[str, Any]:
    return {
        "metadata": {k: _json_value(v) for k, v in gguf.metadata.items()},
        "tensors": _tensors(gguf),
    }


def _tensors(gguf: GGUFFile) -> list[dict[str, Any]]:
    return [
        {
            "name": _json_value(tensor.name),
            "type": tensor.type_name,
            "shape": tensor.shape,
            "n_bytes": tensor.n_bytes,
            "file": str(gguf.path_of(tensor.name)),
            "offset": tensor.offset,
        }
        for tensor in gguf.tensors.values()
    ]


def _json_value(value: Any) -> Any:
    """A metadata value that every JSON reader accepts."""
    if isinstance(value, list | np.ndarray):
        return {
            "type": element_type(value).name,
            "length": len(value),
            "first": [_json_value(element) for element in _first(value)],
        }
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    return value


def _first(array: list[str] | np.ndarray[Any, Any]) -> list[Any]:
    elements = array[:N_SHOWN]
    return elements if isinstance(elements, list) else elements.tolist()


# ---- For people ----


def _summary(file: ModelFile, memory: dict[str, Any]) -> dict[str, str]:
    gguf, hparams = file.gguf, file.hparams
    window = f", sliding window {hparams.sliding_window}" if hparams.sliding_window else ""
    return {
        "file": f"{gguf.path}{_more_files(gguf)}, GGUF version {gguf.version}",
        "name": file.name,
        "architecture": f"{ARCHITECTURE} ({'Mixtral' if hparams.n_experts else 'dense'})",
        "size": f"{count_parameters(file)}, {bits_per_weight(file):.2f} bits per weight",
        "types": _type_mix(file),
        "layers": f"{hparams.n_layers}, dim {hparams.dim}, feed-forward {hparams.ffn_dim}",
        "experts": f"{hparams.n_experts}, {hparams.n_experts_used} used per token"
        f"{', a tensor for each' if is_per_expert(gguf) else ''}",
        "attention": f"{hparams.n_heads} heads of {hparams.head_dim}, "
        f"{hparams.n_kv_heads} KV heads, RoPE theta {hparams.rope_theta:.6g}{window}",
        "context": f"{hparams.n_ctx_train} tokens",
        "vocabulary": f"{hparams.n_vocab} tokens, {file.vocabulary.model!r}",
        "chat template": str(recognise_template(file.vocabulary, file.name)),
        "memory": _memory_line(memory),
    }


def _more_files(gguf: GGUFFile) -> str:
    n_more = len(gguf.paths) - 1
    return f" and {n_more} more file{'s' * (n_more > 1)}" if n_more else ""


def _type_mix(file: ModelFile) -> str:
    """Types of the tensors, that of the most bytes first."""
    n_tensors, n_bytes = Counter[str](), Counter[str]()
    for tensor in file.gguf.tensors.values():
        n_tensors[tensor.type_name] += 1
        n_bytes[tensor.type_name] += tensor.n_bytes
    return ", ".join(
        f"{type_name} ({n_tensors[type_name]} tensors, {format_gb(n)})"
        for type_name, n in n_bytes.most_common()
    )


def _memory_line(memory: dict[str, Any]) -> str:
    available = memory["available"]
    return (
        f"{format_gb(memory['total'])} at context {memory['n_ctx']} (weights "
        f"{format_gb(memory['weights'])}, KV cache in {memory['kv_type']} "
        f"{format_gb(memory['kv_cache'])}, scratch {format_gb(memory['scratch'])}); "
        f"{'unknown' if available is None else format_gb(available)} available"
    )


def _warn_of_types(console: Console, file: ModelFile) -> None:
    types = {tensor.type_name for tensor in file.gguf.tensors.values()}
    if missing := sorted(types - TENSOR_TYPES.keys()):
        console.warning(f"this file cannot be run yet: it has tensors of type {', '.join(missing)}")


def _print_contents(console: Console, gguf: GGUFFile, with_tensors: bool) -> None:
    console.answer("\n")
    _print_table(console, {k: _printed_metadata(v) for k, v in gguf.metadata.items()})
    if with_tensors:
        console.answer("\n")
        _print_table(console, _printed_tensors(gguf))


def _print_table(console: Console, rows: dict[str, str]) -> None:
    width = max(map(len, rows), default=0)
    for label, text in rows.items():
        console.answer(f"{label:{width}}  {one_line(text)}\n")


def _printed_metadata(value: Any) -> str:
    if isinstance(value, list | np.ndarray):
        rest = ", ..." if len(value) > N_SHOWN else ""
        elements = ", ".join(map(repr, _first(value)))
        return f"{len(value)} x {element_type(value).name}: {elements}{rest}"
    return str(value)


def _printed_tensors(gguf: GGUFFile) -> dict[str, str]:
    return {
        one_line(tensor.name): f"{tensor.type_name:5} {' x '.join(map(str, tensor.shape))}"
        for tensor in gguf.tensors.values()
    }
