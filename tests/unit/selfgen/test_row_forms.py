"""Prompts in the forms that people keep them in; what holds none is skipped, counted and told, up to a share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eda_service.errors import DatasetInvalidError
from eda_service.selfgen.prompts import Prompt, SkippedRows, read_jsonl
from eda_service.selfgen.row_forms import RowError, read_form


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
    assert read_form(row) == (messages, reference)


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "a list, not an object"),
        ({"text": "x"}, r"no messages, .*its keys are \['text'\]"),
        ({"messages": [assistant("a")]}, "nothing to answer"),
        ({"messages": [user("q"), system("s")]}, "nothing to answer"),
        ({"messages": [user("q"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]}, "calls a tool"),
        ({"messages": [user("q"), {"role": "tool", "content": "4"}]}, "is a tool's"),
        ({"messages": [user("q")], "tools": [{"type": "function"}]}, "`tools`"),
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


@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_that_is_one_array_says_how_to_split_it(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "q"}], indent=indent))
    with pytest.raises(DatasetInvalidError, match="is one JSON array; write one object per line"):
        read_jsonl(path, skipped=SkippedRows(0.9))
