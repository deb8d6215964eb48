"""The engines that pymixtral races, through the C functions of their Python packages.

No Python runs per token. This file needs no pymixtral, so that any interpreter that has a binding
can use it. Settings are numbers, 0 and 1 for off and on: n_ctx (of a sequence), n_threads,
n_sequences, n_batch (both the logical and the physical batch), flash_attn, repack, kv_q8_0, and
what a class adds.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any, ClassVar

Settings = dict[str, int]


class Binding:
    """A loaded model and one context.

    A subclass has the library (`lib`, with ctypes' declarations), its version, and what differs
    from library to library.

    Attributes:
        model, context: the library's handles.
        depth: tokens that the last "fill" left in the context.
    """

    package: ClassVar[str]

    version: str
    lib: Any
    model: int
    context: int

    def __init__(self, model: str, settings: Settings) -> None:
        self.n_batch = settings["n_batch"]
        self.n_sequences = settings["n_sequences"]
        self.depth = 0
        self._load_library()
        self._silence = LogCallback(lambda level, text, user: None)  # kept alive
        self.lib.llama_log_set(self._silence, None)
        self.lib.llama_backend_init()
        self.model = self._load_model(model.encode(), settings)
        if not self.model:
            raise RuntimeError(f"{self.package} cannot load {model}")
        self.context = self._make_context(settings)
        if not self.context:
            raise RuntimeError(f"{self.package} cannot make a context with these settings")
        self.batch = self.lib.llama_batch_init(self.n_sequences, 0, 1)

    def measure(self, test: str, ids: list[int]) -> float:
        """Seconds for ids after those of the last "fill", which begins an empty context.

        In batches ("fill", "prefill"), one by one ("decode"), or one of each sequence at a time,
        from empty contexts ("batch").
        """
        if test in ("fill", "batch"):
            self.depth = 0
        for sequence in range(self.n_sequences):
            self._truncate(sequence, self.depth)
        start = time.perf_counter()
        if test == "batch":
            for at in range(0, len(ids), self.n_sequences):
                self._decode_each(ids[at : at + self.n_sequences], at // self.n_sequences)
        else:
            step = 1 if test == "decode" else self.n_batch
            for at in range(0, len(ids), step):
                self.decode(ids[at : at + step], self.depth + at)
        seconds = time.perf_counter() - start
        if test == "fill":
            self.depth = len(ids)
        return seconds

    def decode(self, ids: list[int], position: int) -> Any:
        """Evaluates a batch, and waits for the logits after its last id."""
        tokens = (self.lib.llama_token * len(ids))(*ids)
        return self._run(self._batch_of_one_sequence(tokens, position))

    def logits(self, ids: list[int]) -> bytes:
        """The float32 logits after each of the ids, which are one batch in an empty context."""
        self._truncate(0, 0)
        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        for i, token in enumerate(ids):
            self._put(batch, i, token, position=i, sequence=0)
        batch.n_tokens = len(ids)
        found = self._run(batch)
        n_vocab = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        values = ctypes.string_at(found, len(ids) * n_vocab * ctypes.sizeof(ctypes.c_float))
        self.lib.llama_batch_free(batch)
        return values

    def _decode_each(self, ids: list[int], position: int) -> None:
        """Evaluates one id of each sequence, and waits for the logits after all of them."""
        for i, token in enumerate(ids):
            self._put(self.batch, i, token, position, sequence=i)
        self.batch.n_tokens = len(ids)
        self._run(self.batch)

    @staticmethod
    def _put(batch: Any, i: int, token: int, position: int, sequence: int) -> None:
        """Makes a token the batch's i-th."""
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = True

    def _run(self, batch: Any) -> Any:
        code = self.lib.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode of {self.package} gave {code}")
        return self.lib.llama_get_logits(self.context)

    def _load_model(self, path: bytes, settings: Settings) -> Any:
        params = self.lib.llama_model_default_params()
        self._set_model(params, settings)
        return self.lib.llama_model_load_from_file(path, params)

    def _make_context(self, settings: Settings) -> Any:
        params = self.lib.llama_context_default_params()
        params.n_seq_max = settings["n_sequences"]
        params.n_ctx = settings["n_ctx"] * settings["n_sequences"]
        if settings["kv_q8_0"]:
            params.type_k = params.type_v = GGML_TYPE_Q8_0
        params.n_batch = params.n_ubatch = settings["n_batch"]
        params.n_threads = params.n_threads_batch = settings["n_threads"]
        self._set_context(params, settings)
        return self.lib.llama_init_from_model(self.model, params)

    def _load_library(self) -> None:
        """Sets `lib` and `version`."""
        raise NotImplementedError

    def _set_model(self, params: Any, settings: Settings) -> None:
        raise NotImplementedError

    def _set_context(self, params: Any, settings: Settings) -> None:
        """Sets what the libraries do not have in common."""
        raise NotImplementedError

    def _truncate(self, sequence: int, n: int) -> None:
        """Leaves the first n tokens of a sequence."""
        raise NotImplementedError

    def _batch_of_one_sequence(self, tokens: Any, position: int) -> Any:
        raise NotImplementedError


LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
GGML_TYPE_Q8_0 = 8  # of ggml.h


class LlamaCpp(Binding):
    """llama.cpp. It adds kv_unified (sequences share one KV cache); flash_attn -1 is its choice."""

    package = "llama_cpp"

    def _load_library(self) -> None:
        import llama_cpp

        self.version = llama_cpp.__version__
        self.lib = llama_cpp.llama_cpp

    def _set_model(self, params: Any, settings: Settings) -> None:
        params.use_extra_bufts = settings["repack"]

    def _set_context(self, params: Any, settings: Settings) -> None:
        params.kv_unified = settings["kv_unified"]
        params.flash_attn_type = settings["flash_attn"]  # llama_flash_attn_type

    def _truncate(self, sequence: int, n: int) -> None:
        memory = self.lib.llama_get_memory(self.context)
        self.lib.llama_memory_seq_rm(memory, sequence, n, -1)

    def _batch_of_one_sequence(self, tokens: Any, position: int) -> Any:
        return self.lib.llama_batch_get_one(tokens, len(tokens))  # it counts positions itself


class IkLlamaCpp(Binding):
    """ik_llama.cpp. It adds fused_moe: gate and up of the experts in one operation."""

    package = "ik_llama_cpp"

    def _load_library(self) -> None:
        import ik_llama_cpp
        from ik_llama_cpp import _ctypes_api as api

        self.version = ik_llama_cpp.__version__
        self._check_layouts(api)
        self.lib = api
        self._declare("llama_log_set", None, LogCallback, ctypes.c_void_p)
        self._declare("llama_get_logits", ctypes.POINTER(ctypes.c_float), ctypes.c_void_p)
        positions = (ctypes.c_int32, ctypes.c_int32)
        self._declare(
            "llama_kv_cache_seq_rm", ctypes.c_bool, ctypes.c_void_p, api.llama_seq_id, *positions
        )
        self._declare(
            "llama_batch_get_one", api.llama_batch, api.llama_token_p, *positions, api.llama_seq_id
        )

    def _declare(self, name: str, result: Any, *arguments: Any) -> None:
        """Adds a function that the package leaves out."""
        function = getattr(self.lib._lib, name)
        function.restype, function.argtypes = result, arguments
        setattr(self.lib, name, function)

    def _check_layouts(self, api: Any) -> None:
        """The package describes C structures by hand, for one revision of the library."""
        model, context = api.llama_model_default_params(), api.llama_context_default_params()
        found = (model.use_mmap, model.repack_tensors, context.n_ctx, context.n_batch)
        found += (context.flash_attn, context.fused_moe_up_gate)
        if found != (True, False, 512, 2048, True, True):
            raise RuntimeError(
                f"ik_llama_cpp {self.version} describes structures that are not its library's; "
                "use 0.1.5"
            )

    def _set_model(self, params: Any, settings: Settings) -> None:
        params.repack_tensors = settings["repack"]
        params.flash_attn = settings["flash_attn"]

    def _set_context(self, params: Any, settings: Settings) -> None:
        params.flash_attn = settings["flash_attn"]
        params.fused_moe_up_gate = settings["fused_moe"]

    def _truncate(self, sequence: int, n: int) -> None:
        self.lib.llama_kv_cache_seq_rm(self.context, sequence, n, -1)

    def _batch_of_one_sequence(self, tokens: Any, position: int) -> Any:
        return self.lib.llama_batch_get_one(tokens, len(tokens), position, 0)


BINDINGS = {binding.package: binding for binding in (LlamaCpp, IkLlamaCpp)}
