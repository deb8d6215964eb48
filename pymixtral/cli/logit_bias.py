"""`--logit-bias TOKEN=VALUE`: tokens are looked up once the model's vocabulary is known."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import click

from pymixtral.errors import ParameterError
from pymixtral.sampling import SamplingParams
from pymixtral.tokenizer import Tokenizer


class TokenBias(NamedTuple):
    """What is added to the logit of a token, which is an id or spelled as `tokenize` prints it."""

    token: str
    value: float


def parse_biases(
    _: click.Context, __: click.Parameter, values: Sequence[str]
) -> tuple[TokenBias, ...]:
    """click's callback for the option."""
    return tuple(map(_parse, values))


def with_biases(
    params: SamplingParams, biases: Sequence[TokenBias], tokenizer: Tokenizer
) -> SamplingParams:
    """The parameters with these biases; of two for one token, the last counts.

    Raises:
        ParameterError: the vocabulary has no such token.
    """
    if not biases:
        return params
    found = {_token_id(bias.token, tokenizer): bias.value for bias in biases}
    return replace(params, logit_bias=found)


def _parse(text: str) -> TokenBias:
    token, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not token or not (value == -math.inf or -100 <= value <= 100):
        raise click.BadParameter(f"{text!r} is no TOKEN=VALUE with a value of -100 to 100, or -inf")
    return TokenBias(token, value)


def _token_id(token: str, tokenizer: Tokenizer) -> int:
    if re.fullmatch("[0-9]{1,9}", token):
        token_id = int(token)
        if token_id < tokenizer.n_vocab:
            return token_id
        raise ParameterError(
            f"--logit-bias: token id {token} is outside the vocabulary, "
            f"0 to {tokenizer.n_vocab - 1}"
        )
    text = token.encode(errors="surrogateescape")
    for token_id in range(tokenizer.n_vocab):
        if tokenizer.token_bytes(token_id) == text or tokenizer.piece(token_id) == token:
            return token_id
    raise ParameterError(
        f"--logit-bias: the vocabulary has no token {token!r}; `pymixtral tokenize` shows how "
        "tokens are spelled"
    )
