"""What a process that runs a model takes, beside the estimate that is made before loading.

    python bench/resident_memory.py MODEL --prompt 512

Prints JSON, in bytes: {"estimate", "resident"}. A prompt of random ids, of which all logits are
wanted, touches every expert and fills the context. Resident is what the kernel counts (VmRSS), the
interpreter and numpy included.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

from pymixtral import LLM, Phase


def resident_bytes() -> int:
    """Of this process; see proc_pid_status(5)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE).group(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-p", "--prompt", type=int, default=512, help="tokens read (512)")
    options = parser.parse_args()
    with LLM(options.model, n_ctx=options.prompt) as llm:
        ids = np.random.default_rng(0).integers(0, llm.n_vocab, options.prompt, dtype=np.int32)
        llm.new_session().eval(ids, Phase.PROMPT, n_logits=len(ids))
        found = {"estimate": llm.memory_need.total, "resident": resident_bytes()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
