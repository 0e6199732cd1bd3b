"""Prompts in the forms that people keep them in; what holds none is skipped, counted and told, up to a share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eda_service.errors import DatasetInvalidError
from eda_service.selfgen.prompts import Prompt, read_jsonl
from eda_service.selfgen.row_error import RowError
from eda_service.selfgen.row_forms import read_form
from eda_service.selfgen.skipped_rows import SkippedRows


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


FORMS: dict[str, tuple[dict[str, Any], list[dict[str, str]], str | None]] = {
    "messages": ({"messages": [user("q")]}, [user("q")], None),
    "a file that was tuned on": ({"messages": [user("q"), assistant("a")]}, [user("q")], "a"),
    "its last answer alone is dropped": (
        {"messages": [system("s"), user("q"), assistant("a"), user("r"), assistant("b")]},
        [system("s"), user("q"), assistant("a"), user("r")],
        "b",
    ),
    "its own reference wins": ({"messages": [user("q"), assistant("a")], "reference": "b"}, [user("q")], "b"),
    "prompt": ({"prompt": "q"}, [user("q")], None),
    "prompt and completion": ({"prompt": "q", "completion": "a"}, [user("q")], "a"),
    "TRL": ({"prompt": [system("s"), user("q")]}, [system("s"), user("q")], None),
    "TRL, prompt and completion": ({"prompt": [user("q")], "completion": [assistant("a")]}, [user("q")], "a"),
    "TRL, a preference": (
        {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        [user("q")],
        "a",
    ),
    "TRL, a preference of texts": ({"prompt": "q", "chosen": "a", "rejected": "b"}, [user("q")], "a"),
    "UltraFeedback": (
        {"prompt": "q", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        [user("q")],
        "a",
    ),
    "LLaMA-Factory, a preference": (
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}},
        [user("q")],
        "a",
    ),
    "KTO, wanted": ({"prompt": "q", "completion": "a", "label": True}, [user("q")], "a"),
    "KTO, not wanted": ({"prompt": "q", "completion": "a", "label": False}, [user("q")], None),
    "OpenAI, a weight": ({"messages": [user("q"), {**assistant("a"), "weight": 0}]}, [user("q")], "a"),
    "OpenAI, a preference": (
        {"input": {"messages": [user("q")]}, "preferred_output": [assistant("a")], "non_preferred_output": []},
        [user("q")],
        "a",
    ),
    "OpenAI, a batch": (
        {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [user("q")]}},
        [user("q")],
        None,
    ),
    "OpenAI, a name": ({"messages": [{**user("q"), "name": "ann"}]}, [{**user("q"), "name": "ann"}], None),
    "messages as their JSON text": ({"messages": json.dumps([user("q"), assistant("a")])}, [user("q")], "a"),
    "an empty answer at the end": ({"messages": [user("q"), assistant("")]}, [user("q")], None),
    "an empty system prompt": ({"messages": [system(""), user("q")]}, [system(""), user("q")], None),
    "the user twice": ({"messages": [user("q"), user("r")]}, [user("q"), user("r")], None),
    "roles of others": (
        {"dialog": [{"role": "Human", "text": "q"}, {"role": "Bot", "text": "a"}]},
        [user("q")],
        "a",
    ),
    "ShareGPT of old": (
        {"conversations": [{"from": "human", "text": "q"}, {"from": "bing", "text": "a"}]},
        [user("q")],
        "a",
    ),
    "UltraChat": ({"id": "0", "data": ["q", "a", "r", "b"]}, [user("q"), assistant("a"), user("r")], "b"),
    "XTuner": (
        {"conversation": [{"system": "s", "input": "q", "output": "a"}, {"input": "r", "output": "b"}]},
        [system("s"), user("q"), assistant("a"), user("r")],
        "b",
    ),
    "Firefly": ({"conversation": [{"human": "q", "assistant": "a"}]}, [user("q")], "a"),
    "Gemini": (
        {
            "systemInstruction": {"parts": [{"text": "s"}]},
            "contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}],
        },
        [system("s"), user("q")],
        "a",
    ),
    "Bedrock": (
        {"system": [{"text": "s"}], "messages": [{"role": "user", "content": [{"text": "q"}]}]},
        [system("s"), user("q")],
        None,
    ),
    "a name and a system beside messages": ({"system": "s", "messages": [user("q")]}, [system("s"), user("q")], None),
    "its own system wins": ({"system": "s", "messages": [system("t"), user("q")]}, [system("t"), user("q")], None),
    "Dolly": ({"instruction": "q", "context": "x", "response": "a", "category": "c"}, [user("q\nx")], "a"),
    "Alpaca without input": ({"instruction": "q", "output": "a"}, [user("q")], "a"),
    "Alpaca of pandas": ({"instruction": "q", "input": float("nan"), "output": "a"}, [user("q")], "a"),
    "query and response": ({"query": "q", "response": "a"}, [user("q")], "a"),
    "problem and solution": ({"problem": "q", "solution": "a", "level": 3}, [user("q")], "a"),
    "input and output": ({"input": "q", "output": "a"}, [user("q")], "a"),
    "FLAN": ({"inputs": "q", "targets": "a"}, [user("q")], "a"),
    "thoughts of an earlier turn": (
        {"messages": [user("q"), {**assistant("a"), "reasoning_content": "t"}, user("r")]},
        [user("q"), {**assistant("a"), "reasoning_content": "t"}, user("r")],
        None,
    ),
    "a preference without a prompt": (
        {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        [user("q")],
        "a",
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        [user("q")],
        "a",
    ),
    "ShareGPT with a system": (
        {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}]},
        [system("s"), user("q")],
        None,
    ),
    "ShareGPT of LLaMA-Factory": (
        {"conversations": [{"from": "human", "value": "q"}], "system": "s", "tools": ""},
        [system("s"), user("q")],
        None,
    ),
    "conversations with roles": ({"conversations": [user("q"), assistant("a")]}, [user("q")], "a"),
    "Alpaca": ({"instruction": "q", "input": "", "output": "a"}, [user("q")], "a"),
    "Alpaca with an input": ({"instruction": "q", "input": "x", "output": "a"}, [user("q\nx")], "a"),
    "Alpaca of LLaMA-Factory": (
        {"instruction": "q", "system": "s", "history": [["h", "i"]]},
        [system("s"), user("h"), assistant("i"), user("q")],
        None,
    ),
    "question": ({"question": "q"}, [user("q")], None),
    "question and answer": ({"question": "q", "answer": "a"}, [user("q")], "a"),
    "an empty column beside": ({"messages": None, "prompt": "q"}, [user("q")], None),
    "developer": ({"messages": [{"role": "developer", "content": "s"}, user("q")]}, [system("s"), user("q")], None),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        [user("a\nb")],
        None,
    ),
    "parts that are texts": ({"messages": [{"role": "user", "content": ["a", "b"]}]}, [user("a\nb")], None),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_people_have_is_read(name: str) -> None:
    row, messages, reference = FORMS[name]
    found = read_form(row)
    assert (found.messages, found.reference) == (messages, reference)
    assert (found.tools, found.template_kwargs) == (None, None)
    assert found.form in row or any(found.form in inner for inner in row.values() if isinstance(inner, dict))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "a list, not an object"),
        ({"pormpt": "x"}, r"no messages, .*its keys are \['pormpt'\]"),
        ({"prompt": 5}, "`prompt` is of type int; it must be a text in quotes"),
        ({"text": "x"}, "`text` is one text, in which nothing says where the answer begins"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "b"}, "`chosen` is one text"),
        ({"message_tree_id": "m", "prompt": {"text": "q", "replies": []}}, "OASST message tree"),
        ({"message_id": "m", "parent_id": None, "text": "q", "role": "prompter"}, "OASST message tree"),
        ({"data": [{"prompt": "q"}]}, "`data` is not a list of texts; if it holds the rows"),
        ({"turns": ["q", "r"]}, "`turns` are texts without roles"),
        ({"prompt": "<|im_start|>user\nq<|im_end|>\n"}, "written in a chat template already"),
        ({"prompt": "\n\nHuman: q\n\nAssistant:"}, "written in a chat template already"),
        ({"question": "q", "context": "x", "answers": {"text": ["a"]}}, "`context` stands beside `question`"),
        ({"question": "q", "choices": ["a", "b"], "answer": 1}, "`choices` stands beside `question`"),
        ({"prompt": "q", "input": "x"}, "`input` stands beside `prompt`"),
        ({"instruction": "i", "question": "q"}, "`question` stands beside `instruction`|`instruction` stands"),
        ({"instruction": "i", "prompt": "q"}, "`instruction` stands beside `prompt`"),
        ({"instruction": "q", "input": 5}, "`input` is a int, not a text"),
        ({"instruction": None, "output": "a"}, "no messages"),
        ({"messages": [user("q")], "documents": [{"text": "d"}]}, "`documents` stand beside `messages`"),
        ({"messages": [user("q")], "chat_template_kwargs": {"tools": []}}, "names 'tools', which the row"),
        ({"messages": [user("q")], "chat_template_kwargs": [1]}, "is a list, not an object"),
        ({"system": 5, "messages": [user("q")]}, "a text, not a int"),
        ({"messages": [system("s")]}, "nothing to answer"),
        ({"messages": [assistant("a")]}, "nothing to answer"),
        ({"messages": [user("q"), system("s")]}, "nothing to answer"),
        ({"messages": [user("q"), assistant("a"), system("s")]}, "nothing to answer"),
        ({"messages": "[{"}, "`messages` is a text that is no JSON"),
        ({"messages": [{"role": "user", "content": 5}]}, "a text, not a int"),
        ({"messages": [{"role": "user", "content": True}]}, "a text, not a bool"),
        ({"messages": [{"role": "user", "content": None}]}, "not empty, and one of 'user' has none"),
        ({"messages": [{"role": "user", "content": {"a": "b"}}]}, "a text, not a dict"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "part of type 'image_url'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a part of one is none"),
        ({"messages": [{"role": "user", "content": [{"type": ["x"], "text": "y"}]}]}, "only text is taken"),
        ({"messages": [{"role": "user", "content": ""}]}, "not empty, and one of 'user' has none"),
        ({"messages": [user("q"), assistant(" "), user("r")]}, "not empty, and one of 'assistant' has none"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "not 'robot'"),
        ({"messages": [{"from": 5, "value": "x"}]}, "needs a role"),
        ({"messages": {"role": "user"}}, "`messages` is not a list"),
        ({"conversations": []}, "`conversations` is not a list"),
        ({"prompt": []}, "`prompt` is not a list"),
        ({"instruction": "q", "history": ["h"]}, "`history` is not"),
        ({"instruction": "q", "history": {"h": 1}}, "`history` is not"),
    ],
)
def test_a_row_without_a_prompt_says_why(row: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        read_form(row)


def rows(path: Path, bad: dict[int, str], count: int = 40) -> Path:
    lines = [bad.get(index, json.dumps({"prompt": f"q{index}"})) for index in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_bad_row_is_skipped_with_its_reason(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", {3: '{"messages": []}', 7: "{", 9: '{"prompt": " "}', 30: "null"})
    skipped = SkippedRows(0.1)
    found = read_jsonl(path, skipped=skipped)
    assert [each.id for each in found][:5] == [f"row-000000{number}" for number in (1, 2, 3, 5, 6)]
    assert (len(found), skipped.num) == (36, 4)
    assert [reason.split(": ")[0] for reason in skipped.reasons] == [f"{path}, line {number}" for number in (4, 8, 10)]
    assert str(skipped).startswith("4 rows are skipped: ")
    assert str(skipped).endswith("; and 1 more")


def test_a_file_in_which_no_row_holds_a_prompt_says_why_even_if_all_may_be_skipped(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", dict.fromkeys(range(3), "5"), count=3)
    with pytest.raises(DatasetInvalidError, match=r"line 1: a int, not an object; no row of .* holds a prompt"):
        read_jsonl(path, skipped=SkippedRows(1.0))


def test_too_many_bad_rows_are_an_error_that_names_the_first(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", dict.fromkeys(range(0, 40, 8), "5"))
    wanted = r"line 1: a int, not an object; 5 of 40 rows hold no prompt, at most 10 % may be skipped"
    with pytest.raises(DatasetInvalidError, match=wanted.replace(" %", "%")) as caught:
        read_jsonl(path, skipped=SkippedRows(0.1))
    assert caught.value.param == "dataset.source"
    assert len(read_jsonl(path, skipped=SkippedRows(0.125))) == 35


@pytest.mark.parametrize("first", ['{"prompt": "a"}', ""])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, first: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + first.encode() + b'\r\n{"prompt": "b"}\r\n')
    assert read_jsonl(path)[-1] == Prompt("row-0000002", [user("b")])
    assert len(read_jsonl(path)) == 1 + bool(first)
