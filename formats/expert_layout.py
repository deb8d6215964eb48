"""The two layouts of experts in GGUF files, and how one becomes the other.

Merged, the layout of today: a tensor ``blk.N.ffn_up_exps.weight`` of all experts. Per expert, that
of December 2023: tensors ``blk.N.ffn_up.E.weight``. The bytes of a merged tensor are those of its
experts, one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from .gguf import GGUFFile, TensorInfo
from .hparams import HParams
from .names import EXPERT_NAMES, expert_of, merged_name, parse_name


class ExpertLayout(StrEnum):
    MERGED = "merged"
    PER_EXPERT = "per-expert"


@dataclass(frozen=True, slots=True)
class Span:
    """Some bytes of a tensor."""

    name: str
    start: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class ArrangedTensor:
    """A tensor of another layout: its bytes are those of `spans`, one after another."""

    name: str
    type: int  # GGML type id
    shape: tuple[int, ...]  # numpy order
    spans: tuple[Span, ...]

    @property
    def n_bytes(self) -> int:
        return sum(span.n_bytes for span in self.spans)


def arrange(gguf: GGUFFile, hparams: HParams, layout: ExpertLayout) -> list[ArrangedTensor]:
    """The tensors of a file that `read_hparams` has accepted, in `layout`.

    They keep the file's order; a merged tensor is where its first expert was.

    Raises:
        FormatError: experts that were to be merged differ in type.
    """
    if layout is ExpertLayout.MERGED:
        return list(_merged(gguf))
    return [part for info in gguf.tensors.values() for part in _per_expert(info, hparams)]


def _merged(gguf: GGUFFile) -> Iterator[ArrangedTensor]:
    groups: dict[str, list[TensorInfo]] = {}
    for info in gguf.tensors.values():
        groups.setdefault(merged_name(info.name), []).append(info)
    for name, group in groups.items():
        first = group[0]
        if expert_of(first.name) is None:
            yield ArrangedTensor(name, first.type, first.shape, (_whole(first),))
            continue
        for info in group:
            if info.type != first.type:
                what = f"is {info.type_name}, {first.name} is {first.type_name}"
                raise gguf.error(f"tensor {info.name}", f"{what}: they cannot be merged")
        experts = sorted(group, key=lambda info: expert_of(info.name) or 0)
        shape = (len(experts), *first.shape)
        yield ArrangedTensor(name, first.type, shape, tuple(map(_whole, experts)))


def _per_expert(info: TensorInfo, hparams: HParams) -> Iterator[ArrangedTensor]:
    role, layer = parse_name(info.name) or (None, None)
    is_merged = hparams.n_experts and role in EXPERT_NAMES and expert_of(info.name) is None
    if role is None or not is_merged:
        yield ArrangedTensor(info.name, info.type, info.shape, (_whole(info),))
        return
    n_bytes = info.n_bytes // hparams.n_experts
    for expert in range(hparams.n_experts):
        name = EXPERT_NAMES[role].format(layer=layer, expert=expert)
        span = Span(info.name, expert * n_bytes, n_bytes)
        yield ArrangedTensor(name, info.type, info.shape[1:], (span,))


def _whole(info: TensorInfo) -> Span:
    return Span(info.name, 0, info.n_bytes)
