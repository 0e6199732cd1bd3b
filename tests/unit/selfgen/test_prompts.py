"""Prompt sources: what is accepted, and an error that names file, line and field for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eda_service.config.job import DatasetSpec
from eda_service.errors import DatasetInvalidError
from eda_service.selfgen import gsm_symbolic
from eda_service.selfgen.prompts import Prompt, load_prompts, read_jsonl
from eda_service.selfgen.skipped_rows import SkippedRows


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def row(text: str, **extra: object) -> dict[str, object]:
    return {"prompt": text, **extra}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def load(path: Path, num_prompts: int, *, seed: int = 0) -> list[Prompt]:
    return load_prompts(DatasetSpec(source=str(path), num_prompts=num_prompts), seed=seed)


def test_both_forms_are_read(path: Path) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    write(path, [{"id": "mine", "messages": messages}, {"prompt": "p"}, {"prompt": "q", "id": 7, "extra": 1}])
    assert read_jsonl(path) == [
        Prompt("mine", messages),
        Prompt("row-0000002", [{"role": "user", "content": "p"}]),
        Prompt("7", [{"role": "user", "content": "q"}]),
    ]


def test_line_separators_inside_a_string_do_not_split_the_line(path: Path) -> None:
    """U+2028, U+2029 and U+0085 are legal inside JSON strings; str.splitlines() would cut there."""
    text = "one\u2028two\u2029three\u0085four"
    path.write_text(f'{{"prompt": "{text}"}}\n{{"prompt": "next"}}\n', encoding="utf-8")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 5
    assert [prompt.messages[0]["content"] for prompt in read_jsonl(path)] == [text, "next"]


def test_blank_lines_are_no_rows_but_count_as_lines(path: Path) -> None:
    path.write_text('\n{"prompt": "a"}\n\n  \n{"nothing": 1}\n', encoding="utf-8")
    with pytest.raises(DatasetInvalidError, match="line 5"):
        read_jsonl(path)


def test_windows_line_ends_are_read(path: Path) -> None:
    path.write_bytes(b'{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [prompt.messages[0]["content"] for prompt in read_jsonl(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"', "line 3: not JSON .* at column"),
        ('"text"', "line 3: a str, not an object"),
        ("[1]", "line 3: a list, not an object"),
        ("null", "line 3: a NoneType, not an object"),
        ('{"pormpt": "x"}', r"line 3: no messages, .*its keys are \['pormpt'\]"),
        ('{"prompt": "x", "prompt": "y"}', "line 3: not JSON .it has a key twice in one object"),
        ("{'prompt': 'x'}", "line 3: not JSON .* at column"),
        ('{"prompt": "x",}', "line 3: not JSON .* at column"),
        ("// a comment", "line 3: not JSON"),
        ('{"prompt": NaN}', "line 3: no messages"),
        ('{"prompt": "\\ud800"}', "line 3: not JSON .it holds half of a surrogate pair"),
        ('{"prompt": "a\x00b"}', "line 3: not JSON"),
        ("{}", "line 3: no messages"),
        ('{"messages": []}', "line 3: `messages` is not a list of messages"),
        ('{"messages": "hello"}', "line 3: `messages` is not a list of messages"),
        ('{"prompt": 5}', "line 3: `prompt` is of type int; it must be a text"),
        ('{"prompt": "   "}', "line 3: each message needs a content that is not empty"),
        ('{"messages": ["hello"]}', "line 3: `messages` are texts without roles"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "line 3: each message needs a role of"),
        ('{"messages": [{"role": [], "content": "x"}]}', "line 3: each message needs a role of"),
        ('{"messages": [{"role": {}, "content": "x"}]}', "line 3: each message needs a role of"),
        ('{"messages": [{"role": "user"}]}', "line 3: each message needs"),
        ('{"messages": [{"role": "user", "content": [5]}]}', "line 3: each message needs"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}',
            "line 3: the last message is not the user's",
        ),
    ],
)
def test_a_malformed_row_is_named_by_line(path: Path, line: str, message: str) -> None:
    path.write_text(f'{{"prompt": "a"}}\n{{"prompt": "b"}}\n{line}\n{{"prompt": "c"}}\n', encoding="utf-8")
    with pytest.raises(DatasetInvalidError, match=message) as caught:
        read_jsonl(path)
    assert str(path) in str(caught.value)
    assert (caught.value.param, caught.value.code) == ("dataset.source", "dataset_invalid")


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_an_empty_file_is_an_error(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(DatasetInvalidError, match="is empty; write one JSON object per line") as caught:
        read_jsonl(path)
    assert caught.value.param == "dataset.source"


def test_a_missing_file_and_a_directory_are_errors(tmp_path: Path) -> None:
    for source in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DatasetInvalidError, match="cannot be read as UTF-8 text") as caught:
            load(source, 8)
        assert caught.value.param == "dataset.source"


def test_bytes_that_are_no_utf8_are_an_error(path: Path) -> None:
    path.write_bytes(b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(DatasetInvalidError, match="cannot be read as UTF-8"):
        read_jsonl(path)


def test_exactly_as_many_as_asked_for_the_same_for_the_same_seed(path: Path) -> None:
    write(path, [row(f"q{i}") for i in range(40)])
    first = load(path, 10)
    assert len({prompt.id for prompt in first}) == 10
    assert load(path, 10) == first
    assert load(path, 10, seed=1) != first
    assert {p.messages[0]["content"] for p in load(path, 40)} == {f"q{i}" for i in range(40)}


def test_repeated_prompts_count_once(path: Path) -> None:
    write(path, [row(f"q{i % 9}") for i in range(40)])
    assert len(load(path, 9)) == 9
    with pytest.raises(
        DatasetInvalidError, match=r"has 9 distinct prompts, dataset\.num_prompts is 10; lower it"
    ) as caught:
        load(path, 10)
    assert caught.value.param == "dataset.source"


def test_a_file_of_nearly_equal_rows_is_read_to_its_end(path: Path) -> None:
    """At submit the rows of the whole file are counted, so the job may not give up before."""
    write(path, [row("same") for _ in range(4000)] + [row(f"q{i}") for i in range(7)])
    assert len(load(path, 8)) == 8


def test_two_rows_with_one_id_do_not_become_one_sample(path: Path) -> None:
    """Ids key everything downstream: two prompts of one id must be refused or given ids of their own."""
    write(path, [row(f"q{i}", id="same") for i in range(10)])
    try:
        ids = [prompt.id for prompt in load(path, 8)]
    except DatasetInvalidError as error:
        assert "same" in str(error)  # noqa: PT017
    else:
        assert len(set(ids)) == 8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("reasoning-gym:sudoku", "is unknown; use reasoning-gym:gsm_symbolic"),
        ("reasoning-gym:gsm_symbolic?templates=9", "is unknown"),
        ("reasoning-gym:gsm_symbolic?templates=0-100", "templates 0-100 lie outside 0-99"),
        ("reasoning-gym:gsm_symbolic?templates=9-3", "templates 9-3 lie outside"),
    ],
)
def test_a_wrong_generator_is_refused_before_any_download(
    source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr(gsm_symbolic, "_unpacked", refuse)
    with pytest.raises(DatasetInvalidError, match=message) as caught:
        load_prompts(DatasetSpec(source=source, num_prompts=8), seed=0)
    assert caught.value.param == "dataset.source"


def test_columns_that_a_data_set_fills_up_with_none_are_no_part_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow gives each row the keys of all: a call's arguments, a tool's parameters."""
    function = {"name": "f", "arguments": {"a": 1, "b": None}}
    turns = [
        {"role": "user", "content": "q", "tool_calls": None, "name": None},
        {"role": "assistant", "content": None, "tool_calls": [{"id": None, "function": function}], "name": None},
        {"role": "tool", "content": "3", "tool_calls": None, "name": "f"},
    ]
    rows = [{"messages": turns, "tools": None, "text": None}, {"messages": None, "tools": None, "text": "x"}]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows * 4)
    skipped = SkippedRows(0.5)
    (found,) = load_prompts(DatasetSpec.model_construct(source="org/data", num_prompts=1), seed=0, skipped=skipped)
    assert found.messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
    assert found.messages[0] == {"role": "user", "content": "q"}
    assert (found.tools, skipped.num) == (None, 4)
    assert skipped.reasons[0].startswith("org/data[1]: `text` is one text")
