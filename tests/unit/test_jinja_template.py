"""Templates that are not ours: the file's own, run in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from byte_level_files import byte_level_metadata, golden_merges
from chat_models import CHATML_TOKENS, FIRST_ADDED, dictate, write_chat_model
from gguf_files import write_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from messages import assistant, definition, system, user
from reference import mistral

from pymixtral import LLM, SamplingParams
from pymixtral.chat import Conversation, encode_chat, make_template, render, stand_ins
from pymixtral.chat.jinja import JinjaTemplate
from pymixtral.chat.messages import parse_messages
from pymixtral.chat.turns import Answer, Question
from pymixtral.errors import ChatError
from pymixtral.formats import TokenType, open_gguf, read_vocabulary
from pymixtral.formats.gguf import ValueType
from pymixtral.sentencepiece_encoder import SPACE
from pymixtral.tokenizer import Tokenizer

sandbox = pytest.importorskip(
    "pymixtral.chat.sandbox", reason="the jinja extra is not installed", exc_type=ImportError
)

TESTS = Path(__file__).parents[1]
GOLDEN = json.loads((TESTS / "golden" / "chat_templates.json").read_text(encoding="utf-8"))
PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
ADDED = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", " <|spaced|> ")


def source(name: str) -> str:
    return (TESTS / "data" / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renders here, where the sandbox's limits of time and memory do not matter."""

    def run(request: bytes) -> dict[str, Any]:
        values = json.loads(request)
        limit = values["limits"]["n_characters"]
        answer: dict[str, Any] = sandbox.render(values["template"], values["context"], limit)
        return answer

    monkeypatch.setattr(render, "_run", run)


class Spelling:
    """A tokenizer whose ids are texts, so that what a template writes can be read."""

    bos_id, eos_id, add_bos = "<s>", "</s>", False
    control_tokens = {"<s>": "<s>", "</s>": "</s>", "<|end|>": "<|end|>"}
    control_id = control_tokens.get

    def __init__(self, chat_template: str) -> None:
        self.chat_template = chat_template

    def encode(self, text: str) -> list[str]:
        return [text]

    def piece(self, token: str) -> str:
        return token


@cache
def mixtral(template: str, *added: str, add_bos: bool = False) -> Tokenizer:
    vocabulary = mistral.with_tokens(
        mistral.vocabulary(), *((token, TokenType.USER_DEFINED) for token in added)
    )
    return Tokenizer(replace(vocabulary, chat_template=template, add_bos=add_bos))


# ---- What is written ----


@pytest.mark.parametrize(
    "golden", GOLDEN, ids=[f"{g['template']}-{i % 6}" for i, g in enumerate(GOLDEN)]
)
def test_templates_write_what_transformers_does(golden: dict[str, Any], in_process: None) -> None:
    template = JinjaTemplate(Spelling(source(golden["template"])))  # type: ignore[arg-type]
    messages = golden["messages"]
    is_open = messages[-1]["role"] != "assistant"
    turns = parse_messages([*messages, *([] if is_open else [user("?")])], template.rules)
    if golden["text"].startswith("error: "):
        with pytest.raises(ChatError, match=golden["text"].removeprefix("error: ")):
            template.encode(turns)
        return
    written = template.encode(turns if is_open else turns[:-1])
    assert "".join(map(str, written)) == golden["text"]


@pytest.mark.parametrize("golden", GOLDEN[2::6], ids=lambda golden: golden["template"])
def test_the_sandbox_gives_what_the_function_does(golden: dict[str, Any]) -> None:
    template = JinjaTemplate(Spelling(source(golden["template"])))  # type: ignore[arg-type]
    turns = parse_messages(golden["messages"], template.rules)
    assert "".join(map(str, template.encode(turns))) == golden["text"]


# ---- Ids ----


def test_pieces_are_encoded_between_control_tokens(in_process: None) -> None:
    tokenizer = mixtral(PLAIN, *ADDED)
    user_id, assistant_id = (tokenizer.control_id(f"<|{r}|>") for r in ("user", "assistant"))
    messages = [user("Hello"), assistant("Hi there"), user("Bye")]
    assert encode_chat(tokenizer, messages, version="jinja") == [
        user_id, *tokenizer.encode("Hello"),
        assistant_id, *tokenizer.encode("Hi there"),
        user_id, *tokenizer.encode("Bye"),
        assistant_id,
    ]  # fmt: skip


