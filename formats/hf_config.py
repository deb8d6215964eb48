"""Hugging Face's config.json as hyperparameters."""

from __future__ import annotations

from pathlib import Path

from .hparams import DENSE_ROPE_THETA, MOE_ROPE_THETA, HParams
from .json_config import JsonConfig

MIXTRAL, MISTRAL, LLAMA = "MixtralForCausalLM", "MistralForCausalLM", "LlamaForCausalLM"
ARCHITECTURES = (MIXTRAL, MISTRAL, LLAMA)

CONFIG_NAME = "config.json"

# What a key has to say, where it is there, for the model to compute what we compute.
_REQUIRED_VALUES: dict[str, object] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
}


def read_hf_config(path: Path, n_embeddings: int | None = None) -> HParams:
    """Read a config.json of one of `ARCHITECTURES`, as old and new transformers write it.

    Args:
        n_embeddings: rows of the embedding, which overrule the vocabulary's size in the config.

    Raises:
        FormatError: a key is missing, malformed, or asks for something we do not compute.
        OSError: the file cannot be read.
    """
    config = JsonConfig(path)
    architecture = _architecture(config)
    _check_required_values(config)
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
        n_vocab=read_n_vocab(config, n_embeddings),
        n_ctx_train=config.integer("max_position_embeddings"),
        norm_eps=config.positive("rms_norm_eps"),
        rope_theta=_rope_theta(config, MOE_ROPE_THETA if n_experts else DENSE_ROPE_THETA),
        n_rot=head_dim,
        n_experts=n_experts,
        n_experts_used=config.integer("num_experts_per_tok") if n_experts else 0,
        sliding_window=_sliding_window(config, architecture),
        tied_output=config.flag("tie_word_embeddings"),
        warnings=tuple(config.warnings),
    )


def read_special_id(path: Path, key: str) -> int | None:
    """A token id such as ``eos_token_id``; None where the config has none, or a list of them."""
    found = JsonConfig(path).values.get(key)
    return found if type(found) is int else None


def read_n_vocab(config: JsonConfig, n_embeddings: int | None) -> int:
    """``vocab_size``, which has to give way to the embedding's rows where they differ."""
    if n_embeddings is None:
        return config.integer("vocab_size")
    n_vocab = config.integer("vocab_size", default=n_embeddings)
    if config.values.get("vocab_size") is None:
        config.warn(f"vocab_size is missing; {n_embeddings} assumed, the rows of the embedding")
    elif n_vocab != n_embeddings:
        config.warn(
            f"vocab_size is {n_vocab}, the embedding has {n_embeddings} rows; "
            f"{n_embeddings} assumed"
        )
    return n_embeddings


def _architecture(config: JsonConfig) -> str:
    names = config.values.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in ARCHITECTURES:
        raise config.error("architectures", f"{names!r} is none of {', '.join(ARCHITECTURES)}")
    return str(name)


def _check_required_values(config: JsonConfig) -> None:
    for key, required in _REQUIRED_VALUES.items():
        found = config.values.get(key, required)
        if found != required:
            raise config.error(key, f"is {found!r}, only {required!r} is supported")


def _sliding_window(config: JsonConfig, architecture: str) -> int:
    """0: none."""
    if architecture == MISTRAL:
        return config.integer("sliding_window", default=0)
    if architecture == MIXTRAL and (window := config.values.get("sliding_window")) is not None:
        config.warn(
            f"sliding_window is {window!r}; none assumed: Mixtral's first configs gave a window "
            "that the model does not have"
        )
    return 0


def _rope_theta(config: JsonConfig, default: float) -> float:
    """From ``rope_theta``, or from transformers 5's ``rope_parameters``; no scaling.

    Args:
        default: that of the model's family, where the config has none: see `hparams`.
    """
    theta = config.values.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        parameters = config.section(key)
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            raise config.error(key, f"asks for {kind!r} scaling, which is not supported")
        found = parameters.get("rope_theta", theta)
        if theta is not None and found != theta:
            config.warn(f"rope_theta is {theta!r}, in {key} {found!r}; {found!r} assumed")
        theta = found
    if theta is None:
        config.warn(f"rope_theta is missing; {default:g} assumed")
        return default
    return config.checked_positive("rope_theta", theta)
