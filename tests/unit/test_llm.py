"""The library as a program uses it, on the model that ships."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pymixtral import LLM, Phase, SamplingParams
from pymixtral.errors import (
    ClosedError,
    ContextError,
    EvalCancelled,
    InsufficientMemoryError,
    ModelLoadError,
    ParameterError,
)
from pymixtral.formats import FormatError
from pymixtral.loader import shipped_model

GREEDY = SamplingParams(temperature=0, max_tokens=24)
QUESTION = [{"role": "user", "content": "Tell me a story about a fox."}]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as llm:
        yield llm


# ---- Generating ----


def test_generate(llm: LLM) -> None:
    out = llm.generate("Once upon a time", GREEDY)
    assert out.text.startswith(" ") or out.text.startswith(",")  # a raw completion keeps its space
    assert llm.detokenize(out.token_ids) == out.text
    assert (out.finish_reason, len(out.token_ids)) == ("length", 24)
    assert out.usage.completion_tokens == 24
    assert out.usage.prompt_tokens == len(llm.tokenize("Once upon a time", add_bos=True))
    assert out.logprobs is None


def test_chat_strips_one_space_and_stops(llm: LLM) -> None:
    out = llm.chat(QUESTION, SamplingParams(temperature=0))
    assert out.text
    assert not out.text.startswith(" ")
    assert llm.detokenize(out.token_ids) == " " + out.text
    assert out.finish_reason == "stop"
    assert llm.tokenizer.eos_id not in out.token_ids


def test_stream_gives_the_same(llm: LLM) -> None:
    whole = llm.generate("Once upon a time", GREEDY)
    with llm.generate("Once upon a time", GREEDY, stream=True) as stream:
        pieces = list(stream)
    assert "".join(pieces) == whole.text
    assert len(pieces) > 5
    assert stream.completion.token_ids == whole.token_ids
    assert stream.completion.finish_reason == "length"


def test_ids_as_prompt(llm: LLM) -> None:
    ids = llm.tokenize("Once upon a time", add_bos=True)
    assert llm.generate(ids, GREEDY).token_ids == llm.generate("Once upon a time", GREEDY).token_ids


def test_seed(llm: LLM) -> None:
    def sample(seed: int) -> list[int]:
        return llm.generate("The", SamplingParams(seed=seed, max_tokens=16)).token_ids

    assert sample(3) == sample(3)
    assert len({tuple(sample(seed)) for seed in range(5)}) > 1


def test_logprobs_are_those_of_the_logits(llm: LLM) -> None:
    out = llm.generate("Once", SamplingParams(temperature=0, max_tokens=3, logprobs=4))
    ids = llm.tokenize("Once", add_bos=True)
    logits = llm.logits(ids).astype(np.float64)[-1]
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    assert out.logprobs is not None
    assert [entry.token_id for entry in out.logprobs] == out.token_ids
    first = out.logprobs[0]
    assert first.logprob == pytest.approx(expected[first.token_id], abs=1e-5)
    assert [i for i, _ in first.top] == np.argsort(-expected)[:4].tolist()


def test_stop_text_never_shows(llm: LLM) -> None:
    free = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=60)).text
    stop = free[20:27]
    params = SamplingParams(temperature=0, max_tokens=60, stop=stop)
    with llm.generate("Once upon a time", params, stream=True) as stream:
        text = "".join(stream)
    assert text == free[: free.index(stop)]
    assert stream.completion.finish_reason == "stop"


def test_stop_id(llm: LLM) -> None:
    free = llm.generate("Once upon a time", GREEDY).token_ids
    out = llm.generate("Once upon a time", SamplingParams(temperature=0, stop_ids=[free[5]]))
    assert out.token_ids == free[: free.index(free[5])]
    assert out.finish_reason == "stop"


# ---- Context ----


def test_prompt_over_the_context() -> None:
    with LLM(n_ctx=16) as llm:
        with pytest.raises(ContextError, match=r"17 tokens.*context of 16"):
            llm.generate([1] * 17, GREEDY)
        with pytest.raises(ContextError):
            llm.logits([1] * 17)
        out = llm.generate([1] * 10, SamplingParams(temperature=0, stop_ids=[]))
        assert out.finish_reason in ("length", "stop")
        assert 10 + len(out.token_ids) <= 16


def test_generation_that_reaches_the_context() -> None:
    with LLM(n_ctx=24) as llm:
        out = llm.generate("Once upon a time", SamplingParams(temperature=0))
        assert out.finish_reason == "length"
        assert out.usage.prompt_tokens + len(out.token_ids) == 24


def test_next_turn_goes_on_from_the_cache(llm: LLM) -> None:
    ids = llm.encode_chat(QUESTION)
    first = llm.answer(ids, GREEDY)
    longer = [
        *ids,
        *first.token_ids,
        llm.tokenizer.eos_id or 2,
        *llm.tokenize("[INST] Why? [/INST]"),
    ]
    second = llm.answer(longer, GREEDY)
    # All but the last generated token had been evaluated.
    assert second.usage.cached_tokens == len(ids) + len(first.token_ids) - 1


def test_reproducible_recomputes_generated_tokens() -> None:
    with LLM(reproducible=True) as llm, LLM() as fresh:
        ids = llm.encode_chat(QUESTION)
        first = llm.answer(ids, GREEDY)
        longer = [*ids, *first.token_ids, *llm.tokenize("[INST] Why? [/INST]")]
        second = llm.answer(longer, GREEDY)
        assert second.usage.cached_tokens == len(ids)
        again = fresh.answer(longer, SamplingParams(temperature=0, max_tokens=24, logprobs=1))
        assert again.usage.cached_tokens == 0
        assert second.token_ids == again.token_ids


# ---- Logits ----


def test_logits(llm: LLM) -> None:
    ids = llm.tokenize("The fox ran", add_bos=True)
    for phase in Phase:
        logits = llm.logits(ids, phase)
        assert (logits.shape, logits.dtype) == ((len(ids), llm.n_vocab), np.float32)
        assert np.array_equal(llm.logits(ids[:3], phase), logits[:3])
    assert llm.logits([]).shape == (0, llm.n_vocab)


# ---- Threads, closing ----


def test_threads_share_one_llm(llm: LLM) -> None:
    prompts = [f"There were {n} little foxes" for n in range(6)]
    expected = [llm.generate(prompt, GREEDY).token_ids for prompt in prompts]
    found: dict[str, list[int]] = {}

    def run(prompt: str) -> None:
        found[prompt] = llm.generate(prompt, GREEDY).token_ids

    threads = [threading.Thread(target=run, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[prompt] for prompt in prompts] == expected


def test_stream_that_is_dropped_gives_its_session_back(llm: LLM) -> None:
    with llm.generate("Once upon a time", GREEDY, stream=True) as stream:
        next(stream)
    assert stream.completion.finish_reason == "length"
    assert len(stream.token_ids) >= 1
    assert llm.generate("Once upon a time", GREEDY).usage.cached_tokens > 0


def test_use_after_close() -> None:
    llm = LLM()
    stream = llm.generate("Once upon a time", stream=True)
    next(stream)
    llm.close()
    llm.close()
    with pytest.raises((ClosedError, EvalCancelled)):
        list(stream)
    with pytest.raises(ClosedError):
        llm.generate("Once")
    with pytest.raises(ClosedError):
        llm.logits([1])


# ---- Loading ----


def test_unknown_arguments() -> None:
    with pytest.raises(TypeError):
        LLM(n_gpu_layers=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        SamplingParams(temprature=1)  # type: ignore[call-arg]
    with pytest.raises(ParameterError):
        LLM(n_ctx=0)
    with pytest.raises(ParameterError, match="512"):
        LLM(n_ctx=100_000)
    with pytest.raises(ParameterError):
        LLM(kv_type="q8")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="No such file"):
        LLM(tmp_path / "none.gguf")
    with pytest.raises(ModelLoadError, match="folder"):
        LLM(tmp_path)
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(FormatError):
        LLM(tmp_path / "text.gguf")


def test_read_into_memory_gives_the_same(llm: LLM) -> None:
    with LLM(use_mmap=False) as copy:
        ids = llm.tokenize("The fox ran", add_bos=True)
        assert np.array_equal(copy.logits(ids), llm.logits(ids))


def test_file_replaced_while_mapped_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(shipped_model().read_bytes())
    with LLM(path) as llm:
        before = llm.generate("Once", GREEDY).token_ids
        other = tmp_path / "other"
        other.write_bytes(b"something else")
        other.rename(path)
        assert llm.generate([1, 300], GREEDY) is not None
        assert llm.generate("Once", GREEDY).token_ids == before


def test_model_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymixtral.loader.available_bytes", lambda: 5_000_000)
    with pytest.raises(InsufficientMemoryError, match=r"weights .* KV cache .* 5\.0 MB are avail"):
        LLM()
    with LLM(check_memory=False) as llm:
        assert llm.memory_need.total > 5_000_000
