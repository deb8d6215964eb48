"""The model that a command works on: opening it, and saying what it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pymixtral.cli.console import Console
from pymixtral.cli.options import LoadOptions
from pymixtral.engine import explain_bus_errors
from pymixtral.formats.hparams import HParams
from pymixtral.formats.names import TensorRole, parse_name
from pymixtral.llm import LLM
from pymixtral.loader import ModelFile, WeightLayout, open_model
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
def loaded(
    console: Console,
    path: str | None,
    load: LoadOptions,
    chat_template: str | None = None,
    parallel: int = 1,
) -> Iterator[LLM]:
    """A model ready to run, with a line said about it."""
    explain_bus_errors(
        "error: the model's file was truncated while it was in use, or the packed file beside it; "
        "get it again, or use --no-mmap"
    )
    with (
        console.byte_progress() if load.repack else console.status("loading the model") as progress
    ):
        llm = LLM(
            path,
            n_ctx=load.n_ctx,
            threads=load.threads,
            tier=load.tier,
            kv_type=load.kv_type,
            use_mmap=not load.no_mmap,
            repack=load.repack,
            progress=progress,
            check_memory=not load.no_memory_check,
            chat_template=chat_template,
            parallel=parallel,
        )
    with llm:
        _warn(console, llm.file)
        console.note(
            f"{summary(llm)}; context {llm.n_ctx}, threads {llm.engine.threads}, "
            f"tier {llm.engine.tier}"
            + (f", {llm.weight_layout} weights" if llm.weight_layout != WeightLayout.ROWS else "")
        )
        yield llm


def _warn(console: Console, file: ModelFile) -> None:
    """Those of the vocabulary are Python warnings, which the program shows by itself."""
    for warning in file.hparams.warnings:
        console.warning(warning)


def summary(llm: LLM) -> str:
    """One line: name, size, chat template."""
    file = llm.file
    return (
        f"{file.name}: {count_parameters(file)}, {bits_per_weight(file):.2f} bits per weight "
        f"({format_gb(file.weight_bytes)}); chat template {llm.chat_template}"
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
