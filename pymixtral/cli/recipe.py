"""TYPE and --tensor-type: a recipe by its name or from a file, amended."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from pymixtral.formats.errors import FormatError
from pymixtral.formats.recipes import RECIPES, Recipe, Rule, parse_rule, parse_rules

tensor_type_option = click.option(
    "--tensor-type",
    "overrides",
    metavar="NAME=TYPE",
    multiple=True,
    help="Another type for the tensors of this name, such as 'ffn_down=q6_k' or 'attn_*=q8_0'.",
)


def chosen_recipe(name: str, overrides: Iterable[str]) -> Recipe:
    """The recipe of that name, or in that file, with the rules of --tensor-type appended.

    Raises:
        click.UsageError: there is no such recipe or file, or a rule is malformed.
        FormatError: a rule in the file is malformed.
    """
    return _recipe(name).amended(map(_override, overrides))


def _recipe(name: str) -> Recipe:
    if name.lower() in RECIPES:
        return RECIPES[name.lower()]
    path = Path(name)
    if not path.is_file():
        known = ", ".join(RECIPES)
        raise click.UsageError(f"TYPE {name!r} is no file, and none of {known}")
    try:
        rules = parse_rules(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(path, "rule", str(error)) from None
    most_general = RECIPES.get(rules[0].type.name.lower()) if rules else None
    return Recipe(path.stem, most_general.file_type if most_general else 0, rules)


def _override(text: str) -> Rule:
    name, _, kind = text.partition("=")
    try:
        return parse_rule(f"{name} {kind}")
    except ValueError as error:
        raise click.UsageError(f"--tensor-type {error}") from None