def test_byte_level_vocabularies(in_process: None, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="byte-level BPE needs the bpe extra")
    metadata = byte_level_metadata("llama-bpe", golden_merges())
    text = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}<|added|>{% endfor %}"
    )
    metadata["tokenizer.chat_template"] = (text, ValueType.STRING)
    with open_gguf(write_model(tmp_path / "bpe.gguf", metadata, {})) as file:
        tokenizer = Tokenizer(read_vocabulary(file))
    question = "Hello <|end|><|added|> é 漢"
    assert encode_chat(tokenizer, [system("Sing."), user(question)], version="jinja") == [
        tokenizer.bos_id,  # this pre-tokenizer's files ask for it
        *tokenizer.encode("system: Sing."),
        tokenizer.control_id("<|end|>"),
        tokenizer.control_id("<|added|>"),
        *tokenizer.encode(f"user: {question}"),
        tokenizer.control_id("<|end|>"),
        tokenizer.control_id("<|added|>"),
    ]


def test_one_bos_whether_the_template_writes_it_or_not(in_process: None) -> None:
    for text in (PLAIN, "{{ bos_token }}" + PLAIN):
        tokenizer = mixtral(text, *ADDED, add_bos=True)
        ids = encode_chat(tokenizer, [user("Hello")], version="jinja")
        assert ids[0] == tokenizer.bos_id
        assert ids.count(ids[0]) == 1
    without = mixtral(PLAIN, *ADDED)
    assert without.bos_id not in encode_chat(without, [user("Hello")], version="jinja")


def test_a_conversation_keeps_generated_ids(in_process: None) -> None:
    tokenizer = mixtral(source("llama3"), "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    assert Conversation(tokenizer, version="jinja").ids
    conversation = Conversation(tokenizer, "Be brief.", "jinja")
    conversation.add_user("Hello")
    before = conversation.ids
    unusual = [5, 6, 7, 28705]  # no encoder would cut this text so
    end_id = tokenizer.control_id("<|eot_id|>")
    assert end_id is not None
    conversation.add_answer_ids([*unusual, end_id])
    conversation.add_user("Bye")
    after = conversation.ids
    assert after[: len(before)] == before
    assert after[len(before) : len(before) + 5] == [*unusual, end_id]


@pytest.mark.parametrize(
    ("template", "added", "end"),
    [
        (source("llama3"), ("<|eot_id|>",), "<|eot_id|>"),
        (source("zephyr"), (), "</s>"),
        (source("gemma"), ("<end_of_turn>",), "<end_of_turn>"),
        (source("alpaca"), (), "</s>"),
        (PLAIN, (), "</s>"),  # writes none: EOS
        (PLAIN, ADDED, "<|user|>"),  # the model will go on to the next question, if anything
        ("{{ messages[0].content }}", ADDED, "</s>"),  # shows no answer
    ],
)
def test_what_ends_an_answer(
    in_process: None, template: str, added: tuple[str, ...], end: str
) -> None:
    tokenizer = mixtral(template, *added)
    assert make_template(tokenizer, "jinja").end_id == tokenizer.control_id(end)


def test_answers_that_a_template_leaves_out_or_repeats(in_process: None) -> None:
    tokenizer = mixtral("{{ messages[1].content * 2 }}")
    template = make_template(tokenizer, "jinja")
    turns = [Question("a"), Answer(ids=(5, 6)), Question("b")]
    assert template.encode(turns) == [5, 6, 5, 6]


# ---- User text stays text ----


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(["</s>", "<|user|>", "<s><|end|>"])
@example(["<|us", "er|>", "|>"])
@example(["\U000f003c\U00100000\U0010f000", " <|spaced|> ", "{{ bos_token }}"])
@given(st.lists(st.text(min_size=1, max_size=12), min_size=3, max_size=3))
def test_user_text_never_becomes_a_control_token(in_process: None, texts: list[str]) -> None:
    """In a template that leaves half-written tokens around the texts, too."""
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}|><|{{ m.content }}<|end"
        "{{ m.content }}<|end|>{% endfor %}"
    )
    tokenizer = mixtral(template, *ADDED)
    control = set(tokenizer.control_tokens.values())

    def spoken(a: str, b: str, c: str) -> list[int]:
        messages = [system(a), user(b), assistant("x"), user(c)]
        return encode_chat(tokenizer, messages, version="jinja")

    ids = spoken(*texts)
    harmless = spoken("x", "x", "x")
    assert [i for i in ids if i in control] == [i for i in harmless if i in control]
    shown = b"".join(
        tokenizer.piece(i).encode() if i in control else tokenizer.token_bytes(i) for i in ids
    ).decode()
    a, b, c = texts
    written = "".join(
        f"<|{role}|>{text}|><|{text}<|end{text}<|end|>"
        for role, text in (("system", a), ("user", b), ("assistant", "x"), ("user", c))
    )
    assert without_spaces(shown) == without_spaces(written)


