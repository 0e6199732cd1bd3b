"""`eda demo`: one real adaptation from nothing to a served pair, on a service of its own; `make demo` runs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eda_service.cli.arguments import complete_preset, complete_target
from eda_service.cli.console import Exit, err, out
from eda_service.cli.demo.demo_questions import QUESTIONS, Question, ask_until_right
from eda_service.cli.demo.demo_report import Summary, copy_plots, print_report, summarise
from eda_service.cli.jobs import view
from eda_service.cli.jobs.outcome import bars_text
from eda_service.client import ApiError, Client, ServiceUnreachableError
from eda_service.config import presets
from eda_service.errors import EdaError, InputError
from eda_service.formatting import duration
from eda_service.raycluster.processes import free_port
from eda_service.raycluster.up_file import read_up
from eda_service.storage.files import write_json
from eda_service.storage.runs.run import RunDir

TARGET = "smollm2-135m-math"
_UP_TIMEOUT_S = 330.0
_SERVE_TIMEOUT_S = 300.0
_DOWN_TIMEOUT_S = 90.0
_ANSWER_TOKENS = 160


def demo(
    target: Annotated[str, typer.Option(help="Target to adapt to.", autocompletion=complete_target)] = TARGET,
    preset: Annotated[str, typer.Option(help="Preset of the job.", autocompletion=complete_preset)] = "demo",
    output: Annotated[Path, typer.Option(help="Where the summary and the plots go.")] = Path("out/demo"),
    home: Annotated[Path | None, typer.Option(help="State root; default: <output>/home, emptied first.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Do not empty the home; finished stages are not repeated.")
    ] = False,
    question: Annotated[
        str | None,
        typer.Option(help="What to ask the served pair; default: sums of known results, until an answer is right."),
    ] = None,
) -> None:
    """Run the whole service once: fetch a fine-tuned model, adapt its draft, measure, serve and ask."""
    presets.preset(preset)  # before anything is emptied or started
    began = time.monotonic()
    output = output.resolve()
    root = (home or output / "home").resolve()
    if home is None and not keep:
        _empty(root)
    root.mkdir(parents=True, exist_ok=True)
    _step("fetch", target)
    _fetch(target, root)
    _step("start", "a service on free ports")
    with service(root, output) as client:
        questions = QUESTIONS if question is None else (Question(question),)
        summary = _adapt_and_ask(client, root, output, target=target, preset=preset, questions=questions)
    summary["seconds_total"] = round(time.monotonic() - began, 1)
    write_json(output / "summary.json", summary)
    out.print(f"total {duration(summary['seconds_total'])}; summary and plots are in {output}")


@contextlib.contextmanager
def service(home: Path, output: Path) -> Iterator[Client]:
    """A service of our own on free ports, stopped at the end with everything it started.

    Raises:
        EdaError: It did not come up.
    """
    ports = ["--port", str(free_port()), "--serve-port", str(free_port())]
    command = [sys.executable, "-m", "eda_service.cli.main", "up", "--with-parent", "--home", str(home), *ports]
    log_path = output / "up.log"
    with log_path.open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        client = _wait_up(child, home, log_path)
        with client:
            yield client
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(_DOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            err.print(f"the service did not stop in time; see {log_path}")


def _wait_up(child: subprocess.Popen[bytes], home: Path, log_path: Path) -> Client:
    deadline = time.monotonic() + _UP_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise EdaError(f"the service did not start:\n{log_path.read_text(errors='replace')[-2000:]}")
        up_file = read_up(home)
        if up_file is not None and up_file["pid"] == child.pid:
            client = Client(str(up_file["api_url"]))
            with contextlib.suppress(ServiceUnreachableError, ApiError):
                health = client.health()
                if health.get("ray_reachable", health["status"] == "ok"):  # without a key it is not said
                    return client
            client.close()
        time.sleep(0.3)
    raise EdaError(f"the service was not ready after {_UP_TIMEOUT_S:.0f} s; see {log_path}")


def _adapt_and_ask(
    client: Client, home: Path, output: Path, *, target: str, preset: str, questions: Sequence[Question]
) -> Summary:
    job = client.create({"model": target, "preset": preset, "metadata": {"made_by": "eda demo"}})
    _step("adapt", f"{target} with preset {preset}: job {job.id}")
    began = time.monotonic()
    job = view.watch(client, job.id)
    if job.status != "succeeded":
        for line in client.logs(job.id, tail=30):
            err.print(line, markup=False)
        raise typer.Exit(Exit.JOB_FAILED)
    seconds_adaptation = time.monotonic() - began
    run = RunDir.of_job(job.id, home)
    copy_plots(run, output)
    summary: Summary = {**summarise(run), "seconds_adaptation": round(seconds_adaptation, 1), "job_id": job.id}
    write_json(output / "summary.json", summary)
    print_report(run)
    kept = view.why_kept(client, job.id)
    if kept is not None:
        _step("kept", kept)
    _step("serve", f"wait for {job.served_name} at {client.base_url}/v1")
    client.deployments.wait_ready(job.served_name, timeout_s=_SERVE_TIMEOUT_S)
    asked = ask_until_right(questions, lambda text: _ask(client.base_url, job.served_name, text))
    summary |= {
        "question": asked.question.text,
        "answer": asked.answer,
        "answer_is_right": asked.is_right,
        "num_asked": asked.num_asked,
    }
    if job.outcome is not None:
        out.print(bars_text(job.outcome), markup=False)
    _step("answer", asked.verdict)
    return summary


def _ask(base_url: str, model: str, question: str) -> str:
    _step("ask", question)
    from openai import OpenAI  # takes half a second to import, and only this line needs it

    with OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=2, timeout=120.0) as client:
        messages: Any = [{"role": "user", "content": question}]
        stream = client.chat.completions.create(
            model=model, messages=messages, temperature=0.0, max_tokens=_ANSWER_TOKENS, stream=True
        )
        parts: list[str] = []
        for chunk in stream:
            text = (chunk.choices[0].delta.content or "") if chunk.choices else ""
            parts.append(text)
            out.print(text, end="", markup=False)
    out.print()
    answer = "".join(parts)
    if not answer.strip():
        raise EdaError(f"{model} answered nothing; see logs/ in the home")
    return answer


def _fetch(target: str, home: Path) -> None:
    # In a child: the conversion needs torch and a gigabyte, which this process should not keep for the whole demo.
    command = [sys.executable, "-m", "eda_service.cli.main", "models", "fetch", target]
    done = subprocess.run(command, env={**os.environ, "EDA_HOME": str(home)}, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def _empty(home: Path) -> None:
    from eda_service.raycluster.supervisor import is_running

    if is_running(home):
        raise InputError(f"a service runs for {home}; stop it with `eda down --home {home}`", param="home")
    # The path comes from --output: what was not made by an earlier demo is not ours to delete.
    if home.is_dir() and any(home.iterdir()) and not (home / "up.lock").exists():
        raise InputError(f"{home} exists and is no home of the service; use another --output", param="output")
    shutil.rmtree(home, ignore_errors=True)


def _step(name: str, what: str) -> None:
    out.print(f"[bold cyan]{name:<6}[/] {what}")
