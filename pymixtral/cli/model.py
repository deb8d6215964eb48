"""The model that a command works on: opening it, and saying what it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pymixtral.cli.console import Console
from pymixtral.cli.options import LoadOptions
from pymixtral.formats.hparams import HParams
from pymixtral.formats.names import TensorRole, parse_name
from pymixtral.formats.vocabulary import SENTENCEPIECE, TokenType
from pymixtral.llm import LLM
from pymixtral.loader import ModelFile, open_model
from pymixtral.memory import format_gb

EXPERT_ROLES = {TensorRole.FFN_GATE, TensorRole.FFN_UP, TensorRole.FFN_DOWN}


@contextmanager
def opened(console: Console, path: str | None) -> Iterator[ModelFile]:
    """A model's headers, with the warnings about them said; no weight is touched."""
    file = open_model(path)
    try:
        _warn(console, file)
        yield file
    finally:
        file.gguf.close()


@contextmanager
def loaded(console: Console, path: str | None, load: LoadOptions) -> Iterator[LLM]:
    """A model ready to run, with a line said about it."""
    with console.status("loading the model"):
        llm = LLM(
            path,
            n_ctx=load.n_ctx,
            threads=load.threads,
            tier=load.tier,
            kv_type=load.kv_type,
            use_mmap=not load.no_mmap,
            check_memory=not load.no_memory_check,
        )
    with llm:
        _warn(console, llm.file)
        console.note(
            f"{summary(llm.file)}; context {llm.n_ctx}, threads {llm.engine.threads}, "
            f"tier {llm.engine.tier}"
        )
        yield llm


def _warn(console: Console, file: ModelFile) -> None:
    """Those of the vocabulary are Python warnings, which the program shows by itself."""
    for warning in file.hparams.warnings:
        console.warning(warning)


def name(file: ModelFile) -> str:
    """What the file calls its model, or else the file's own name."""
    given = file.gguf.metadata.get("general.name")
    return given if isinstance(given, str) and given else file.gguf.path.name


def summary(file: ModelFile) -> str:
    """One line: name, size, chat template."""
    return (
        f"{name(file)}: {count_parameters(file)}, {bits_per_weight(file):.2f} bits per weight "
        f"({format_gb(file.weight_bytes)}); chat template {chat_template(file)}"
    )


class ParameterCount(NamedTuple):
    """Weights of a model, and how many of them one token is computed with."""

    total: int
    active: int

    def __str__(self) -> str:
        if self.active == self.total:
            return f"{human_count(self.total)} parameters"
        return f"{human_count(self.total)} parameters, {human_count(self.active)} active per token"


def count_parameters(file: ModelFile) -> ParameterCount:
    """Counts the tensors' elements; of the experts', the share that a token's experts have."""
    hparams = file.hparams
    total = active = 0
    for tensor_name, tensor in file.gguf.tensors.items():
        n_elements = math.prod(tensor.shape)
        total += n_elements
        active += _active(tensor_name, n_elements, hparams)
    return ParameterCount(total, active)


def _active(tensor_name: str, n_elements: int, hparams: HParams) -> int:
    place = parse_name(tensor_name)
    if hparams.n_experts == 0 or place is None or place[0] not in EXPERT_ROLES:
        return n_elements
    return n_elements * hparams.n_experts_used // hparams.n_experts


def bits_per_weight(file: ModelFile) -> float:
    """Bits that a parameter takes in the file, on average."""
    return 8 * file.weight_bytes / count_parameters(file).total


def human_count(n: int) -> str:
    """46,702,792,704 as "46.7 B", 8,028,416 as "8.0 M"."""
    for unit, suffix in ((10**9, " B"), (10**6, " M"), (10**3, " k")):
        if n >= unit:
            return f"{n / unit:.1f}{suffix}"
    return str(n)


def chat_template(file: ModelFile) -> str:
    """The chat template that conversations are encoded with, and how sure that is the model's."""
    vocabulary = file.vocabulary
    template = vocabulary.chat_template
    if vocabulary.model != SENTENCEPIECE:
        return f"none: a {vocabulary.model!r} vocabulary is not supported yet"
    if _is_control_token(file, "[INST]"):
        return "v1 (assumed; the vocabulary is that of v2 or v3, which are not supported yet)"
    if template is not None and "[INST]" in template and "<<SYS>>" not in template:
        return "v1 (recognised by the file's own template)"
    if template is not None:
        return "v1 (assumed; the file has another template, which is not supported yet)"
    if any(word in name(file).lower() for word in ("mistral", "mixtral")):
        return "v1 (recognised by the model's name)"
    return "v1 (assumed; the file has none)"


def _is_control_token(file: ModelFile, text: str) -> bool:
    tokens, types = file.vocabulary.tokens, file.vocabulary.types
    return text in tokens and types[tokens.index(text)] == TokenType.CONTROL
