"""Hugging Face's config.json as hyperparameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .errors import FormatError
from .hparams import DENSE_ROPE_THETA, MOE_ROPE_THETA, HParams
from .safetensors import read_json_file

MIXTRAL, MISTRAL, LLAMA = "MixtralForCausalLM", "MistralForCausalLM", "LlamaForCausalLM"
ARCHITECTURES = (MIXTRAL, MISTRAL, LLAMA)

MAX_CONFIG_BYTES = 1 << 20

# What a key has to say, where it is there, for the model to compute what we compute.
_REQUIRED_VALUES: dict[str, object] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
}


def read_hf_config(path: Path) -> HParams:
    """Read a config.json of one of `ARCHITECTURES`, as old and new transformers write it.

    Raises:
        FormatError: a key is missing, malformed, or asks for something we do not compute.
        OSError: the file cannot be read.
    """
    config = _Config(path)
    architecture = config.architecture()
    config.check_required_values()
    n_heads = config.integer("num_attention_heads")
    dim = config.integer("hidden_size")
    head_dim = config.integer("head_dim", default=dim // n_heads)
    n_experts = config.integer("num_local_experts") if architecture == MIXTRAL else 0
    return HParams(
        n_layers=config.integer("num_hidden_layers"),
        dim=dim,
        ffn_dim=config.integer("intermediate_size"),
        n_heads=n_heads,
        # Only Llama's first configs leave it out, and mean one for each head.
        n_kv_heads=config.integer(
            "num_key_value_heads", default=n_heads if architecture == LLAMA else None
        ),
        head_dim=head_dim,
        n_vocab=config.integer("vocab_size"),
        n_ctx_train=config.integer("max_position_embeddings"),
        norm_eps=config.positive("rms_norm_eps"),
        rope_theta=config.rope_theta(MOE_ROPE_THETA if n_experts else DENSE_ROPE_THETA),
        n_rot=head_dim,
        n_experts=n_experts,
        n_experts_used=config.integer("num_experts_per_tok") if n_experts else 0,
        # Mixtral's first configs gave a window that the model does not have.
        sliding_window=(
            config.integer("sliding_window", default=0) if architecture == MISTRAL else 0
        ),
        tied_output=config.flag("tie_word_embeddings"),
    )


def read_special_id(path: Path, key: str) -> int | None:
    """A token id such as ``eos_token_id``; None where the config has none, or a list of them."""
    found = read_json_file(path, MAX_CONFIG_BYTES).get(key)
    return found if type(found) is int else None


class _Config:
    """Reads keys of a config, refusing what is malformed by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = read_json_file(path, MAX_CONFIG_BYTES)

    def error(self, key: str, what: str) -> FormatError:
        return FormatError(self._path, key, what)

    def architecture(self) -> str:
        names = self._found.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        if name not in ARCHITECTURES:
            raise self.error("architectures", f"{names!r} is none of {', '.join(ARCHITECTURES)}")
        return str(name)

    def check_required_values(self) -> None:
        for key, required in _REQUIRED_VALUES.items():
            if self._found.get(key, required) != required:
                raise self.error(key, f"is {self._found[key]!r}, only {required!r} is supported")

    def integer(self, key: str, default: int | None = None) -> int:
        """A number of 1 or more; `default` where it is absent or null."""
        found = self._found.get(key)
        if found is None and default is not None:
            return default
        if type(found) is not int or not 1 <= found < 2**31:
            raise self.error(key, f"is {found!r}, must be a number of 1 or more")
        return found

    def positive(self, key: str) -> float:
        return self._positive(key, self._found.get(key))

    def flag(self, key: str) -> bool:
        found = self._found.get(key, False)
        if not isinstance(found, bool):
            raise self.error(key, f"is {found!r}, must be true or false")
        return found

    def rope_theta(self, default: float) -> float:
        """From ``rope_theta``, or from transformers 5's ``rope_parameters``; no scaling."""
        theta = self._found.get("rope_theta")
        for key in ("rope_scaling", "rope_parameters"):
            parameters: Any = self._found.get(key) or {}
            if not isinstance(parameters, dict):
                raise self.error(key, f"is {parameters!r}, must be an object")
            kind = parameters.get("rope_type", parameters.get("type", "default"))
            if kind != "default":
                raise self.error(key, f"asks for {kind!r} scaling, which is not supported")
            theta = parameters.get("rope_theta", theta)
        return default if theta is None else self._positive("rope_theta", theta)

    def _positive(self, key: str, found: object) -> float:
        if type(found) not in (int, float) or not 0 < found < math.inf:  # type: ignore[operator]
            raise self.error(key, f"is {found!r}, must be a finite number above 0")
        return float(found)  # type: ignore[arg-type]
