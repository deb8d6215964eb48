"""Cases 24, 29 and 31: what a model that runs meets in its texts, its weights and its file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from pymixtral import LLM, SamplingParams
from pymixtral.errors import EngineError, SamplingError
from pymixtral.formats import FormatError, TokenType, Vocabulary, open_gguf
from pymixtral.formats.verify import verify
from pymixtral.loader import shipped_model
from pymixtral.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=2)
PROMPT = [1, 5, 9, 300]


# ---- 24: a megabyte of one character ----


@pytest.fixture(scope="module")
def doubling() -> Tokenizer:
    """Of tokens that merge a run of a's, or of spaces, again and again."""
    runs = [c * 2**i for c in ("a", "\u2581") for i in range(11)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *runs]
    types = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 2, *[TokenType.BYTE] * 256]
    types += [TokenType.NORMAL] * len(runs)
    vocabulary = Vocabulary(
        model="llama", tokens=tokens, scores=np.array([len(token) for token in tokens], np.float32),
        types=np.array(types, np.int32), bos_id=1, eos_id=2, unk_id=0, add_bos=True, add_eos=False,
        add_space_prefix=True, chat_template=None,
    )  # fmt: skip
    return Tokenizer(vocabulary)


@pytest.mark.parametrize("text", ["a", " ", "\n", "é", "</s>"])
def test_case_24_time_is_near_linear(doubling: Tokenizer, text: str) -> None:
    seconds = []
    for n_bytes in (100_000, 1_000_000):
        started = time.process_time()
        doubling.encode(text * (n_bytes // len(text.encode())))
        seconds.append(time.process_time() - started)
    assert seconds[1] < 0.2 + 40 * seconds[0]


# ---- 29: scales that are no numbers ----


def poison(path: Path, tensor: str, scale: float, rows: slice = slice(None)) -> None:
    """Write the shipped model with this scale in the first block of some rows of a tensor."""
    path.write_bytes(shipped_model().read_bytes())
    with open_gguf(path) as gguf:
        info = gguf.tensors[tensor]
    assert info.type_name == "Q8_0"  # whose blocks begin with their scale
    data = np.memmap(path, np.uint8, "r+", info.offset, info.n_bytes)
    data.reshape(np.prod(info.shape[:-1]), -1)[rows, :2] = np.array([scale], np.float16).view(
        np.uint8
    )
    data.flush()


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    "tensor",
    ["token_embd.weight", "blk.0.attn_k.weight", "blk.1.ffn_down_exps.weight", "output.weight"],
)
def test_case_29_scales_that_are_no_numbers(tmp_path: Path, tensor: str, scale: float) -> None:
    path = tmp_path / "poisoned.gguf"
    poison(path, tensor, scale)
    with pytest.raises(FormatError, match=f"tensor {tensor}"):
        verify(path)
    with LLM(path) as llm:
        for _ in range(2):  # a request fails, and the next is answered in the same way
            with pytest.raises((EngineError, SamplingError)) as caught:
                llm.generate(PROMPT, GREEDY)
            assert str(caught.value).isprintable()


def test_case_29_a_poisoned_row_fails_who_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "poisoned.gguf"
    poison(path, "token_embd.weight", np.nan, slice(7, 8))
    with LLM() as good, LLM(path) as llm:
        with pytest.raises((EngineError, SamplingError)):
            llm.generate([1, 7], GREEDY)
        assert llm.generate(PROMPT, GREEDY).text == good.generate(PROMPT, GREEDY).text


# ---- 31: a file that is replaced while it is mapped ----


def test_case_31_a_file_that_is_replaced_stays_the_old_one(tmp_path: Path) -> None:
    """As by a download, which is renamed when it is complete."""
    path, newer = tmp_path / "model.gguf", tmp_path / "newer.gguf"
    path.write_bytes(shipped_model().read_bytes())
    newer.write_bytes(bytes(path.stat().st_size))
    with LLM(path) as llm:
        before = llm.generate(PROMPT, GREEDY).text
        os.replace(newer, path)
        assert llm.generate([*PROMPT, 7], GREEDY).text
        assert llm.generate(PROMPT, GREEDY).text == before
