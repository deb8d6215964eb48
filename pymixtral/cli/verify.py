"""`pymixtral verify`: whether a model file is whole and sane."""

from __future__ import annotations

from pathlib import Path

import click

from pymixtral.cli.console import Console
from pymixtral.cli.options import console_options, shared
from pymixtral.formats.verify import verify
from pymixtral.memory import format_gb


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
    and block scale, of which none may be NaN or infinite. The first fault ends it with exit code 1.

    With --json: {file, tensors, n_bytes, unscanned_types, sha256 [of each file] (empty without
    a manifest)}.

    \b
    Examples:
      pymixtral verify mixtral.gguf
      pymixtral verify mixtral.gguf --manifest SHA256SUMS
    """
    with console.byte_progress() as progress:
        found = verify(file, manifest, progress)
    for warning in found.warnings:
        console.warning(warning)
    if found.unscanned_types:
        console.warning(f"numbers not looked at: {', '.join(found.unscanned_types)}")
    if as_json:
        console.json(
            {
                "file": str(file),
                "tensors": found.n_tensors,
                "n_bytes": found.n_bytes,
                "unscanned_types": found.unscanned_types,
                "sha256": found.sha256,
            }
        )
    else:
        matched = ", the hash agrees" if found.sha256 else ""
        size = format_gb(found.n_bytes)
        console.answer(f"{file}: good, {found.n_tensors} tensors, {size}{matched}\n")
