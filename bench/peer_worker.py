"""Times llama.cpp, through the package llama_cpp, in a process of its own; peers.py starts it.

    python bench/peer_worker.py MODEL '{"n_threads": 2, "n_ctx": 1024, ...}'

Speaks JSON, a line a message. After loading it says {"version": ...}; then it answers each
{"test": "prefill" | "decode", "ids": [...]} on stdin with {"seconds": ...}. A failure is said as
{"error": ...}. It needs no pymixtral, so that any interpreter that has llama_cpp can run it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

Settings = dict[str, Any]


class LlamaCpp:
    """A loaded model and one context, through llama.cpp's C functions (no Python per token)."""

    def __init__(self, model: str, settings: Settings) -> None:
        import llama_cpp

        self.version = llama_cpp.__version__
        self.lib = lib = llama_cpp.llama_cpp
        self._silence = lib.llama_log_callback(lambda level, text, user: None)  # kept alive
        lib.llama_log_set(self._silence, None)
        lib.llama_backend_init()

        model_params = lib.llama_model_default_params()
        model_params.use_extra_bufts = settings["repack"]
        self.model = lib.llama_model_load_from_file(model.encode(), model_params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {model}")

        params = lib.llama_context_default_params()
        params.n_ctx = settings["n_ctx"]
        params.n_batch = params.n_ubatch = self.n_batch = settings["n_batch"]
        params.n_threads = params.n_threads_batch = settings["n_threads"]
        params.flash_attn_type = settings["flash_attn"]  # llama_flash_attn_type: 0 off, 1 on
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")

    def measure(self, test: str, ids: list[int]) -> float:
        """Seconds for ids in batches (prefill), or one by one (decode), from an empty context."""
        step = self.n_batch if test == "prefill" else 1
        batches = [ids[i : i + step] for i in range(0, len(ids), step)]
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        start = time.perf_counter()
        for batch in batches:
            self._decode(batch)
        return time.perf_counter() - start

    def _decode(self, ids: list[int]) -> None:
        """Evaluates a batch, and waits for the logits after its last id."""
        tokens = (self.lib.llama_token * len(ids))(*ids)
        code = self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids)))
        if code:
            raise RuntimeError(f"llama_decode gave {code}")
        self.lib.llama_get_logits(self.context)


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    try:
        peer = LlamaCpp(sys.argv[1], json.loads(sys.argv[2]))
        say({"version": peer.version})
        for line in sys.stdin:
            request = json.loads(line)
            say({"seconds": peer.measure(request["test"], request["ids"])})
    except (ImportError, RuntimeError) as error:
        say({"error": str(error)})


if __name__ == "__main__":
    main()
