"""Which experts a mixture-of-experts model uses for the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pymixtral.engine import Phase, TapEvent
from pymixtral.errors import ContextError, ParameterError
from pymixtral.llm import LLM


@dataclass(frozen=True, slots=True)
class ExpertUse:
    """The router's choices.

    Attributes:
        n_experts: experts of a layer.
        chosen: (n_tokens, n_layers, n_used) int32, experts, best first.
        weight: (n_tokens, n_layers, n_used) float32, how much each adds to the layer's output; the
            weights of a token in a layer add up to 1.
    """

    n_experts: int
    chosen: NDArray[np.int32]
    weight: NDArray[np.float32]

    def weight_of_all(self) -> NDArray[np.float32]:
        """(n_tokens, n_layers, n_experts): each expert's weight, 0 where it was not chosen."""
        n_tokens, n_layers, _ = self.chosen.shape
        weights = np.zeros((n_tokens, n_layers, self.n_experts), np.float32)
        np.put_along_axis(weights, self.chosen, self.weight, axis=2)
        return weights

    def shares(self) -> NDArray[np.float64]:
        """(n_layers, n_experts): the share of a layer's choices that fell on an expert."""
        experts = np.arange(self.n_experts)
        fired = self.chosen[..., None] == experts  # (n_tokens, n_layers, n_used, n_experts)
        shares: NDArray[np.float64] = fired.mean(axis=(0, 2))
        return shares


def find_experts(llm: LLM, ids: Sequence[int]) -> ExpertUse:
    """Read `ids` as a prompt, and note what the routers choose.

    Nothing else may run on `llm` meanwhile: its choices would be noted, too.

    Args:
        ids: token ids, at least one and at most `llm.n_ctx`.

    Raises:
        ParameterError: the model is dense, or `ids` is empty or no ids of the vocabulary.
        ContextError: more ids than the context has positions.
    """
    hparams = llm.file.hparams
    if hparams.n_experts == 0:
        raise ParameterError(
            f"{llm.file.name} is a dense model, which has no experts; use a mixture of experts"
        )
    if len(ids) == 0:
        raise ParameterError("the text is empty: it has no token whose experts could be shown")
    if len(ids) > llm.n_ctx:
        raise ContextError(f"{len(ids)} tokens do not fit the context of {llm.n_ctx}; raise it")
    shape = (len(ids), hparams.n_layers, hparams.n_experts_used)
    use = ExpertUse(hparams.n_experts, np.zeros(shape, np.int32), np.zeros(shape, np.float32))

    def note(event: TapEvent) -> None:
        if event.chosen is not None and event.chosen_weight is not None:
            use.chosen[event.position, event.layer] = event.chosen
            use.weight[event.position, event.layer] = event.chosen_weight

    session = llm.new_session(len(ids))
    try:
        with llm.engine.tap(note):
            session.eval(ids, Phase.PROMPT, n_logits=0)
    finally:
        session.close()
    return use
