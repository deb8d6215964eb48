"""`pymixtral verify`: whether a model file is whole and sane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pymixtral.cli.console import Console
from pymixtral.cli.options import console_options, shared
from pymixtral.formats.gguf import open_gguf
from pymixtral.formats.gguf_shards import open_model_file
from pymixtral.formats.hparams import read_hparams
from pymixtral.formats.packed import PackedHeader, looks_packed, model_path, packed_path
from pymixtral.formats.packed_writer import verify_packed
from pymixtral.formats.verify import compare_hashes, verify
from pymixtral.memory import format_gb
from pymixtral.packer import Packer, packed_header


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="Compare with the hash in this file, written by sha256sum.",
)
@shared("as_json")
@console_options
def command(console: Console, file: Path, manifest: Path | None, as_json: bool) -> None:
    """Check the GGUF file FILE, or with it the shards or byte splits that it is the first of.

    Its structure, the extents and shapes of its tensors, and its vocabulary; then every float value
    and block scale, of which none may be NaN or infinite. A packed file (`pymixtral pack`), given
    or beside a model that is given: every byte, against the hashes in it and against the model.
    The first fault ends it with exit code 1.

    With --json: {file, tensors, n_bytes, unscanned_types, sha256 [of each file] (empty without
    a manifest), packed (the packed file beside it, or null)}; of a packed file {file, tensors,
    n_bytes, sha256, model (beside it, or null)}.

    \b
    Examples:
      pymixtral verify mixtral.gguf
      pymixtral verify mixtral.gguf --manifest SHA256SUMS
      pymixtral verify mixtral.gguf.packed
    """
    check = _check_packed if looks_packed(file) else _check_model
    facts, besides = check(console, file, manifest)
    if as_json:
        console.json({"file": str(file), **facts})
        return
    matched = ", the hash agrees" if facts["sha256"] else ""
    size = format_gb(facts["n_bytes"])
    console.answer(f"{file}: good, {facts['tensors']} tensors, {size}{matched}{besides}\n")


def _check_model(console: Console, file: Path, manifest: Path | None) -> tuple[dict[str, Any], str]:
    """The facts for --json, and what to say besides."""
    with console.byte_progress() as progress:
        found = verify(file, manifest, progress)
    for warning in found.warnings:
        console.warning(warning)
    if found.unscanned_types:
        console.warning(f"numbers not looked at: {', '.join(found.unscanned_types)}")
    packed = packed_path(file)
    if is_there := packed.exists():
        _compare(console, packed, file)
    facts = {
        "tensors": found.n_tensors,
        "n_bytes": found.n_bytes,
        "unscanned_types": found.unscanned_types,
        "sha256": found.sha256,
        "packed": str(packed) if is_there else None,
    }
    return facts, f"; so is {packed}" if is_there else ""


def _check_packed(
    console: Console, file: Path, manifest: Path | None
) -> tuple[dict[str, Any], str]:
    model = model_path(file)
    header = _compare(console, file, model)
    facts = {
        "tensors": len(header.sizes),
        "n_bytes": file.stat().st_size,
        "sha256": () if manifest is None else compare_hashes([file], manifest),
        "model": None if model is None else str(model),
    }
    if model is None:
        return facts, f"; {header.source_name}, its model, is not beside it to compare"
    return facts, f", all as in {model}"


def _compare(console: Console, packed: Path, model: Path | None) -> PackedHeader:
    """Checks a packed file, against its model if that is there."""
    with open_gguf(packed) as packed_file, console.byte_progress() as progress:
        if model is None:
            return verify_packed(packed_file, None, progress)
        with open_model_file(model) as gguf, Packer() as packer:
            read_hparams(gguf)
            source = (gguf, packed_header(gguf), packer)
            return verify_packed(packed_file, source, progress)
