"""The table of targets: what is measured on which model, against whom, and what it should reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from contenders import PEER_DEFAULTS


@dataclass(frozen=True)
class Target:
    """What a figure must reach, and should; with `is_limit` it must stay at or below it."""

    required: float | None = None
    goal: float | None = None
    is_limit: bool = False

    def is_met(self, value: float) -> bool | None:
        """None where nothing is required."""
        return self._reaches(value, self.required)

    def reaches_goal(self, value: float) -> bool | None:
        return self._reaches(value, self.goal)

    def _reaches(self, value: float, bound: float | None) -> bool | None:
        if bound is None:
            return None
        return value <= bound if self.is_limit else value >= bound


NONE = Target()


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: of the row, for --row.
        model: a key of MODELS.
        test: "prefill" or "decode" (contenders.py), "batch" (several sequences), "first token"
            (from the program's start) or "memory" (resident, against the estimate; no peer).
        n: tokens of a measurement; of each sequence.
        ratio: target of our speed over the peer's.
        part_of_limit: target of the part of the machine's limit that we reach: of the read
            bandwidth (decode), of the peak multiply rate by the experts' matmuls (prefill).
        tier: ours; None for the CPU's best.
        depth: tokens in the context before the test.
        sequences: that generate at once.
        kv_type: of both KV caches, f16 or q8_0.
        package: the peer's, a key of PEER_DEFAULTS.
        choices: the peer's settings that the sweep tries, each value with each of the others.
        part_kept: target of the part of the quiet speed that is kept while another process keeps a
            core busy; None: not measured.
    """

    name: str
    model: str
    test: str
    n: int
    ratio: Target = NONE
    part_of_limit: Target = NONE
    tier: str | None = None
    depth: int = 0
    sequences: int = 1
    kv_type: str = "f16"
    package: str = "llama_cpp"
    choices: dict[str, tuple[int, ...]] = field(default_factory=dict)
    part_kept: Target | None = None

    def sweep(self) -> list[dict[str, int]]:
        """The peer's settings, one of each combination of choices."""
        fixed = PEER_DEFAULTS[self.package] | {"kv_q8_0": int(self.kv_type == "q8_0")}
        return [
            fixed | dict(zip(self.choices, values, strict=True))
            for values in product(*self.choices.values())
        ]


OFF_ON = (0, 1)
# One token, or a prompt of 512, is one batch whatever its size:
ONE_BATCH = {"repack": OFF_ON, "flash_attn": OFF_ON}
BATCHES = ONE_BATCH | {"n_batch": (512, 2048)}
SEQUENCES = ONE_BATCH | {"kv_unified": OFF_ON}
FUSED = ONE_BATCH | {"fused_moe": OFF_ON}
# Attention dominates, so that the layout of the weights tells nothing:
DEEP = {"flash_attn": OFF_ON}

FULL_WIDTH = {  # file type -> model
    kind: f"synthetic-4L.{kind}.gguf" for kind in ("Q4_K_M", "Q4_0", "Q6_K", "Q8_0")
}
Q4_K_M = FULL_WIDTH["Q4_K_M"]
ATTENTION = "attention.gguf"

# file -> the arguments of make_synthetic.py
MODELS = {model: f"--layers 4 --type {kind}" for kind, model in FULL_WIDTH.items()} | {
    ATTENTION: "--layers 1 --ffn-dim 512 --vocab 512 --context 40960 --type Q8_0"
}

DECODE_ROWS = tuple(
    Row(
        f"decode-{kind}",
        model,
        "decode",
        32,
        Target(1.6, 1.9),
        part_of_limit=Target(0.85, 0.95),
        choices=ONE_BATCH,
    )
    for kind, model in FULL_WIDTH.items()
)

PREFILL_ROWS = (
    Row(
        "prefill-512-amx",
        Q4_K_M,
        "prefill",
        512,
        Target(2.5, 5),
        part_of_limit=Target(goal=0.5),
        tier="amx",
        choices=ONE_BATCH,
    ),
    Row(
        "prefill-4096-amx",
        Q4_K_M,
        "prefill",
        4096,
        Target(3, 6),
        part_of_limit=Target(goal=0.6),
        tier="amx",
        choices=BATCHES,
    ),
    Row(
        "prefill-512-avx512vnni",
        Q4_K_M,
        "prefill",
        512,
        Target(1.2, 1.8),
        tier="avx512vnni",
        choices=ONE_BATCH,
    ),
    Row(
        "prefill-512-avx2",
        Q4_K_M,
        "prefill",
        512,
        Target(1.1, 1.5),
        tier="avx2",
        package="ik_llama_cpp",
        choices=FUSED,
    ),
)

ATTENTION_ROWS = tuple(
    Row(
        f"attention-{test}-{depth // 1024}k-{kv_type}",
        ATTENTION,
        test,
        n,
        Target(1.2, 2),
        depth=depth,
        kv_type=kv_type,
        choices=DEEP,
    )
    for depth, kv_type in product((8192, 32768), ("f16", "q8_0"))
    for test, n in (("decode", 16), ("prefill", 512))
)

ROWS = (
    *DECODE_ROWS,
    *PREFILL_ROWS,
    Row("decode-8-sequences", Q4_K_M, "batch", 16, Target(2.5, 4), sequences=8, choices=SEQUENCES),
    *ATTENTION_ROWS,
    Row("busy-decode", Q4_K_M, "decode", 32, part_kept=Target(0.65, 0.73), choices=ONE_BATCH),
    Row("busy-prefill", Q4_K_M, "prefill", 512, part_kept=Target(goal=0.73), choices=ONE_BATCH),
    Row("first-token", Q4_K_M, "first token", 1, Target(1, 2), choices=ONE_BATCH),
    Row("resident-memory", Q4_K_M, "memory", 512),
)

# Resident memory over its estimate, less 1, without sign:
MEMORY_ERROR = Target(required=0.05, is_limit=True)
