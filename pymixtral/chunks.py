"""A text as chunks of tokens, as llama.cpp's `perplexity` and `imatrix` tools cut it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pymixtral.errors import ParameterError
from pymixtral.llm import LLM

MIN_CTX = 8


def text_chunks(llm: LLM, text: str, n_ctx: int) -> list[NDArray[np.int32]]:
    """The whole chunks of `n_ctx` ids of `text`, encoded with BOS, each beginning with BOS itself.

    Raises:
        ParameterError: `n_ctx` is out of 8 to `llm.n_ctx`, or the text is shorter than a chunk.
    """
    if not MIN_CTX <= n_ctx <= llm.n_ctx:
        raise ParameterError(f"n_ctx must be {MIN_CTX} to {llm.n_ctx}, not {n_ctx}")
    ids = llm.tokenize(text, add_bos=True)
    n_chunks = len(ids) // n_ctx
    if n_chunks == 0:
        raise ParameterError(
            f"the text has {len(ids)} tokens, and one chunk of context takes {n_ctx}; use a "
            "longer text or a smaller context"
        )
    chunks = np.array(ids[: n_chunks * n_ctx], dtype=np.int32).reshape(n_chunks, n_ctx)
    chunks[:, 0] = ids[0]
    return list(chunks)
