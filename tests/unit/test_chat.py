import json
from pathlib import Path

import pytest
from reference import mistral_v1

from pymixtral.chat import Conversation, encode_chat
from pymixtral.errors import ChatError
from pymixtral.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "data" / "chat"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(mistral_v1.vocabulary())


def system(content: object) -> dict[str, object]:
    return {"role": "system", "content": content}


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def assistant(content: object, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": content, **more}


def text_chunk(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_the_worked_example(tokenizer: Tokenizer) -> None:
    ids = encode_chat(tokenizer, [user("Hello"), assistant("Hi there"), user("Bye")])
    question = [733, 16289, 28793]
    end = [733, 28748, 16289, 28793]
    answer = [15359, 736, 2]
    assert ids == [1, *question, 22557, *end, *answer, *question, 2463, 28706, *end]


def test_the_published_sample(tokenizer: Tokenizer) -> None:
    sample = json.loads((DATA / "no_tools" / "sample.json").read_text())
    expected = json.loads((DATA / "no_tools" / "tokens_v1.json").read_text())["tokens"]
    ids = encode_chat(tokenizer, sample["messages"], sample["tools"], version="v1")
    assert ids == expected
    text = (DATA / "no_tools" / "text_v1.txt").read_text()
    assert "".join(map(tokenizer.piece, ids)) == text


@pytest.mark.parametrize("name", ["get_weather_full", "parallel_calls"])
def test_samples_with_tools_are_refused(tokenizer: Tokenizer, name: str) -> None:
    sample = json.loads((DATA / name / "sample.json").read_text())
    with pytest.raises(ChatError, match="chat template v1 has no tools"):
        encode_chat(tokenizer, sample["messages"], sample["tools"])
    with pytest.raises(ChatError):
        encode_chat(tokenizer, sample["messages"])


MERGED = {
    "system prompt": ([system("S"), user("Q")], [("user", "S\n\nQ")]),
    "several system messages": (
        [system("S"), system("T"), user("Q"), system("U")],
        [("user", "S\n\nT\n\nU\n\nQ")],
    ),
    "system goes into the first turn": (
        [user("Q"), assistant("A"), user("R"), system("S")],
        [("user", "S\n\nQ"), ("assistant", "A"), ("user", "R")],
    ),
    "questions in a row": ([user("Q"), user(""), user("R")], [("user", "Q\n\nR")]),
    "answers in a row": (
        [user("Q"), assistant("A"), assistant("B"), user("R")],
        [("user", "Q"), ("assistant", "A\n\nB"), ("user", "R")],
    ),
    "system between questions": (
        [user("Q"), system("S"), user("R")],
        [("user", "S\n\nQ"), ("user", "R")],
    ),
    "answer first": (
        [system("S"), assistant("A"), user("Q")],
        [("user", "S\n\n"), ("assistant", "A"), ("user", "Q")],
    ),
    "only system": ([system("S")], [("user", "S\n\n")]),
    "empty question": ([user("")], [("user", "")]),
    "chunks": ([user([text_chunk("Q"), text_chunk("R")])], [("user", "Q\n\nR")]),
    "no tool calls": (
        [user("Q"), assistant("A", tool_calls=None), assistant("B", tool_calls=[]), user("R")],
        [("user", "Q"), ("assistant", "A\n\nB"), ("user", "R")],
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_merging(tokenizer: Tokenizer, case: str) -> None:
    messages, turns = MERGED[case]
    expected = [1]
    for role, text in turns:
        if role == "user":
            expected += tokenizer.encode(f"[INST] {text} [/INST]")
        else:
            expected += [*tokenizer.encode(text), 2]
    assert encode_chat(tokenizer, messages) == expected


REFUSED = {
    "no messages": ([], "messages: empty"),
    "answer last": ([user("Q"), assistant("A")], "message 1: the last must be a question"),
    "answer alone": ([assistant("A")], "message 0: the last must be a question"),
    "system after answer": (
        [user("Q"), assistant("A"), system("S"), user("R")],
        "message 2: a system message cannot follow an assistant message",
    ),
    "empty answer": ([user("Q"), assistant(""), user("R")], "message 1: .* cannot be empty"),
    "empty chunk": (
        [user("Q"), assistant([text_chunk("")]), user("R")],
        "an assistant message cannot be empty",
    ),
    "answer without content": (
        [user("Q"), {"role": "assistant"}, user("R")],
        "message 1: content must be a str",
    ),
    "unknown role": ([{"role": "tool", "content": "x"}], "message 0: role 'tool' is unknown"),
    "no role": ([{"content": "x"}], "message 0: role None is unknown"),
    "strange role": ([{"role": ["user"], "content": "x"}], "message 0: role .* is unknown"),
    "unknown key": ([{**user("Q"), "name": "x"}], "message 0: unknown key 'name'"),
    "prefix": ([user("Q"), assistant("A", prefix=True)], "message 1: unknown key 'prefix'"),
    "tool calls": (
        [user("Q"), assistant("A", tool_calls=[{}]), user("R")],
        "message 1: chat template v1 has no tools",
    ),
    "number": ([user(1)], "message 0: content must be a str or a list"),
    "image": ([user([{"type": "image_url", "image_url": ""}])], "message 0: each chunk"),
    "chunk of a number": ([user([{"type": "text", "text": 1}])], "message 0: each chunk"),
    "text for messages": ("Hello", "message 0: is a str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tokenizer: Tokenizer, case: str) -> None:
    messages, error = REFUSED[case]
    with pytest.raises(ChatError, match=error):
        encode_chat(tokenizer, messages)


def test_unknown_version(tokenizer: Tokenizer) -> None:
    with pytest.raises(ChatError, match="chat template 'v3' does not exist; there is v1"):
        encode_chat(tokenizer, [user("Q")], version="v3")


def test_a_vocabulary_without_bos(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "bos_id", None)
    with pytest.raises(ChatError, match="lacks a bos or eos token"):
        encode_chat(tokenizer, [user("Q")])
    with pytest.raises(ChatError, match="lacks a bos or eos token"):
        Conversation(tokenizer)


def test_conversation_equals_encode_chat(tokenizer: Tokenizer) -> None:
    conversation = Conversation(tokenizer, system="S")
    conversation.add_user("Q")
    assert conversation.ids == encode_chat(tokenizer, [system("S"), user("Q")])
    conversation.add_answer_ids(tokenizer.encode("A"))
    conversation.add_user("R")
    messages = [system("S"), user("Q"), assistant("A"), user("R")]
    assert conversation.ids == encode_chat(tokenizer, messages)
    assert conversation.n_turns == 2


def test_conversation_keeps_generated_ids(tokenizer: Tokenizer) -> None:
    generated = [22557, 28705, 28705]  # encoding " Hello  " gives other ids
    conversation = Conversation(tokenizer)
    question = conversation.add_user("Q")
    assert conversation.ids == [1, *question]
    conversation.add_answer_ids(generated)
    assert conversation.ids == [1, *question, *generated, 2]
    second = conversation.add_user("R")
    assert conversation.ids == [1, *question, *generated, 2, *second]


def test_conversation_closes_an_answer_once(tokenizer: Tokenizer) -> None:
    for answer in ([], [2], [22557], [22557, 2]):
        conversation = Conversation(tokenizer)
        question = conversation.add_user("Q")
        conversation.add_answer_ids(answer)
        assert conversation.ids == [1, *question, *(i for i in answer if i != 2), 2]


def test_conversation_drops_the_oldest_turn(tokenizer: Tokenizer) -> None:
    conversation = Conversation(tokenizer, system="S")
    for question in ("Q", "R", "T"):
        conversation.add_user(question)
        if question != "T":
            conversation.add_answer_ids(tokenizer.encode("A"))
    conversation.drop_oldest_turn()
    messages = [system("S"), user("R"), assistant("A"), user("T")]
    assert conversation.ids == encode_chat(tokenizer, messages)
    conversation.drop_oldest_turn()
    assert conversation.ids == encode_chat(tokenizer, [system("S"), user("T")])
    with pytest.raises(ChatError, match="only one turn is left"):
        conversation.drop_oldest_turn()


def test_conversation_retracts_a_question(tokenizer: Tokenizer) -> None:
    conversation = Conversation(tokenizer, system="S")
    conversation.add_user("Q")
    conversation.retract_question()
    assert conversation.ids == [1]
    conversation.add_user("R")
    assert conversation.ids == encode_chat(tokenizer, [system("S"), user("R")])


def test_conversation_refuses_what_is_out_of_turn(tokenizer: Tokenizer) -> None:
    conversation = Conversation(tokenizer)
    for premature in (lambda: conversation.add_answer_ids([5]), conversation.retract_question):
        with pytest.raises(ChatError, match="no question awaits an answer"):
            premature()
    conversation.add_user("Q")
    with pytest.raises(ChatError, match="the question before has no answer"):
        conversation.add_user("R")