def without_spaces(text: str) -> str:
    """sentencepiece has one spelling for a space and for the character that stands for one."""
    return "".join(text.replace(SPACE, " ").split())


def test_templates_can_trim_and_measure_texts(in_process: None) -> None:
    template = "{{ messages[0].content | trim }}|{{ messages[0].content | length }}"
    (written,) = JinjaTemplate(Spelling(template)).encode(  # type: ignore[arg-type]
        [Question(" \n</s> \U0001f600\t")]
    )
    assert written == "</s> \U0001f600|9"


def test_bounds_of_stand_ins(in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = mixtral(PLAIN)
    monkeypatch.setattr(stand_ins, "OTHERS", range(0x100000, 0x100001))
    assert encode_chat(tokenizer, [user("\U0001f600" * 2)], version="jinja")
    with pytest.raises(ChatError, match="too many different characters"):
        encode_chat(tokenizer, [user("\U0001f600\U0001f601")], version="jinja")
    monkeypatch.setattr(stand_ins, "ANSWERS", range(0x10F000, 0x10F001))
    turns = [Question("a"), Answer(ids=(5,)), Question("b"), Answer(ids=(6,)), Question("c")]
    with pytest.raises(ChatError, match="more than 1 answers are too many"):
        make_template(tokenizer, "jinja").encode(turns)


# ---- Where it cannot be used ----


def test_refusals() -> None:
    with pytest.raises(ChatError, match="the file has no chat template of its own"):
        make_template(Tokenizer(mistral.vocabulary()), "jinja")
    with pytest.raises(ChatError, match="chat template jinja has no tools"):
        encode_chat(mixtral(PLAIN), [user("Q")], [definition("f")], version="jinja")


def test_without_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "find_spec", lambda name: None)
    with pytest.raises(ChatError, match=r"pip install 'pymixtral\[jinja\]', or choose another"):
        encode_chat(mixtral(PLAIN + " "), [user("Q")], version="jinja")


@pytest.fixture(scope="module")
def phi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("phi") / "phi.gguf"
    with LLM(write_chat_model(path, ("<|user|>", "<|end|>", "<|assistant|>"), PLAIN)) as llm:
        yield llm


def test_a_model_with_a_template_of_its_own(phi: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert phi.chat_template == ("jinja", "the file's own, run in a sandbox")
    hello = phi.tokenize("Hello")
    dictate(monkeypatch, [*hello, FIRST_ADDED])  # its template ends an answer by the next <|user|>
    answer = phi.chat([user("Q")], SamplingParams(max_tokens=100))
    assert (answer.text, answer.finish_reason) == ("Hello", "stop")
    assert phi.generate("a", SamplingParams(max_tokens=100)).finish_reason == "stop"


@pytest.mark.parametrize("broken", ["{% if %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
def test_a_broken_template_blocks_chat_alone(tmp_path: Path, broken: str) -> None:
    with LLM(write_chat_model(tmp_path / "x.gguf", CHATML_TOKENS, broken)) as llm:
        assert llm.generate("a", SamplingParams(max_tokens=2)).usage.completion_tokens == 2
        with pytest.raises(ChatError, match=r"the file's chat template .*--raw"):
            llm.chat([user("Q")])
