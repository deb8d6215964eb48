"""Writes imatrix.npz: what goes into each matrix of a tiny random Mixtral, as transformers runs it.

    pip install torch==2.13.0 transformers==5.23.0
    PYTHONPATH=tests:tests/golden python tests/golden/make_imatrix_golden.py

`ids` is (n_chunks, T); for each matrix NAME of the GGUF file, NAME.in_sum2 is (n_experts or 1,
n_cols), the sum of its inputs' squares over all chunks, and NAME.counts (n_experts or 1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from make_golden import MIN_ROUTER_MARGIN, hf_model, hf_weights, router_margin
from numpy.typing import NDArray
from reference.golden import golden_path
from reference.tiny import TINY_MODELS, random_ids, random_weights
from torch.overrides import TorchFunctionMode

MODEL = TINY_MODELS["four-share"]
N_CHUNKS, N_CTX = 3, 24  # so few tokens that some experts are never chosen

HF_TO_GGUF = {
    "self_attn.q_proj.weight": ["attn_q"],
    "self_attn.k_proj.weight": ["attn_k"],
    "self_attn.v_proj.weight": ["attn_v"],
    "self_attn.o_proj.weight": ["attn_output"],
    "mlp.experts.gate_up_proj": ["ffn_gate_exps", "ffn_up_exps"],
    "mlp.experts.down_proj": ["ffn_down_exps"],
}


class LinearInputs(TorchFunctionMode):
    """Sums the squares of the inputs of every linear function, by its weight's address."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.float64]] = {}
        self._matrices: dict[int, tuple[str, int]] = {}  # address -> name, expert
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                continue
            experts = weight if weight.ndim == 3 else weight[None]
            self.sums[name] = np.zeros((len(experts), weight.shape[-1]))
            self.counts[name] = np.zeros((len(experts), 1))
            for i, matrix in enumerate(experts):
                self._matrices[matrix.data_ptr()] = name, i

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.functional.linear:
            x, weight = args[:2]
            name, expert = self._matrices[weight.data_ptr()]
            rows = x.reshape(-1, x.shape[-1]).double().numpy()
            self.sums[name][expert] += (rows**2).sum(axis=0)
            self.counts[name][expert] += len(rows)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def golden() -> dict[str, Any]:
    """The arrays of the file."""
    reference = hf_model(MODEL).eval()
    reference.set_experts_implementation("eager")
    weights = hf_weights(MODEL, random_weights(MODEL))
    reference.load_state_dict({name: torch.tensor(a) for name, a in weights.items()})
    ids = random_ids(MODEL, N_CHUNKS * N_CTX).reshape(N_CHUNKS, N_CTX)
    ids[:, 0] = ids[0, 0]
    inputs = LinearInputs(reference)
    for chunk in ids:
        with inputs:
            output = reference(torch.tensor(chunk[None].astype(np.int64)), use_cache=False)
        if router_margin(output.router_logits, MODEL.n_experts_used) < MIN_ROUTER_MARGIN:
            raise SystemExit("the router hesitates; choose other ids")
    arrays: dict[str, Any] = {"ids": ids}
    for layer in range(MODEL.n_layers):
        for hf_name, names in HF_TO_GGUF.items():
            for name in names:
                full = f"model.layers.{layer}.{hf_name}"
                arrays[f"blk.{layer}.{name}.weight.in_sum2"] = inputs.sums[full].astype(np.float32)
                arrays[f"blk.{layer}.{name}.weight.counts"] = inputs.counts[full].astype(np.float32)
    return arrays


def main() -> None:
    path = golden_path("imatrix")
    np.savez_compressed(path, **golden())
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
