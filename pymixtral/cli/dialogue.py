"""The model's side of `pymixtral chat`: a conversation, and what can be done with it."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pymixtral.chat import SavedChat, read_saved_chat
from pymixtral.cli.console import Console
from pymixtral.completion import CompletionStream
from pymixtral.errors import ChatError, ContextError
from pymixtral.formats.errors import one_line
from pymixtral.generate import check_prompt
from pymixtral.llm import LLM
from pymixtral.sampling import SamplingParams


class Chat:
    """A conversation that makes room for itself.

    Args:
        can_forget: drop the oldest turns when the context is full; otherwise that is an error.
    """

    def __init__(
        self, console: Console, llm: LLM, params: SamplingParams, *, can_forget: bool
    ) -> None:
        self.can_forget = can_forget
        self._console = console
        self._llm = llm
        self._params = params
        self._seed = secrets.randbits(64) if params.seed is None else params.seed
        self._system: str | None = None
        self.reset()

    def reset(self) -> None:
        """Forget every turn."""
        self._conversation = self._llm.new_conversation(self._system)

    def set_system(self, text: str) -> None:
        """Begin anew with a system prompt, or with "" without one."""
        self._system = text or None
        self.reset()

    def undo(self) -> str:
        """Take back the last question and its answer; returns the question.

        Raises:
            ChatError: there is none.
        """
        return self._conversation.drop_last_turn()

    def regenerate(self) -> None:
        """Show another answer to the last question; it takes the place of the one before.

        Raises:
            ChatError: there is no such question.
            As `ask`.
        """
        answered = self._conversation.answered
        question = self._conversation.drop_last_turn()
        self.ask(question, old_answer_ids=answered[-1][1])

    def save(self, path: Path) -> int:
        """Write the conversation to a file; returns how many turns it has.

        Raises:
            ChatError: there is another kind of file at `path`.
            OSError: it cannot be written.
        """
        saved = SavedChat(
            model=self._llm.file.fingerprint,
            template=str(self._llm.chat_template.version),
            system=self._system,
            turns=tuple(self._conversation.answered),
            seed=self._seed,
        )
        saved.write(path)
        return len(saved.turns)

    def load(self, path: Path) -> int:
        """Go on with a saved conversation; returns how many turns it has.

        Raises:
            FormatError: the file is no saved chat, or a damaged one.
            ChatError: it was saved with another model or chat template.
            OSError: it cannot be read.
        """
        saved = read_saved_chat(path, self._llm.file.fingerprint, self._llm.n_vocab)
        if saved.template != self._llm.chat_template.version:
            raise ChatError(
                f"{path} was saved with chat template {one_line(saved.template)}; start the chat "
                "with it (--chat-template)"
            )
        conversation = self._llm.new_conversation(saved.system)
        for question, answer_ids in saved.turns:
            conversation.add_user(question)
            conversation.add_answer_ids(answer_ids)
        self._conversation, self._system, self._seed = conversation, saved.system, saved.seed
        return len(saved.turns)

    def ask(self, question: str, old_answer_ids: Sequence[int] = ()) -> None:
        """Show the answer to a question. Ctrl-C ends it early.

        Args:
            old_answer_ids: stay the answer if there is no new one.

        Raises:
            ContextError: question and answer do not fit the context.
            ParameterError: the question is no text that can be encoded.
        """
        self._conversation.add_user(question)
        answer_ids: list[int] = []
        try:
            n_least = len(self._conversation.least_ids)
            check_prompt(n_least, self._llm.n_ctx)  # before anything is forgotten
            with closing(self._pieces(answer_ids)) as pieces:
                for piece in pieces:
                    self._console.answer(piece)
        except KeyboardInterrupt:
            self._console.note("(stopped)")
        finally:
            self._console.end_line()
            if answer_ids or old_answer_ids:
                self._conversation.add_answer_ids(answer_ids or old_answer_ids)
            else:
                self._conversation.retract_question()

    def _pieces(self, answer_ids: list[int]) -> Generator[str, None, None]:
        """The answer's pieces, whose ids are appended to `answer_ids` however it ends."""
        while True:
            self._make_room(len(answer_ids))
            stream = self._stream(answer_ids)
            try:
                yield from stream
            finally:
                stream.close()
                answer_ids += stream.token_ids
                self._seed = stream.sampler_state
            if not self._is_cut_off(stream, len(answer_ids)):
                return

    def _stream(self, answer_ids: list[int]) -> CompletionStream:
        """The answer from its beginning, or from where the context became full."""
        ids = self._conversation.ids + answer_ids
        params = replace(self._params, seed=self._seed)  # each answer goes on where the last ended
        if not answer_ids:
            return self._llm.answer(ids, params, stream=True)
        n_left = params.max_tokens and params.max_tokens - len(answer_ids)
        return self._llm.generate(ids, replace(params, max_tokens=n_left), stream=True)

    def _is_cut_off(self, stream: CompletionStream, n_answer: int) -> bool:
        """Whether the full context ended the answer, and making room would let it go on."""
        n_tokens = len(self._conversation.ids) + n_answer
        is_ended = stream.completion.finish_reason == "stop" or n_answer == self._params.max_tokens
        if is_ended or n_tokens < self._llm.n_ctx:
            return False
        if self._conversation.n_turns == 1 and self.can_forget:
            self._console.note("(the context is full: the answer ends here)")
            return False
        return True

    def _make_room(self, n_answer: int) -> None:
        """If the context is full, forgets turns until a quarter of it is free.

        A turn at a time would not do: each time, the whole rest has to be read again.
        """
        conversation, n_ctx = self._conversation, self._llm.n_ctx
        if len(conversation.ids) + n_answer < n_ctx:
            return
        if not self.can_forget:
            raise ContextError(
                f"the conversation fills the context of {n_ctx} tokens; raise it (--ctx), or leave "
                "out --no-shift"
            )
        n_forgotten = 0
        while conversation.n_turns > 1 and len(conversation.ids) + n_answer > n_ctx * 3 // 4:
            conversation.drop_oldest_turn()
            n_forgotten += 1
        turns = "turn" if n_forgotten == 1 else f"{n_forgotten} turns"
        self._console.note(f"(the context of {n_ctx} tokens is full: forgot the oldest {turns})")
