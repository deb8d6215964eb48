"""The params.json of Mistral AI's own releases as hyperparameters.

Source: mistral_inference/{args,transformer}.py of https://github.com/mistralai/mistral-inference.
"""

from __future__ import annotations

from pathlib import Path

from .hf_config import read_n_vocab
from .hparams import DENSE_ROPE_THETA, MOE_ROPE_THETA, HParams
from .json_config import JsonConfig

CONFIG_NAME = "params.json"

# Context lengths by dim and number of layers, which params.json does not say. Source:
# max_position_embeddings in the config.json that Mistral AI published for the same models.
_CONTEXTS = {
    (4096, 32): ("Mistral 7B and Mixtral 8x7B", 32768),
    (6144, 56): ("Mixtral 8x22B", 65536),
}

# Keys that ask for another model than the one that we compute.
_REFUSED_KEYS = ("lora", "quantization", "vision_encoder", "yarn", "llama_4_scaling")


def read_mistral_config(path: Path, n_embeddings: int | None, *, has_output: bool) -> HParams:
    """Read a params.json of a Mixtral (``moe``) or of a dense Mistral.

    Args:
        n_embeddings: rows of the embedding, which overrule the vocabulary's size in the file.
        has_output: whether the checkpoint has an output head besides the embedding.

    Raises:
        FormatError: a key is missing, malformed, or asks for something we do not compute.
        OSError: the file cannot be read.
    """
    config = JsonConfig(path)
    for key in _REFUSED_KEYS:
        if config.values.get(key):
            raise config.error(key, "is set, which is not supported")
    moe = JsonConfig(path, config.section("moe"))
    n_heads, dim = config.integer("n_heads"), config.integer("dim")
    n_layers = config.integer("n_layers")
    head_dim = config.integer("head_dim", default=dim // n_heads)
    n_experts = moe.integer("num_experts") if moe.values else 0
    window = config.integer("sliding_window", default=0)
    if window and n_experts:
        config.warn(f"sliding_window is {window}; none assumed, as Mixtral has none")
        window = 0
    return HParams(
        n_layers=n_layers,
        dim=dim,
        ffn_dim=config.integer("hidden_dim"),
        n_heads=n_heads,
        n_kv_heads=config.integer("n_kv_heads", default=n_heads),
        head_dim=head_dim,
        n_vocab=read_n_vocab(config, n_embeddings),
        n_ctx_train=_context_length(config, dim, n_layers),
        norm_eps=config.positive("norm_eps"),
        rope_theta=_rope_theta(config, has_window=window > 0),
        n_rot=head_dim,
        n_experts=n_experts,
        n_experts_used=moe.integer("num_experts_per_tok") if n_experts else 0,
        sliding_window=window,
        tied_output=not has_output,
        warnings=tuple(config.warnings),
    )


def _context_length(config: JsonConfig, dim: int, n_layers: int) -> int:
    for key in ("max_position_embeddings", "max_seq_len"):
        if config.values.get(key) is not None:
            return config.integer(key)
    model, n_ctx = _CONTEXTS.get((dim, n_layers), _CONTEXTS[4096, 32])
    config.warn(f"the context's length is not given; {n_ctx} assumed, that of {model}")
    return n_ctx


def _rope_theta(config: JsonConfig, *, has_window: bool) -> float:
    """Where it is absent: a million, as mistral-inference has it, but for Mistral 7B v0.1, the one
    release with a sliding window, whose config.json says 10,000."""
    if config.values.get("rope_theta") is not None:
        return config.positive("rope_theta")
    theta = DENSE_ROPE_THETA if has_window else MOE_ROPE_THETA
    which = "with a sliding window, as Mistral 7B v0.1" if has_window else "as mistral-inference"
    config.warn(f"rope_theta is missing; {theta:g} assumed, {which}")
    return theta
