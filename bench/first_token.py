"""The first token of llama.cpp, from the start of an interpreter; cold_start.py runs it.

    python bench/first_token.py MODEL PROMPT '{"n_threads": 2, "n_ctx": 512, ...}'

Loads, tokenizes, evaluates, takes the likeliest token and prints it, then {"import_seconds": ...}.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time

from bindings import LlamaCpp


def main() -> None:
    model, prompt, settings = sys.argv[1:]
    start = time.perf_counter()
    import llama_cpp  # noqa: F401  what an import takes is told apart

    import_seconds = time.perf_counter() - start
    peer = LlamaCpp(model, json.loads(settings))
    print(first_piece(peer, prompt.encode()), flush=True)
    print(json.dumps({"import_seconds": import_seconds}))


def first_piece(peer: LlamaCpp, prompt: bytes) -> str:
    """The text of the likeliest token after the prompt."""
    lib, n_max = peer.lib, len(prompt) + 2  # with BOS
    vocab = lib.llama_model_get_vocab(peer.model)
    tokens = (lib.llama_token * n_max)()
    n = lib.llama_tokenize(vocab, prompt, len(prompt), tokens, n_max, True, False)
    logits = peer.decode(list(tokens[:n]), 0)[: lib.llama_vocab_n_tokens(vocab)]
    text = ctypes.create_string_buffer(64)
    likeliest = max(range(len(logits)), key=logits.__getitem__)
    size = lib.llama_token_to_piece(vocab, likeliest, text, len(text), 0, True)
    return text.raw[: max(size, 0)].decode(errors="replace")


if __name__ == "__main__":
    main()
