"""Measuring an importance matrix: what goes into each matrix, summed over a calibration text.

As llama.cpp's `imatrix` tool does it: the text is cut into chunks, each evaluated on its own, and
the squares of every matrix's inputs are summed column by column, for each expert over the tokens
that the router sent to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pymixtral.engine import Phase, TapEvent
from pymixtral.errors import EngineError
from pymixtral.formats import HParams, TensorRole
from pymixtral.formats.imatrix import Calibration, TensorSums
from pymixtral.formats.names import DENSE_LAYER_NAMES, MOE_LAYER_NAMES
from pymixtral.llm import LLM

Chunk = NDArray[np.int32]

# Role that the tap shows -> the matrices that have this input. (Routers are never quantized.)
_MATRICES: dict[int, tuple[TensorRole, ...]] = {
    TensorRole.ATTN_Q: (TensorRole.ATTN_Q, TensorRole.ATTN_K, TensorRole.ATTN_V),
    TensorRole.ATTN_OUTPUT: (TensorRole.ATTN_OUTPUT,),
    TensorRole.FFN_GATE: (TensorRole.FFN_GATE, TensorRole.FFN_UP),
    TensorRole.FFN_DOWN: (TensorRole.FFN_DOWN,),
}
_OF_EXPERTS = {TensorRole.FFN_GATE, TensorRole.FFN_DOWN}


class Calibrator:
    """Adds chunk after chunk to a `Calibration`.

    Args:
        llm: the model; its sessions have room for a chunk.
        chunks: of the text; see `text_chunks`.
        dataset: name of the text.
        earlier: what an earlier run got to.

    Attributes:
        calibration: the sums so far. After each chunk they are rounded to float32, as files have
            them, so that a run that was resumed gives the bytes of one that was not.

    Raises:
        ValueError: `earlier` is of another model, text or chunk size.
    """

    def __init__(
        self,
        llm: LLM,
        chunks: Sequence[Chunk],
        dataset: str,
        earlier: Calibration | None = None,
    ) -> None:
        self._llm = llm
        self._chunks = chunks
        self._digest = _digest_of_model(llm)
        if earlier is None:
            earlier = Calibration(datasets=[dataset], chunk_size=len(chunks[0]))
        else:
            for chunk in chunks[: max(0, earlier.n_chunks)]:
                self._digest.update(chunk.tobytes())
            if earlier.source != self._digest.hexdigest():
                raise ValueError("is not of this model, text and --ctx")
        self.calibration = earlier

    def run(self) -> Iterator[int]:
        """Sum up the chunks that are left; yields after each how many are done in all.

        Raises:
            EngineError: the model computes what is no number.
        """
        session = self._llm.new_session(self.calibration.chunk_size)
        try:
            for chunk in self._chunks[self.calibration.n_chunks :]:
                session.truncate(0)
                sums = _ChunkSums(self._llm.file.hparams)
                with self._llm.engine.tap(sums.show):
                    session.eval(chunk, Phase.PROMPT, n_logits=0)
                self._digest.update(chunk.tobytes())
                # One assignment: wherever Ctrl-C strikes, the calibration is whole.
                self.calibration = replace(
                    self.calibration,
                    tensors=_added(self.calibration.tensors, sums),
                    n_chunks=self.calibration.n_chunks + 1,
                    source=self._digest.hexdigest(),
                )
                yield self.calibration.n_chunks
        finally:
            session.close()


def _added(total: Mapping[str, TensorSums], sums: _ChunkSums) -> dict[str, TensorSums]:
    added = {}
    for name, (squares, counts) in sums.tensors():
        if not np.isfinite(squares).all():
            raise EngineError(f"{name}: its inputs are no finite numbers; the file is damaged")
        if name in total:
            squares, counts = squares + total[name].squares, counts + total[name].counts
        added[name] = TensorSums(squares.astype(np.float32), counts.astype(np.float32))
    return added


def _digest_of_model(llm: LLM) -> hashlib._Hash:
    """Of its name and of what its tensors are called and look like; their bytes may be many."""
    digest = hashlib.sha256(f"{llm.file.name}\n".encode(errors="surrogateescape"))
    for tensor in llm.file.gguf.tensors.values():
        line = f"{tensor.name} {tensor.type_name} {tensor.shape}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest


class _ChunkSums:
    """The sums over one chunk, in float64."""

    def __init__(self, hparams: HParams) -> None:
        self._names = MOE_LAYER_NAMES if hparams.n_experts else DENSE_LAYER_NAMES
        self._n_layers = hparams.n_layers
        self._n_experts = max(1, hparams.n_experts)
        # (role that is tapped, layer) -> (n_matrices, n_cols) and (n_matrices, 1)
        self._sums: dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def show(self, event: TapEvent) -> None:
        """See `Engine.tap`."""
        if event.role not in _MATRICES:
            return
        n_cols = event.x.shape[1]
        n_matrices = self._n_experts if event.role in _OF_EXPERTS else 1
        if (event.role, event.layer) not in self._sums:
            empty = np.zeros((n_matrices, n_cols)), np.zeros((n_matrices, 1))
            self._sums[event.role, event.layer] = empty
        squares, counts = self._sums[event.role, event.layer]
        squares[event.expert] += np.einsum("rc,rc->c", event.x, event.x, dtype=np.float64)
        counts[event.expert] += len(event.x)

    def tensors(self) -> Iterator[tuple[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
        """By name: squares and counts."""
        for (role, layer), sums in self._sums.items():
            for matrix in _MATRICES[role]:
                yield self._names[matrix].format(layer=layer), sums
