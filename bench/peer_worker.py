"""Runs another engine, in a process of its own; contenders.py starts it.

    python bench/peer_worker.py llama_cpp MODEL '{"n_threads": 2, "n_ctx": 1024, ...}'

Speaks JSON, a line a message. After loading it says {"version": ...}; then it answers each
{"test": "fill" | "prefill" | "decode" | "batch", "ids": [...]} on stdin with {"seconds": ...}, and
{"test": "logits", "ids": [...]} with {"logits": float32 in base 64}. A failure is said as {"error":
...}. bindings.py knows the engines and their settings.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from typing import Any

from bindings import BINDINGS


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    package, model, settings = sys.argv[1:]
    try:
        peer = BINDINGS[package](model, json.loads(settings))
        say({"version": peer.version})
        for line in sys.stdin:
            request = json.loads(line)
            if request["test"] == "logits":
                say({"logits": b64encode(peer.logits(request["ids"])).decode()})
            else:
                say({"seconds": peer.measure(request["test"], request["ids"])})
    except (ImportError, RuntimeError) as error:
        say({"error": str(error)})


if __name__ == "__main__":
    main()
