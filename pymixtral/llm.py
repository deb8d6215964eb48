"""The library: load a model, generate, chat, look at logits."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Self, overload

import numpy as np

from pymixtral.batch import Request, generate_together
from pymixtral.chat import (
    Conversation,
    Recognition,
    encode_chat,
    make_template,
    recognise_template,
)
from pymixtral.completion import Completion, CompletionStream, completion_of
from pymixtral.engine import Engine, EngineOptions, Logits, Phase, Session
from pymixtral.errors import ChatError, ContextError, ParameterError, PymixtralError
from pymixtral.generate import Generation, Timeline
from pymixtral.loader import ModelFile, Progress, create_engine, open_model
from pymixtral.memory import MemoryNeed
from pymixtral.sampling import SamplingParams
from pymixtral.tokenizer import Tokenizer


class LLM:
    """A loaded model.

    Several threads may use one LLM at once; each request has a session (a KV cache) of its own, and
    their evaluations take turns. The last finished request's session is kept: a request that begins
    with the same tokens, as the next turn of a chat does, goes on from there.

    Args:
        model: a GGUF file, or the first of several (shards, byte splits); without one, the
            storyteller that ships with the package.
        n_ctx: positions of context; default min(the model's, 8192).
        threads: default: as many as CPU affinity and the cgroup's quota allow.
        tier: instruction-set tier; default $PYMIXTRAL_TIER, or the best that the CPU has.
        kv_type: "f16", "q8_0" (about half the memory; heads of a multiple of 32) or "f32", elements
            of the KV cache.
        batch_rows: prompt tokens that go through the layers together; default 512.
        use_mmap: map the file, so that its pages are shared and loaded on demand; False reads it
            into memory, which a file that others may truncate needs.
        repack: whether the weights are read in the layout that the kernels read fastest. By
            default, they are where `pymixtral pack` has left a file of them beside the model, which
            is mapped; True copies them where there is none, and gives the model's pages back; False
            leaves them as the model has them. What is generated stays the same. It needs
            `use_mmap`: without, there are no packed weights, and True is an error.
        progress: called with a tensor's name, and bytes done and in all, while they are copied.
        reproducible: the same request gives the same tokens whatever was asked before. (By default
            a chat's next turn builds on the keys and values of the generated answer, which differ
            in their last bits from those that a prompt pass would compute.)
        check_memory: refuse a model that does not fit the memory that is available.
        chat_template: the chat template, a key of `pymixtral.chat.TEMPLATES`; default: the one that
            is recognised.
        parallel: prompts that `generate_many` answers at a time; each takes a KV cache.

    Attributes:
        chat_template: its version, and how it was recognised. Without a version, `generate` works
            and `chat` does not.
        weight_layout: how the weights are there: "rows" as the model has them, "copied" or "packed"
            as `repack` says.

    Raises:
        ModelLoadError, FormatError: the file cannot be read, is malformed or not supported.
        InsufficientMemoryError: it does not fit.
        ParameterError: an argument is out of its range.
        ChatError: `chat_template` does not exist, or the vocabulary lacks its tokens.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int | None = None,
        threads: int | None = None,
        tier: str | None = None,
        kv_type: str = "f16",
        batch_rows: int | None = None,
        use_mmap: bool = True,
        repack: bool | None = None,
        progress: Progress | None = None,
        reproducible: bool = False,
        check_memory: bool = True,
        chat_template: str | None = None,
        parallel: int = 1,
    ) -> None:
        if parallel < 1:
            raise ParameterError(f"parallel must be 1 or more, not {parallel}")
        if repack and not use_mmap:
            raise ParameterError(
                "repack needs the file mapped, or its weights would be there twice"
            )
        options = EngineOptions(threads=threads, batch_rows=batch_rows, tier=tier)
        self._file = open_model(model, use_mmap=use_mmap)
        try:
            self.n_ctx = self._file.choose_n_ctx(n_ctx)
            self.tokenizer = Tokenizer(self._file.vocabulary)
            self.chat_template = self._choose_template(chat_template)
            loaded = create_engine(
                self._file,
                n_ctx=self.n_ctx,
                kv_type=kv_type,
                options=options,
                n_sessions=parallel,
                check_memory=check_memory,
                repack=repack if use_mmap else False,
                progress=progress,
            )
        except BaseException:
            self._file.gguf.close()
            raise
        self.engine: Engine = loaded.engine
        self.memory_need: MemoryNeed = loaded.memory_need
        self.weight_layout = loaded.layout
        self._load_warnings = loaded.warnings
        for problem in loaded.warnings:
            warnings.warn(problem, stacklevel=2)
        self.parallel = parallel
        self._kv_type = kv_type
        self._reproducible = reproducible
        self._lock = threading.Lock()
        self._idle: Timeline | None = None

    # ---- Facts ----

    @property
    def file(self) -> ModelFile:
        """The file's hyperparameters, vocabulary and metadata."""
        return self._file

    @property
    def n_vocab(self) -> int:
        """Number of tokens, and of logits."""
        return self._file.hparams.n_vocab

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was assumed or repaired while loading, a line each."""
        return (*self._file.hparams.warnings, *self.tokenizer.warnings, *self._load_warnings)

    # ---- Text and ids ----

    def tokenize(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text, in which nothing is special: "</s>" is four characters."""
        return self.tokenizer.encode(text, add_bos=add_bos)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids; a leading space is kept."""
        return self.tokenizer.decode(ids)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        version: str | None = None,
    ) -> list[int]:
        """Ids of a conversation; see `pymixtral.chat.encode_chat`.

        Args:
            messages, tools: as there.
            version: default: `self.chat_template`'s.
        """
        return encode_chat(self.tokenizer, messages, tools, version or self._template_version())

    def new_conversation(self, system: str | None = None) -> Conversation:
        """An empty conversation, whose ids are for `answer`.

        Args:
            system: the system prompt.

        Raises:
            ChatError: the model's chat template is not known, or its vocabulary lacks the tokens.
            ParameterError: the system prompt holds a lone surrogate.
        """
        return Conversation(self.tokenizer, system, self._template_version())

    # ---- Requests ----

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
    ) -> CompletionStream: ...
    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
    ) -> Completion | CompletionStream:
        """Continue a text as it is, without a template.

        Args:
            prompt: a text, which gets a BOS where the model wants one, or ids, used as they are.
            params: how to sample, and where to stop; default `SamplingParams()`.
            stream: return the pieces as they come.

        Raises:
            ContextError: the prompt does not fit the context.
            ParameterError: a parameter does not fit the vocabulary.
            EngineError: the model gave logits that are no numbers.
        """
        return self._answer(self._prompt_ids(prompt), params, stream, strip_leading_space=False)

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stream: Literal[False] = False,
    ) -> Completion: ...
    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stream: Literal[True],
    ) -> CompletionStream: ...
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stream: bool = False,
    ) -> Completion | CompletionStream:
        """Answer a conversation.

        Args:
            messages, tools: as in `pymixtral.chat.encode_chat`. The calls of tools that the answer
                asks for are its `tool_calls`; calling them is up to you.
            params, stream: as in `generate`.

        Raises:
            ChatError: the messages are no conversation that the template can express, or the
                model's template is not known.
            As `generate`.
        """
        ids = self.encode_chat(messages, tools)
        return self._answer(ids, params, stream, strip_leading_space=True)

    @overload
    def answer(
        self,
        chat_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
    ) -> Completion: ...
    @overload
    def answer(
        self,
        chat_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
    ) -> CompletionStream: ...
    def answer(
        self,
        chat_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
    ) -> Completion | CompletionStream:
        """Like `chat`, for a conversation that is encoded already."""
        return self._answer(list(chat_ids), params, stream, strip_leading_space=True)

    def generate_many(
        self, requests: Iterable[str | Request], params: SamplingParams | None = None
    ) -> Iterator[tuple[int, Completion | PymixtralError]]:
        """Answer many prompts, `parallel` of them at a time.

        They are decoded together, which reads the weights once for all, and each answer is the one
        that its prompt would get alone. One that fails does not disturb the others.

        Args:
            requests: texts to continue, or `Request`s; taken as there is room for them.
            params: for the requests that bring none; default `SamplingParams()`.

        Yields:
            A request's place in `requests`, and its answer or what was wrong with it, in the order
            in which they end: `dict(llm.generate_many(...))` finds them by place.
        """
        sessions = [self.new_session() for _ in range(self.parallel)]
        try:
            begun = (self._begin(request, params) for request in requests)
            for place, ended in generate_together(self.engine, sessions, begun):
                if isinstance(ended, Generation):
                    yield place, completion_of(ended, self.tokenizer)
                else:
                    yield place, ended
        finally:
            for session in sessions:
                session.close()

    def logits(self, ids: Sequence[int], phase: Phase = Phase.PROMPT) -> Logits:
        """Logits after each id, in a session of their own: (len(ids), n_vocab) float32.

        Args:
            ids: token ids, used as they are, at most `n_ctx`.
            phase: which kernels to use; `Phase.GENERATED` are those that generation runs.

        Raises:
            ContextError: more ids than the context has positions.
        """
        if len(ids) > self.n_ctx:
            raise ContextError(f"{len(ids)} ids do not fit the context of {self.n_ctx}")
        if len(ids) == 0:
            return np.empty((0, self.n_vocab), dtype=np.float32)
        session = self.new_session(len(ids))
        try:
            return session.eval(ids, phase, n_logits=len(ids))
        finally:
            session.close()

    def new_session(self, n_ctx: int | None = None) -> Session:
        """An empty session with this model's kind of KV cache, to evaluate ids without sampling.

        Args:
            n_ctx: positions that there is room for; default `self.n_ctx`.
        """
        return self.engine.session(self.n_ctx if n_ctx is None else n_ctx, self._kv_type)

    # ---- Inside ----

    def _choose_template(self, version: str | None) -> Recognition:
        if version is None:
            return recognise_template(self._file.vocabulary, self._file.name)
        make_template(self.tokenizer, version)  # raises where it cannot be used
        return Recognition(version, "as asked for")

    def _template_version(self) -> str:
        version, reason = self.chat_template
        if version is None:
            raise ChatError(
                f"this model's chat template is not known ({reason}); choose one "
                "(--chat-template), or complete the prompt as it is (--raw)"
            )
        return version

    @cached_property
    def _end_ids(self) -> list[int]:
        """Ids that end an answer besides EOS: ChatML's end is not always the file's EOS."""
        version = self.chat_template.version
        with suppress(ChatError):  # a template that cannot be used blocks chat alone
            return [make_template(self.tokenizer, version).end_id] if version else []
        return []

    def _answer(
        self,
        ids: list[int],
        params: SamplingParams | None,
        stream: bool,
        *,
        strip_leading_space: bool,
    ) -> Completion | CompletionStream:
        generation = self._generation(ids, params, strip_leading_space)
        result = CompletionStream(generation, self._run(generation), self.tokenizer)
        if stream:
            return result
        for _ in result:
            pass
        return result.completion

    def _generation(
        self, ids: list[int], params: SamplingParams | None, strip_leading_space: bool
    ) -> Generation:
        params = params or SamplingParams()
        return Generation(
            ids,
            replace(params, stop_ids=(*params.stop_ids, *self._end_ids)),
            self.tokenizer,
            self.n_ctx,
            strip_leading_space=strip_leading_space,
        )

    def _begin(
        self, request: str | Request, params: SamplingParams | None
    ) -> Generation | PymixtralError:
        """A request of `generate_many`, or why there is no answering it."""
        if isinstance(request, str):
            request = Request(request)
        is_chat = request.prompt is None
        try:
            if request.prompt is None:
                ids = self.encode_chat(request.messages or (), request.tools)
            else:
                ids = self._prompt_ids(request.prompt)
            return self._generation(ids, request.params or params, strip_leading_space=is_chat)
        except PymixtralError as error:
            return error

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenize(prompt, self._file.vocabulary.add_bos)
        return list(prompt)

    def _run(self, generation: Generation) -> Generator[str, None, None]:
        timeline = self._take_timeline()
        try:
            yield from generation.pieces(timeline)
        finally:
            self._give_back(timeline)

    def _take_timeline(self) -> Timeline:
        """The idle one, or a new one where another request has it."""
        with self._lock:
            timeline, self._idle = self._idle, None
        if timeline is not None:
            return timeline
        return Timeline(self.new_session(), self._reproducible)

    def _give_back(self, timeline: Timeline) -> None:
        """Keeps one timeline for the next request; of two, the one that finished last."""
        with self._lock:
            previous, self._idle = self._idle, timeline
        if previous is not None:
            previous.session.close()

    def close(self) -> None:
        """Cancel what runs and free the model. Closing twice is allowed."""
        self.engine.close()
        self._file.gguf.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
