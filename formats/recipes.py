"""Recipes: which tensor gets which type.

A recipe is a list of rules, one a line: a pattern of tensor names, a type, and conditions, all of
which must hold. The last rule that fits a tensor decides. So a recipe can be amended by appending
rules, and a file of such lines is a recipe::

    *         q4_k
    output    q6_k
    ffn_down  q6_k  more-bits     # a comment

Names are those of GGUF without ``blk.N.``, ``.weight`` and ``_exps``: ``token_embd``, ``output``,
``attn_q``, ``attn_k``, ``attn_v``, ``attn_output``, ``ffn_gate``, ``ffn_up``, ``ffn_down``. Norms
and routers are never quantized. The rules of the named recipes are llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .blocks import TYPES, TypeId
from .hparams import HParams
from .names import DENSE_LAYER_NAMES, GLOBAL_NAMES, TensorRole, merged_name, parse_name

# Types that tensors can be given; formats/blocks.py and the engine know more that they can read.
TARGET_TYPES: dict[str, TypeId] = {
    kind.name.lower(): kind
    for kind in (
        *(TypeId.F32, TypeId.F16, TypeId.BF16, TypeId.Q8_0),
        *(TypeId.Q4_0, TypeId.Q4_1, TypeId.Q5_0, TypeId.Q5_1),
        *(TypeId.Q2_K, TypeId.Q3_K, TypeId.Q4_K, TypeId.Q5_K, TypeId.Q6_K),
        *(TypeId.IQ4_NL, TypeId.IQ4_XS),
    )
}

FLOAT_TYPES = frozenset({TypeId.F32, TypeId.F16, TypeId.BF16})

# In place of a type whose blocks the rows do not fill.
_FALLBACKS: dict[TypeId, TypeId] = {
    TypeId.Q2_K: TypeId.Q4_0,
    TypeId.Q3_K: TypeId.Q4_0,
    TypeId.Q4_K: TypeId.Q5_0,
    TypeId.Q5_K: TypeId.Q5_1,
    TypeId.Q6_K: TypeId.Q8_0,
    TypeId.IQ4_XS: TypeId.IQ4_NL,
}

_NEVER_QUANTIZED = {
    TensorRole.OUTPUT_NORM,
    TensorRole.ATTN_NORM,
    TensorRole.FFN_NORM,
    TensorRole.FFN_GATE_INP,
}


def _more_bits(layer: int, n_layers: int) -> bool:
    """The first and the last eighth, and every third layer between them."""
    first = n_layers // 8
    return layer < first or layer >= 7 * n_layers // 8 or (layer - first) % 3 == 2


Condition = Callable[[int, HParams], bool]  # of a tensor's layer (0 outside the layers)

CONDITIONS: dict[str, Condition] = {
    "more-bits": lambda layer, model: _more_bits(layer, model.n_layers),
    "first-2": lambda layer, _: layer < 2,
    "first-4": lambda layer, _: layer < 4,
    "first-eighth": lambda layer, model: layer < model.n_layers // 8,
    "first-sixteenth": lambda layer, model: layer < model.n_layers // 16,
    "8-experts": lambda _, model: model.n_experts == 8,
    "not-8-experts": lambda _, model: model.n_experts != 8,
    "4-heads-share": lambda _, model: model.n_heads >= 4 * model.n_kv_heads,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose short name matches `pattern` become `type` where all `conditions` hold."""

    pattern: str
    type: TypeId
    conditions: tuple[str, ...] = ()

    def fits(self, name: str, layer: int, hparams: HParams) -> bool:
        return fnmatchcase(name, self.pattern) and all(
            CONDITIONS[condition](layer, hparams) for condition in self.conditions
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """A name, llama.cpp's number of it (``general.file_type``), and rules."""

    name: str
    file_type: int
    rules: tuple[Rule, ...]

    def amended(self, rules: Iterable[Rule]) -> Recipe:
        """With `rules` appended, so that they decide where they fit."""
        return Recipe(self.name, self.file_type, (*self.rules, *rules))

    def type_of(self, name: str, shape: Sequence[int], hparams: HParams) -> TypeId | None:
        """The type for tensor `name` of `shape` (numpy order); None: it stays what it is.

        A type whose blocks do not divide a row is replaced by the nearest one that does, F16 at
        the worst.
        """
        parsed = parse_name(name)
        if parsed is None or len(shape) < 2 or parsed[0] in _NEVER_QUANTIZED:
            return None
        short = _short_name(name)
        if parsed[0] is TensorRole.TOKEN_EMBD and hparams.tied_output:
            short = "output"
        layer = parsed[1] or 0
        fitting = [rule.type for rule in self.rules if rule.fits(short, layer, hparams)]
        return _dividing(fitting[-1], shape[-1]) if fitting else None


def _short_name(name: str) -> str:
    """blk.3.ffn_down_exps.weight is ffn_down."""
    return merged_name(name).removesuffix(".weight").rsplit(".", 1)[-1].removesuffix("_exps")


def _dividing(wanted: TypeId, n_cols: int) -> TypeId:
    kind: TypeId | None = wanted
    while kind is not None and n_cols % TYPES[kind].block_size:
        kind = _FALLBACKS.get(kind)
    return TypeId.F16 if kind is None else kind


_NAMES = [
    _short_name(name)
    for role, name in (GLOBAL_NAMES | DENSE_LAYER_NAMES).items()
    if role not in _NEVER_QUANTIZED
]


def parse_rule(line: str) -> Rule:
    """A rule of a recipe's text: ``ffn_down q6_k more-bits``.

    Raises:
        ValueError: the pattern matches no tensor that any model has; a type or a condition is not
            known.
    """
    pattern, *rest = line.split()
    if not any(fnmatchcase(name, pattern) for name in _NAMES):
        raise ValueError(f"{line!r}: {pattern} matches none of {', '.join(_NAMES)}")
    if not rest or rest[0].lower() not in TARGET_TYPES:
        given = rest[0] if rest else "no type"
        raise ValueError(f"{line!r}: {given} is none of {', '.join(TARGET_TYPES)}")
    if unknown := [word for word in rest[1:] if word not in CONDITIONS]:
        raise ValueError(f"{line!r}: {unknown[0]} is none of {', '.join(CONDITIONS)}")
    return Rule(pattern, TARGET_TYPES[rest[0].lower()], tuple(rest[1:]))


def parse_rules(text: str) -> tuple[Rule, ...]:
    """The rules in the text of a recipe; what follows ``#`` is a comment."""
    lines = (line.split("#", 1)[0] for line in text.splitlines())
    return tuple(parse_rule(line) for line in lines if line.strip())


# The router chooses 2 of 8 experts: attention is a small part of such a model, and is kept better.
_KV_OF_8_EXPERTS = """
attn_k       q8_0  8-experts
attn_v       q8_0  8-experts
"""
_ATTENTION_OF_8_EXPERTS = _KV_OF_8_EXPERTS + "attn_output  q5_k  8-experts"

_RECIPES: dict[str, tuple[int, str]] = {
    "f32": (0, "* f32"),
    "f16": (1, "* f16"),
    "bf16": (32, "* bf16"),
    "q8_0": (7, "* q8_0"),
    "q4_0": (2, "* q4_0 \n output q6_k" + _KV_OF_8_EXPERTS),
    "q4_1": (3, "* q4_1 \n output q6_k" + _KV_OF_8_EXPERTS),
    "q5_0": (8, "* q5_0 \n output q6_k" + _KV_OF_8_EXPERTS),
    "q5_1": (9, "* q5_1 \n output q6_k" + _KV_OF_8_EXPERTS),
    "q2_k": (
        10,
        """
        *            q2_k
        output       q6_k
        attn_v       q3_k
        attn_v       q4_k  4-heads-share
        attn_output  q3_k
        ffn_down     q3_k
        """
        + _ATTENTION_OF_8_EXPERTS,
    ),
    "q3_k_s": (11, "* q3_k \n output q6_k" + _ATTENTION_OF_8_EXPERTS),
    "q3_k_m": (
        12,
        """
        *            q3_k
        output       q6_k
        attn_v       q4_k
        attn_v       q5_k  first-2
        attn_output  q4_k
        ffn_down     q4_k
        ffn_down     q5_k  first-sixteenth
        """
        + _ATTENTION_OF_8_EXPERTS,
    ),
    "q3_k_l": (
        13,
        """
        *            q3_k
        output       q6_k
        attn_v       q5_k
        attn_output  q5_k  not-8-experts
        ffn_down     q5_k
        """
        + _KV_OF_8_EXPERTS,
    ),
    "q4_k_s": (
        14,
        """
        *            q4_k
        output       q6_k
        attn_v       q5_k  first-4
        ffn_down     q5_k  first-eighth
        """
        + _ATTENTION_OF_8_EXPERTS,
    ),
    "q4_k_m": (
        15,
        """
        *            q4_k
        output       q6_k
        attn_v       q6_k  more-bits
        ffn_down     q6_k  more-bits
        """
        + _ATTENTION_OF_8_EXPERTS,
    ),
    "q5_k_s": (16, "* q5_k \n output q6_k" + _KV_OF_8_EXPERTS),
    "q5_k_m": (
        17,
        """
        *            q5_k
        output       q6_k
        attn_v       q6_k  more-bits
        ffn_down     q6_k  more-bits
        """
        + _KV_OF_8_EXPERTS,
    ),
    "q6_k": (18, "* q6_k" + _KV_OF_8_EXPERTS),
    "iq4_nl": (
        25,
        """
        *            iq4_nl
        output       q6_k
        attn_v       q5_k  4-heads-share
        ffn_down     q5_k  first-eighth
        """
        + _ATTENTION_OF_8_EXPERTS,
    ),
    "iq4_xs": (
        30,
        """
        *            iq4_xs
        output       q6_k
        attn_v       q5_k  4-heads-share
        ffn_down     q5_k  first-eighth
        """
        + _ATTENTION_OF_8_EXPERTS,
    ),
}

RECIPES: dict[str, Recipe] = {
    name: Recipe(name, file_type, parse_rules(text)) for name, (file_type, text) in _RECIPES.items()
}
