"""Chat template v1, what all templates refuse, and conversations that grow."""

import json
from pathlib import Path

import pytest
from messages import assistant, calling, result, system, text_chunk, user
from reference import mistral

from pymixtral.chat import Conversation, encode_chat
from pymixtral.errors import ChatError, ParameterError
from pymixtral.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "data" / "chat"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(mistral.vocabulary())


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
def test_v1_has_no_tools(tokenizer: Tokenizer, name: str) -> None:
    sample = json.loads((DATA / name / "sample.json").read_text())
    with pytest.raises(ChatError, match="chat template v1 has no tools"):
        encode_chat(tokenizer, sample["messages"], sample["tools"])
    with pytest.raises(ChatError, match="message .: chat template v1 has no tools"):
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
    "empty system messages": (
        [system(""), system([]), system([text_chunk("")]), system("S"), user("Q")],
        [("user", "\n\nS\n\nQ")],
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
        "message 2: role 'system' cannot follow 'assistant'",
    ),
    "empty answer": ([user("Q"), assistant(""), user("R")], "message 1: .* cannot be empty"),
    "empty chunk": (
        [user("Q"), assistant([text_chunk("")]), user("R")],
        "an assistant message cannot be empty",
    ),
    "answer without content": (
        [user("Q"), {"role": "assistant"}, user("R")],
        "message 1: an assistant message cannot be empty",
    ),
    "question without content": ([{"role": "user"}], "message 0: content must be a str"),
    "unknown role": ([{"role": "bot", "content": "x"}], "message 0: role 'bot' is unknown"),
    "no role": ([{"content": "x"}], "message 0: role None is unknown"),
    "strange role": ([{"role": ["user"], "content": "x"}], "message 0: role .* is unknown"),
    "unknown key": ([{**user("Q"), "name": "x"}], "message 0: unknown key 'name'"),
    "prefix": ([user("Q"), assistant("A", prefix=True)], "message 1: unknown key 'prefix'"),
    "tool calls": ([user("Q"), calling({}), user("R")], "message 1: .* v1 has no tools"),
    "tool result": ([user("Q"), result("x")], "message 1: .* v1 has no tools"),
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
    known = "v1, v2, v3, v7, chatml"
    with pytest.raises(ChatError, match=f"chat template 'v4' does not exist; there is {known}"):
        encode_chat(tokenizer, [user("Q")], version="v4")


def test_a_vocabulary_without_bos(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "bos_id", None)
    with pytest.raises(ChatError, match="lacks a bos or eos token"):
        encode_chat(tokenizer, [user("Q")])
    with pytest.raises(ChatError, match="lacks a bos or eos token"):
        Conversation(tokenizer)


def test_a_vocabulary_without_control_tokens(tokenizer: Tokenizer) -> None:
    for version, token in (("v3", r"\[INST\]"), ("chatml", r"<\|im_start\|>")):
        error = f"no control token {token}, which chat template {version} needs"
        with pytest.raises(ChatError, match=error):
            encode_chat(tokenizer, [user("Q")], version=version)


# ---- Conversations that grow ----

VERSIONS = ("v1", "v2", "v3", "v7", "chatml")


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def versed(version: str) -> Tokenizer:
    """A tokenizer that has the version's tokens."""
    return mistral.tokenizer(version)


def test_conversation_equals_encode_chat(versed: Tokenizer, version: str) -> None:
    conversation = Conversation(versed, system="S", version=version)
    conversation.add_user("Q")
    assert conversation.ids == encode_chat(versed, [system("S"), user("Q")], version=version)
    conversation.add_answer_ids(answer_ids(versed, version, "A"))
    conversation.add_user("R")
    messages = [system("S"), user("Q"), assistant("A"), user("R")]
    assert conversation.ids == encode_chat(versed, messages, version=version)
    assert conversation.n_turns == 2


def answer_ids(tokenizer: Tokenizer, version: str, text: str) -> list[int]:
    """What a model generates that says `text`."""
    if version != "chatml":
        return tokenizer.encode(text)
    before = tokenizer.encode("assistant\n")  # has the space in front, which the answer has not
    ids = tokenizer.encode(f"assistant\n{text}")
    assert ids[: len(before)] == before
    return ids[len(before) :]


def test_conversation_keeps_generated_ids(versed: Tokenizer, version: str) -> None:
    generated = [22557, 28705, 28705]  # no text encodes to these
    conversation = Conversation(versed, version=version)
    conversation.add_user("Q")
    question = conversation.ids
    conversation.add_answer_ids(generated)
    answered = conversation.ids
    assert answered[:-1] == [*question, *generated]
    assert versed.piece(answered[-1]) == ("<|im_end|>" if version == "chatml" else "</s>")
    conversation.add_user("R")
    assert conversation.ids[: len(answered)] == answered


def test_conversation_closes_an_answer_once(versed: Tokenizer, version: str) -> None:
    end_id = versed.control_id("<|im_end|>") if version == "chatml" else 2
    for answer in ([], [end_id], [22557], [22557, end_id]):
        conversation = Conversation(versed, version=version)
        conversation.add_user("Q")
        question = conversation.ids
        conversation.add_answer_ids(answer)
        assert conversation.ids == [*question, *(i for i in answer if i != end_id), end_id]


def test_conversation_drops_the_oldest_turn(versed: Tokenizer, version: str) -> None:
    conversation = Conversation(versed, system="S", version=version)
    for question in ("Q", "R", "T"):
        conversation.add_user(question)
        if question != "T":
            conversation.add_answer_ids(answer_ids(versed, version, "A"))
    least = encode_chat(versed, [system("S"), user("T")], version=version)
    assert conversation.least_ids == least
    conversation.drop_oldest_turn()
    messages = [system("S"), user("R"), assistant("A"), user("T")]
    assert conversation.ids == encode_chat(versed, messages, version=version)
    conversation.drop_oldest_turn()
    assert conversation.ids == least
    with pytest.raises(ChatError, match="only one turn is left"):
        conversation.drop_oldest_turn()
    conversation.add_answer_ids([22557])
    assert conversation.least_ids == conversation.ids


def test_conversation_retracts_a_question(versed: Tokenizer, version: str) -> None:
    conversation = Conversation(versed, system="S", version=version)
    before = conversation.ids
    conversation.add_user("Q")
    conversation.retract_question()
    assert conversation.ids == before
    conversation.add_user("R")
    expected = encode_chat(versed, [system("S"), user("R")], version=version)
    assert conversation.ids == expected


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_conversation_refuses_a_text_at_once(tokenizer: Tokenizer, text: str) -> None:
    conversation = Conversation(tokenizer)
    with pytest.raises(ParameterError, match="lone surrogate"):
        conversation.add_user(text)
    assert conversation.n_turns == 0


def test_conversation_refuses_what_is_out_of_turn(tokenizer: Tokenizer) -> None:
    conversation = Conversation(tokenizer)
    for premature in (lambda: conversation.add_answer_ids([5]), conversation.retract_question):
        with pytest.raises(ChatError, match="no question awaits an answer"):
            premature()
    conversation.add_user("Q")
    with pytest.raises(ChatError, match="the question before has no answer"):
        conversation.add_user("R")
