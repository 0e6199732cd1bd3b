"""An hour of everything: `make proof NAME=soak MINUTES=60` writes `benchmarks/results/soak.json`.

One service (`eda up`, Ray, Serve, SQLite) with a tiny target. Jobs are submitted one after another, some cancelled;
requests to the endpoint never stop; every minute a process of a random kind gets SIGKILL. Afterwards every accepted job
must have ended as it may, with the pack of an undisturbed run where it succeeded; no process, temporary file or half
pack may be left; and no process may have grown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

from benchmarks.workloads import header, write_result
from eda_service.client import Adaptation, ApiError, Client
from eda_service.errors import EdaError
from eda_service.raycluster import processes
from eda_service.storage.files import sha256_file
from eda_service.storage.published.registry import find_pack
from tests.resilience.faults import Bench
from tests.resilience.process_roles import ROLES, process_ids

RESULT = "soak.json"
QUESTION = [{"role": "user", "content": "the other one and the user"}]
SETTLE_S = 1200.0
_SAMPLE_S = 5.0
_SHORTEST_LIFE_S = 120.0
_WARM_S = 60.0  # of a process's life that its slope leaves out
_MOST_GROWTH_MB_PER_H = 200.0
_CANCEL_EVERY = 4
_DONE = "data: [DONE]\n\n"
_ENDS = {"job_succeeded", "job_failed", "job_cancelled"}


class Soak:
    """The traffic over one service, and what came of it.

    Args:
        bench: The running service.
        kill_every_s: Time between two kills.
        seed: Of what is killed and cancelled.
    """

    def __init__(self, bench: Bench, kill_every_s: float, seed: int) -> None:
        self.bench, self.url = bench, str(bench.service.up_file["api_url"])
        self._kill_every_s, self._chance = kill_every_s, random.Random(seed)
        self.jobs: dict[str, bool] = {}
        self.kills: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
        self.broken: list[str] = []
        self.stopping = threading.Event()

    def prepare(self) -> str:
        """One undisturbed job and a deployment; returns the hash of the job's pack."""
        with Client(self.url, max_retries=20) as client:
            shared = {"model": str(self.bench.target_dir), "dtype": "float32", "base_draft": "tiny@1"}
            client.deployments.create({**shared, "name": "tiny"})
            job = client.wait(client.create(self.bench.body()).id, timeout_s=SETTLE_S)
            client.deployments.wait_ready("tiny", timeout_s=SETTLE_S)
        return self._digest(job) or ""

    def run(self, seconds: float) -> None:
        """Everything at once, until the time is over."""
        work = (self._submit, self._ask, self._kill, self._sample)
        threads = [threading.Thread(target=self._always, args=(each,), name=each.__name__) for each in work]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.stopping.set()
        for thread in threads:
            thread.join()

    def _always(self, work: Callable[[], float]) -> None:
        try:
            while not self.stopping.wait(work()):
                pass
        except Exception as error:
            # The edge of a thread: traffic that stops by itself must not look like a quiet service.
            self.broken.append(f"{work.__name__}: {type(error).__name__}: {error}")

    def _submit(self) -> float:
        """One job, once no more than two wait or run."""
        try:
            with Client(self.url, max_retries=20) as client:
                live = [job for job in client.page(limit=20) if not job.is_terminal]
                if len(live) >= 2:
                    return 1.0
                job = client.create(self.bench.body(), idempotency_key=f"{time.time_ns()}")
                self.jobs[job.id] = len(self.jobs) % _CANCEL_EVERY == _CANCEL_EVERY - 1
                if self.jobs[job.id]:
                    self.stopping.wait(self._chance.uniform(0, 40))
                    with contextlib.suppress(ApiError):  # it has ended
                        client.cancel(job.id)
        except EdaError:
            return 1.0  # the service was away for longer than the client's patience
        return 0.5

    def _ask(self) -> float:
        """One request, in turn as a stream and whole."""
        number = self.requests.total()
        body = {"model": "tiny", "messages": QUESTION, "max_tokens": 16, "seed": number, "stream": number % 2 == 0}
        try:
            answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)
            outcome = outcome_of(answer, is_stream=bool(body["stream"]))
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        self.requests[outcome] += 1
        return 0.2

    def _kill(self) -> float:
        """One process of a random kind that there is."""
        if self.stopping.wait(self._kill_every_s):
            return 0.0
        roles = [*ROLES, "replica", "template_worker"]
        self._chance.shuffle(roles)
        for role in roles:
            with contextlib.suppress(ProcessLookupError, AssertionError, KeyError, psutil.Error):
                found = self._of_role(role)
                if found:
                    os.kill(self._chance.choice(found), signal.SIGKILL)
                    self.kills[role] += 1
                    return 0.0
        return 0.0

    def _of_role(self, role: str) -> list[int]:
        part = {"replica": "ServeReplica", "template_worker": "eda_service.targets.chat.template_worker"}.get(role)
        up_file = self.bench.service.up_file
        if part is None:
            return [pid for job_id in [*self.jobs][-4:] for pid in process_ids(up_file, role, job_id)]
        return [each.pid for mark in up_file["marks"] for each in processes.marked(mark) if part in _line(each)]

    def _sample(self) -> float:
        """Memory of the processes that are to live long."""
        with contextlib.suppress(AssertionError, KeyError, OSError):
            up_file = self.bench.service.up_file
            kinds = {"api": [int(up_file["pids"]["api"])], "replica": self._of_role("replica")}
            for kind, pids in kinds.items():
                for pid in pids:
                    with contextlib.suppress(psutil.Error):
                        mb = psutil.Process(pid).memory_info().rss / 1e6
                        self.samples.setdefault((kind, pid), []).append((time.monotonic(), mb))
        return _SAMPLE_S

    def account(self, reference: str) -> dict[str, Any]:
        """Wait for every accepted job and judge it."""
        deadline, statuses, problems = time.monotonic() + SETTLE_S, Counter[str](), []
        with Client(self.url, max_retries=20) as client:
            known = {job.id for job in client.iterate()}  # some whose answer was lost on the way
            problems += [f"{job_id} was accepted and is gone" for job_id in self.jobs if job_id not in known]
            for job_id in sorted(known):
                try:
                    job = client.wait(job_id, timeout_s=max(1.0, deadline - time.monotonic()))
                except TimeoutError:
                    problems.append(f"{job_id} is stuck: {client.get(job_id).status}")
                    continue
                statuses[job.status] += 1
                ends = [event.type for event in client.events(job_id) if event.type in _ENDS]
                problems += self._judge(job, ends, reference, was_cancelled=self.jobs.get(job_id, False))
        return {"num_accepted": len(known), "by_status": dict(statuses), "problems": problems}

    def _judge(self, job: Adaptation, ends: list[str], reference: str, *, was_cancelled: bool) -> list[str]:
        problems = [] if len(ends) == 1 else [f"{job.id} ended {len(ends)} times: {ends}"]
        if job.status == "succeeded" and self._digest(job) != reference:
            problems.append(f"{job.id} has another pack")
        if job.status == "failed" and (job.error is None or not job.error.code):
            problems.append(f"{job.id} failed without a code")
        if job.status == "cancelled" and not was_cancelled:
            problems.append(f"{job.id} was cancelled by nobody")
        return problems

    def _digest(self, job: Adaptation) -> str | None:
        if job.result_pack is None:
            return None
        return sha256_file(find_pack(job.result_pack, self.bench.home) / "pack.safetensors")

    def left_running(self) -> list[str]:
        """Processes of jobs, once no job runs."""
        deadline = time.monotonic() + 60
        while True:
            up_file = self.bench.service.up_file
            roles = ("driver", "driver_shell", "train_worker", "generation_actor")
            left = [f"{role} {pid}" for role in roles for job in self.jobs for pid in process_ids(up_file, role, job)]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(1.0)

    def left_files(self) -> list[str]:
        """Temporary files and half packs that a dead writer left and nobody took away."""
        home = self.bench.home
        found = [*home.glob("packs/*/.staging-*"), *home.glob("runs/*/reserve")]
        return sorted(str(path.relative_to(home)) for path in found)

    def growth(self) -> dict[str, Any]:
        """Megabytes an hour, by least squares over each process that lived long enough."""
        slopes: dict[str, list[float]] = {}
        for (kind, _), samples in self.samples.items():
            warm = [(at, mb) for at, mb in samples if at - samples[0][0] >= _WARM_S]
            if len(warm) > 2 and warm[-1][0] - warm[0][0] >= _SHORTEST_LIFE_S:
                line = statistics.linear_regression([at for at, _ in warm], [mb for _, mb in warm])
                slopes.setdefault(kind, []).append(round(line.slope * 3600, 1))
        return {kind: {"num_processes": len(each), "median": statistics.median(each)} for kind, each in slopes.items()}


