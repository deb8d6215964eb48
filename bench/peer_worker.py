"""Times llama.cpp, through the package llama_cpp, in a process of its own; peers.py starts it.

    python bench/peer_worker.py MODEL '{"n_threads": 2, "n_ctx": 1024, ...}'

Speaks JSON, a line a message. After loading it says {"version": ...}; then it answers each
{"test": "fill" | "prefill" | "decode" | "batch", "ids": [...]} on stdin with {"seconds": ...}. A
failure is said as {"error": ...}. It needs no pymixtral, so that any interpreter that has llama_cpp
can run it.
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
        params.n_seq_max = self.n_sequences = settings["n_sequences"]
        params.n_ctx = settings["n_ctx"] * settings["n_sequences"]
        params.kv_unified = settings["kv_unified"]
        if settings["kv_q8_0"]:
            params.type_k = params.type_v = lib.GGML_TYPE_Q8_0
        params.n_batch = params.n_ubatch = self.n_batch = settings["n_batch"]
        params.n_threads = params.n_threads_batch = settings["n_threads"]
        params.flash_attn_type = settings["flash_attn"]  # llama_flash_attn_type: 0 off, 1 on
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.depth = 0
        self.batch = lib.llama_batch_init(self.n_sequences, 0, 1)

    def measure(self, test: str, ids: list[int]) -> float:
        """Seconds for ids after those of the last "fill", which begins an empty context.

        In batches ("fill", "prefill"), one by one ("decode"), or one of each sequence at a time,
        from empty contexts ("batch").
        """
        if test in ("fill", "batch"):
            self.depth = 0
        memory = self.lib.llama_get_memory(self.context)
        for sequence in range(self.n_sequences):
            self.lib.llama_memory_seq_rm(memory, sequence, self.depth, -1)
        start = time.perf_counter()
        if test == "batch":
            for at in range(0, len(ids), self.n_sequences):
                self._decode_each(ids[at : at + self.n_sequences], at // self.n_sequences)
        else:
            step = 1 if test == "decode" else self.n_batch
            for at in range(0, len(ids), step):
                self._decode(ids[at : at + step])
        seconds = time.perf_counter() - start
        if test == "fill":
            self.depth = len(ids)
        return seconds

    def _decode(self, ids: list[int]) -> None:
        """Evaluates a batch, and waits for the logits after its last id."""
        tokens = (self.lib.llama_token * len(ids))(*ids)
        self._run(self.lib.llama_batch_get_one(tokens, len(ids)))

    def _decode_each(self, ids: list[int], position: int) -> None:
        """Evaluates one id of each sequence, and waits for the logits after all of them."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = i
            batch.logits[i] = True
        self._run(batch)

    def _run(self, batch: Any) -> None:
        code = self.lib.llama_decode(self.context, batch)
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
