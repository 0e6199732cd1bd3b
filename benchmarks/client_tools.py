"""Command-line clients that drive an endpoint: lm-eval over local tasks, GuideLLM at a constant rate."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.workloads import ROOT

CLIENTS = ROOT / ".venv-clients" / "bin"
GENERATE, SCORE = "local_generate", "local_score"
NUM_TOKENS = 32
_TIMEOUT_S = 900
_SUBJECTS = (("apples", 3, 4), ("books", 12, 7), ("coins", 9, 15), ("eggs", 6, 6), ("pens", 21, 8), ("cards", 14, 13))

_GENERATE = f"""task: {GENERATE}
dataset_path: json
dataset_kwargs: {{data_files: {{test: ROWS}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<never>"], do_sample: false, temperature: 0, max_gen_toks: {NUM_TOKENS}}}
metric_list: [{{metric: exact_match}}]
"""
_SCORE = f"""task: {SCORE}
dataset_path: json
dataset_kwargs: {{data_files: {{test: ROWS}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""


def call(command: list[str], folder: Path) -> str:
    """Run a client without access to a model hub; return its standard output.

    Raises:
        RuntimeError: The client failed; the message has the end of its output.
    """
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "OPENAI_API_KEY": "none",
        "COLUMNS": "160",
    }
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def versions() -> dict[str, str]:
    """Return the versions of the installed clients."""
    listed = call([str(CLIENTS / "python"), "-m", "pip", "list", "--format", "json"], ROOT)
    wanted = {"openai", "langchain-openai", "lm_eval", "guidellm", "transformers"}
    return {each["name"]: each["version"] for each in json.loads(listed) if each["name"] in wanted}


def script(name: str, url: str, model: str, folder: Path) -> Any:
    """Run one of `client_scripts` and return the JSON it writes."""
    path = ROOT / "benchmarks" / "client_scripts" / f"{name}.py"
    return json.loads(call([str(CLIENTS / "python"), str(path), f"{url}/v1", model], folder))


def _write_tasks(folder: Path) -> None:
    rows = [
        {"question": f"Q: I have {a} {thing} and buy {b} more. How many {thing} do I have?\nA:", "answer": f" {a + b}"}
        for thing, a, b in _SUBJECTS
    ]
    choices = [[f" {a + b}", f" {a + b + 3}", f" {a} and {b}"] for _, a, b in _SUBJECTS]
    scored = [{**row, "choices": options} for row, options in zip(rows, choices, strict=True)]
    for name, form, data in ((GENERATE, _GENERATE, rows), (SCORE, _SCORE, scored)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(form.replace("ROWS", str(path)), encoding="utf-8")


def lm_eval(url: str, model: str, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """Run a generation and a scoring task; return lm-eval's results and, by task, every request with its response."""
    _write_tasks(folder)
    arguments = f"model={model},base_url={url}/v1/completions,tokenizer={tokenizer},num_concurrent=4,max_retries=1"
    command = [str(CLIENTS / "lm-eval"), "run", "--model", "local-completions", "--model_args", arguments]
    command += ["--tasks", GENERATE, SCORE, "--include_path", str(folder), "--output_path", str(folder / "out")]
    call([*command, "--log_samples"], folder)
    results = json.loads(next((folder / "out").rglob("results_*.json")).read_text(encoding="utf-8"))["results"]
    samples = {
        task: [json.loads(line) for line in _samples(folder, task).read_text(encoding="utf-8").splitlines()]
        for task in (GENERATE, SCORE)
    }
    return {"results": results, "samples": samples}


def _samples(folder: Path, task: str) -> Path:
    return next((folder / "out").rglob(f"samples_{task}_*.jsonl"))


def guidellm(url: str, model: str, tokenizer: Path, folder: Path, *, rate: float, seconds: float) -> dict[str, Any]:
    """Send synthetic chats at a constant rate; return how many were answered, and GuideLLM's own medians."""
    report = folder / "guidellm.json"
    command = [str(CLIENTS / "guidellm"), "run", "--backend", f"kind=openai_http,target={url},model={model}"]
    command += ["--profile", f"kind=constant,rate={rate}", "--constraint", f"kind=max_duration,seconds={seconds}"]
    command += ["--tokenizer", f"kind=hf_auto,model={tokenizer}"]
    command += [
        "--data",
        "kind=synthetic_text,prompt_tokens=48,output_tokens=24",
        "--output",
        f"kind=json,path={report}",
    ]
    call([*command, "--disable-console"], folder)
    return dict(json.loads(report.read_text(encoding="utf-8"))["benchmarks"][0])
