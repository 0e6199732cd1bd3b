"""`eda data check`: the file as a job reads it, and the first prompts as the target sees them."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Cli


def write(path: Path, bad: int, count: int = 20) -> Path:
    good = {"conversations": [{"from": "human", "value": "Sing [b]loud[/b]"}, {"from": "gpt", "value": "la"}]}
    lines = [json.dumps(good), *(json.dumps({"prompt": f"q{n}"}) for n in range(count - bad - 1)), *["{}"] * bad]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_is_read_and_what_is_skipped(eda: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", bad=1)
    shown = eda("data", "check", str(path), "--rows", "1")
    assert shown.exit_code == 0, shown.output
    assert "19 prompts, 19 of them different" in shown.stdout
    assert f"1 row is skipped: {path}, line 20: no messages" in shown.stdout
    assert "--- row-0000001, with an answer of its own\nuser: Sing [b]loud[/b]\n" in shown.stdout
    summary = json.loads(eda("data", "check", str(path), "--rows", "2", "--json").stdout)
    assert (summary["num_prompts"], summary["num_distinct"], summary["num_skipped"]) == (19, 19, 1)
    assert [each["reference"] for each in summary["first"]] == ["la", None]


def test_through_the_targets_template(eda: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", bad=0)
    found = eda("data", "check", str(path), "--rows", "1", "--model", "smollm2-135m-math", "--json")
    (first,) = json.loads(found.stdout)["first"]
    assert first["text"].endswith("<|im_start|>user\nSing [b]loud[/b]<|im_end|>\n<|im_start|>assistant\n")
    assert 20 < first["num_tokens"] < 60


def test_forms_and_what_the_target_does_not_take(eda: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", bad=0)
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    rows = [{"id": "t", "prompt": "1 + 2?", "tools": tools}, {"id": "l", "prompt": "x " * 600}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + path.read_text())
    summary = json.loads(eda("data", "check", str(path), "--rows", "1", "--json").stdout)
    assert summary["forms"] == {"prompt": 21, "conversations": 1}
    assert summary["first"][0]["text"] == "tools: add\nuser: 1 + 2?"
    model = ("--model", "smollm2-135m-math")
    strict = ("--max-error-fraction", "0.05")
    shown = eda("data", "check", str(path), *model, *strict, "--max-prompt-tokens", "800", "--rows", "0")
    assert shown.exit_code == 0
    assert "read from `prompt` (21), `conversations` (1)\n21 go through the target's template: " in shown.stdout
    assert "at most; 1 skipped\nskipped: t: the target's chat template leaves out the tools" in shown.stdout
    refused = eda("data", "check", str(path), *model, *strict, "--json")
    assert refused.exit_code == 2
    message = json.loads(refused.stderr)["error"]["message"]
    assert "2 of 22 prompts are not taken by the target, at most 5% may be skipped" in message


def test_what_a_job_would_refuse_is_refused(eda: Cli, tmp_path: Path) -> None:
    for name, said in (
        (str(write(tmp_path / "rows.jsonl", bad=3)), "3 of 20 rows hold no prompt, at most 10% may be"),
        (str(tmp_path / "none.jsonl"), "cannot be read"),
        (str(tmp_path), "cannot be read"),
    ):
        found = eda("data", "check", name)
        assert found.exit_code == 2
        assert said in " ".join(found.stderr.split())
