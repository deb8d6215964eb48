"""Chat template v1 against mistral-common: the same ids, or refused by both."""

import operator
from itertools import chain, groupby
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from pydantic import ValidationError
from reference import mistral_v1

from pymixtral.chat import Conversation, encode_chat
from pymixtral.errors import ChatError
from pymixtral.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(mistral_v1.vocabulary())


@pytest.fixture(scope="module")
def reference() -> MistralTokenizer:
    return MistralTokenizer.v1()


snippets = ["</s>", "<s>", "[INST]", " [/INST]", "<|im_start|>", "<0x0A>", " ", "\n", "▁", "é語🧿"]
full_texts = st.text(min_size=1) | st.lists(
    st.sampled_from([*snippets, "the", "a"]), min_size=1
).map("".join)
texts = st.just("") | full_texts
contents = texts | st.lists(texts.map(lambda text: {"type": "text", "text": text}), max_size=3)


def message(role: str, content: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"role": st.just(role), "content": content})


systems = st.lists(message("system", contents), max_size=2)
questions = st.lists(message("system", contents) | message("user", contents), max_size=2)
asked = st.tuples(message("user", contents), questions).map(lambda parts: [parts[0], *parts[1]])
answered = st.lists(message("assistant", full_texts), min_size=1, max_size=2)
turns = st.lists(st.builds(operator.add, asked, answered), max_size=3).map(
    lambda turns: list(chain(*turns))
)
usual_order = st.tuples(systems, turns, asked).map(lambda parts: list(chain(*parts)))
any_order = st.lists(
    st.sampled_from(["system", "user", "assistant", "tool"]).flatmap(
        lambda role: message(role, contents)
    ),
    max_size=6,
)


def encode_by_reference(reference: MistralTokenizer, messages: list[dict[str, Any]]) -> list[int]:
    request = ChatCompletionRequest.model_validate({"messages": messages})
    return reference.encode_chat_completion(request).tokens


@given(usual_order | any_order)
def test_equal_to_mistral_common(
    tokenizer: Tokenizer, reference: MistralTokenizer, messages: list[dict[str, Any]]
) -> None:
    try:
        expected = encode_by_reference(reference, messages)
    except (MistralCommonException, ValidationError):
        event("refused")
        with pytest.raises(ChatError):
            encode_chat(tokenizer, messages)
    else:
        event("encoded")
        assert encode_chat(tokenizer, messages) == expected


@given(usual_order)
def test_messages_hold_no_control_token(
    tokenizer: Tokenizer, messages: list[dict[str, Any]]
) -> None:
    ids = encode_chat(tokenizer, messages)
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.bos_id) == 1
    n_answers = sum(role == "assistant" for role, _ in groupby(m["role"] for m in messages))
    assert ids.count(tokenizer.eos_id) == n_answers


generated = st.lists(st.integers(3, 31999), max_size=5)


@given(texts, st.lists(st.tuples(texts, generated), min_size=1, max_size=4))
def test_a_conversation_only_grows(
    tokenizer: Tokenizer, system: str, turns: list[tuple[str, list[int]]]
) -> None:
    conversation = Conversation(tokenizer, system)
    before = conversation.ids
    for question, answer in turns:
        added = conversation.add_user(question)
        assert conversation.ids == before + added
        conversation.add_answer_ids(answer)
        assert conversation.ids == before + added + answer + [tokenizer.eos_id]
        before = conversation.ids
