"""--set and --remove: editing a model's metadata on the way."""

from __future__ import annotations

import click

from pymixtral.cli.text import read_file


def _parse(_: click.Context, __: click.Parameter, edits: tuple[str, ...]) -> dict[str, str]:
    changed = {}
    for edit in edits:
        key, equals, value = edit.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{edit!r} is not KEY=VALUE")
        changed[key] = read_file(value[1:]) if value.startswith("@") else value
    return changed


set_option = click.option(
    "--set",
    "changed",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_parse,
    help="Set a key of the metadata, such as 'general.name=Mixtral'; '@FILE' for VALUE takes the "
    "text in FILE.",
)
remove_option = click.option(
    "--remove",
    "removed",
    metavar="KEY",
    multiple=True,
    help="Leave out a key of the metadata.",
)