def outcome_of(answer: httpx.Response, *, is_stream: bool) -> str:
    """The status; of a stream that began and lacks its one `[DONE]` that it does. What was refused is no stream."""
    if not is_stream or not answer.is_success:
        return str(answer.status_code)
    is_whole = answer.text.endswith(_DONE) and answer.text.count(_DONE) == 1
    return str(answer.status_code) if is_whole else "stream_without_end"


def _line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def main() -> None:
    """Run, account, stop, and look at what is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kill-every-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eda-soak-") as name:
        settings = {"EDA_SERVE": "true", "EDA_MAX_ATTEMPTS": "30"}
        bench = Bench(Path(name), settings)
        with bench.service:
            soak = Soak(bench, arguments.kill_every_s, arguments.seed)
            reference = soak.prepare()
            began = time.monotonic()
            soak.run(arguments.minutes * 60)
            ended = time.monotonic()
            jobs = soak.account(reference)
            settled_s = time.monotonic() - ended
            left, marks = soak.left_running(), list(bench.service.up_file["marks"])
        from tests.integration.running import left_of

        result = {
            **header(f"make proof NAME=soak MINUTES={arguments.minutes:g} KILL_EVERY_S={arguments.kill_every_s:g}"),
            "seed": arguments.seed,
            "traffic_s": round(ended - began, 1),
            "settled_s": round(settled_s, 1),
            "num_kills": soak.kills.total(),
            "kills": dict(soak.kills),
            "jobs": jobs,
            "broken_traffic": soak.broken,
            "num_requests": soak.requests.total(),
            "requests": dict(soak.requests),
            "growth_mb_per_h": soak.growth(),
            "processes_of_ended_jobs": left,
            "processes_after_stop": left_of(marks),
            "files_left": soak.left_files(),
        }
    problems = problems_of(result)
    write_result(RESULT, {**result, "num_problems": len(problems), "problems": problems})
    sys.stderr.write(json.dumps({**result, "problems": problems}, indent=1) + "\n")
    if problems:
        raise SystemExit("; ".join(problems))


def problems_of(result: dict[str, Any]) -> list[str]:
    """What did not hold."""
    problems = list(result["jobs"]["problems"])
    problems += [f"{key}: {result[key]}" for key in _NOTHING_LEFT if result[key]]
    if result["requests"].get("stream_without_end"):
        problems.append("a stream ended without [DONE]")
    if result["requests"].get("500"):
        problems.append(f"{result['requests']['500']} answers of 500")
    problems += [
        f"{kind} grows by {found['median']} MB an hour"
        for kind, found in result["growth_mb_per_h"].items()
        if found["median"] > _MOST_GROWTH_MB_PER_H
    ]
    return problems


_NOTHING_LEFT = ("broken_traffic", "processes_of_ended_jobs", "processes_after_stop", "files_left")


if __name__ == "__main__":
    main()
