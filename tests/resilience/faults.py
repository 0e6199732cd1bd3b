"""Kills at every point: `make proof NAME=faults` writes `benchmarks/results/faults.json`.

One service (`eda up`, a real Ray head, SQLite) runs the whole pipeline on a tiny target, again and
again, each time with one fault: SIGKILL before or after an fsync, a rename, a commit or a submission
(`injected/sitecustomize.py`), or SIGKILL of a whole process in a given stage. Afterwards the job must have ended as
succeeded, or failed with a code; succeeded means one pack, equal byte for byte to that of an uninterrupted run; and its
events must be a legal history. Cancelling is tried in every stage beside it: within 10 s, no process left, nothing
published.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.workloads import RESULTS, ROOT, header, write_result
from eda_service.client import Adaptation, ApiError, Client
from eda_service.config.job import TargetSpec
from eda_service.records import STAGES
from eda_service.storage.files import sha256_file
from eda_service.storage.published.registry import find_pack
from eda_service.targets.loader import load_target
from tests.resilience.process_roles import process_ids

RESULT = "faults.json"
TIMEOUT_S = 420.0
CANCEL_S = 10.0
GRACE_S = 5.0
"""What a driver is given to end by itself: one that is held open for longer is killed where it stands."""
CONFIG: dict[str, Any] = {
    "target": {"dtype": "float32"},
    "selfgen": {"max_new_tokens": 24, "batch_size": 8, "shard_size": 8, "threads_per_actor": 1},
    "selection": {"num_reference_prompts": 8, "reference_max_new_tokens": 16, "pca_dim": 8},
    "train": {
        "epochs": 30,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "checkpoint_every_steps": 10,
        "num_workers": 1,
        "loss": {"feature_noise": 0.1},
    },
    "evaluation": {"num_prompts": 6, "max_new_tokens": 16, "num_timed_prompts": 0, "threads": 1},
    "deploy": {"min_gain": 0, "min_speed_gain": 0},
}
HELD_OPEN = {
    "select": {"op": "replace", "match": "select/record.json"},
    "publish": {"op": "rename", "match": "tiny-tuned"},
}
"""Stages that are too short to be struck in from outside: the driver waits before this operation."""
RECORDS = ("validate", "generate", "select", "train", "evaluate")


@dataclass(frozen=True)
class Fault:
    """One case: an operation in a process, or (op `kill`, `cancel`) a process or the job in a stage.

    Attributes:
        role: api, driver or worker (a process of Ray's); for `kill` also train_worker, generation_actor, ray_head.
        op: fsync, replace, rename, commit, submit, kill or cancel.
        when: before or after; for `kill` and `cancel` the stage.
        match: Part of the path.
        nth: The how many-th such operation.
    """

    role: str
    op: str
    when: str
    match: str = ""
    nth: int = 1

    @property
    def name(self) -> str:
        """Of the case."""
        return "-".join(str(part) for part in (self.role, self.op, self.when, self.match, self.nth) if part != "")


def faults() -> Iterator[Fault]:
    """The matrix."""
    files = [("driver", f"{stage}/record.json") for stage in RECORDS]
    files += [("driver", "result.json"), ("driver", "tiny-tuned"), ("api", "job.json")]
    files += [
        ("worker", "prepare.json"),
        ("worker", "shard-00001.json"),
        ("worker", "train/pack/"),
        ("worker", "outcome"),
    ]
    for role, match in files:
        for when in ("before", "after"):
            if match == "tiny-tuned":
                yield Fault(role, "rename", when, match)
                continue
            if match != "train/pack/":  # not flushed: the record that comes after it holds its hash
                # The temporary file beside its place is what is flushed; its name holds the place's.
                yield Fault(role, "fsync", when, match.replace("/record.json", "/.record.json"))
            yield Fault(role, "replace", when, match)
    for when in ("before", "after"):
        yield Fault("api", "submit", when)
        for nth in (1, 2, 3, 5, 8, 13):
            yield Fault("api", "commit", when, nth=nth)
    for stage in (each.value for each in STAGES):
        for role in ("api", "driver", "driver_shell", "ray_head"):
            yield Fault(role, "kill", stage)
        yield Fault("client", "cancel", stage)
    yield Fault("generation_actor", "kill", "generate")
    yield Fault("train_worker", "kill", "train")


class Bench:
    """A running service with a fault file.

    Args:
        directory: For everything.
        settings: Of the service, beside or instead of the usual ones.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        from tests.integration.running import Service
        from tests.tiny_models import fit_draft, register_draft, write_target

        self.home, self.fault_file = directory / "home", directory / "fault.json"
        self.home.mkdir()
        self.target_dir = write_target(directory / "tiny-target", "llama")
        target = load_target(TargetSpec(model=str(self.target_dir), dtype="float32"))
        register_draft(self.home, fit_draft(target, steps=60), target)
        self.prompts = directory / "prompts.jsonl"
        rows = (json.dumps({"prompt": f"the user and the other assistant number {i}"}) for i in range(38))
        self.prompts.write_text("".join(row + "\n" for row in rows))
        env = {
            "EDA_SERVE": "false",
            "EDA_BACKOFF_S": "0.2",
            "EDA_GRACE_S": f"{GRACE_S:g}",
            "EDA_DISPATCH_INTERVAL_S": "0.3",
            "EDA_FAULT_FILE": str(self.fault_file),
            "PYTHONPATH": f"{ROOT / 'tests' / 'resilience' / 'injected'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            **(settings or {}),
        }
        self.service = Service(self.home, env, allow=directory)

    def run(self, fault: Fault | None) -> dict[str, Any]:
        """One job with one fault, to its end."""
        for path in self.fault_file.parent.glob("fault.json*"):
            path.unlink()
        outside = fault is not None and fault.op in ("kill", "cancel")
        if fault is not None and not outside:
            self.fault_file.write_text(json.dumps(asdict(fault)))
        elif fault is not None and fault.when in HELD_OPEN:
            pause_s = 4 * GRACE_S if fault.op == "cancel" else GRACE_S
            held = {"role": "driver", "when": "before", "pause_s": pause_s, **HELD_OPEN[fault.when]}
            self.fault_file.write_text(json.dumps(held))
        started = time.monotonic()
        with Client(str(self.service.up_file["api_url"]), max_retries=20) as client:
            job = client.create(self.body(), idempotency_key=f"{time.time_ns()}")
            struck = outside and fault is not None and self._strike(client, job.id, fault)
            since = time.monotonic()
            ended = client.wait(job.id, timeout_s=TIMEOUT_S)
            waited_s = time.monotonic() - since
            events = client.events(job.id)
        judged = self._judge(ended, [event.type for event in events])
        if fault is not None and fault.op == "cancel" and struck:
            judged["problems"] += self._judge_cancel(ended, waited_s)
        return {
            "fired": struck or (not outside and self.fault_file.with_name("fault.json.fired").exists()),
            "seconds": round(time.monotonic() - started, 1),
            **judged,
        }

    def body(self) -> dict[str, Any]:
        return {
            "model": str(self.target_dir),
            "base_draft": "tiny@1",
            "served_name": "tiny-tuned",
            "dataset": {"source": str(self.prompts), "num_prompts": 38},
            "config": CONFIG,
            "force": True,
        }

    def _strike(self, client: Client, job_id: str, fault: Fault) -> bool:
        for job in client.watch(job_id, interval_s=0.05):
            if job.stage == fault.when:
                if fault.op == "cancel":
                    with contextlib.suppress(ApiError):  # it has ended by itself
                        client.cancel(job_id)
                        return True
                    return False
                time.sleep(0.3)
                found = process_ids(self.service.up_file, fault.role, job_id)
                for pid in found[:1]:
                    os.kill(pid, signal.SIGKILL)
                if found:
                    return True
        return False

    def _judge_cancel(self, job: Adaptation, waited_s: float) -> list[str]:
        """A job may end by itself before the stop reaches it; then it succeeded, whole."""
        problems = [] if job.status in ("cancelled", "succeeded") else [f"a cancelled job ended as {job.status}"]
        if waited_s > CANCEL_S:
            problems.append(f"cancelling took {waited_s:.1f} s")
        up_file, roles = self.service.up_file, ("driver", "driver_shell", "train_worker", "generation_actor")
        deadline = time.monotonic() + max(0.0, CANCEL_S - waited_s)
        while True:
            left = [pid for role in roles for pid in process_ids(up_file, role, job.id)]
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        return problems + ([f"processes left: {left}"] if left else [])

    def _judge(self, job: Adaptation, types: list[str]) -> dict[str, Any]:
        packs = self.home / "packs" / "tiny-tuned"
        claims = [path for path in packs.glob(".*.job") if path.read_text() == job.id]
        staging = [path.name for path in packs.glob(".staging-*")]
        ends = [kind for kind in types if kind in ("job_succeeded", "job_failed", "job_cancelled")]
        sound = len(ends) == 1 and types[0] == "job_created" and types.count("attempt_started") == job.attempt
        problems = [] if sound else [f"events: {types}"]
        problems += [f"left in the registry: {name}" for name in staging]
        digest = None
        if job.status == "succeeded":
            if len(claims) != 1 or job.result_pack is None:
                problems.append(f"{len(claims)} pack versions for one job")
            else:
                digest = sha256_file(find_pack(job.result_pack, self.home) / "pack.safetensors")
        elif job.status != "cancelled" and (job.status != "failed" or job.error is None or not job.error.code):
            problems.append(f"ended as {job.status} without a code")
        return {
            "status": job.status,
            "code": None if job.error is None else job.error.code,
            "attempts": job.attempt,
            "pack_sha256": digest,
            "staging_left": len(staging),
            "problems": problems,
        }


def main() -> None:
    """The matrix, case by case; cases that are in the result already are not run again with `--resume`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--resume", action="store_true", help="keep the cases of the result file")
    arguments = parser.parse_args()
    path = RESULTS / RESULT
    names = {fault.name for fault in faults()}
    known = json.loads(path.read_text())["cases"] if arguments.resume and path.exists() else {}
    cases: dict[str, Any] = {name: case for name, case in known.items() if name in names}
    with tempfile.TemporaryDirectory(prefix="eda-faults-") as name:
        bench = Bench(Path(name))
        with bench.service:
            reference = bench.run(None)
            if reference["status"] != "succeeded":
                raise SystemExit(f"the uninterrupted run did not succeed: {reference}")
            for fault in faults():
                if fault.name in cases or arguments.only not in fault.name:
                    continue
                found = bench.run(fault)
                same = found["pack_sha256"] in (None, reference["pack_sha256"])
                cases[fault.name] = {**found, "pack_as_uninterrupted": same}
                sys.stderr.write(f"{fault.name}: {json.dumps(cases[fault.name])}\n")
                write_result(RESULT, summary(cases, reference))
    bad = [name for name, case in cases.items() if is_broken(case)]
    if bad:
        raise SystemExit(f"{len(bad)} cases broke a promise: {', '.join(bad)}")


def is_broken(case: dict[str, Any]) -> bool:
    """Whether a promise was."""
    return bool(case["problems"]) or not case["pack_as_uninterrupted"]


def summary(cases: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The result file."""
    return {
        **header("make proof NAME=faults"),
        "reference": reference,
        "num_cases": len(cases),
        "num_fired": sum(case["fired"] for case in cases.values()),
        "num_succeeded": sum(case["status"] == "succeeded" for case in cases.values()),
        "num_failed_with_a_code": sum(case["status"] == "failed" for case in cases.values()),
        "num_broken_promises": sum(is_broken(case) for case in cases.values()),
        "cases": cases,
    }


if __name__ == "__main__":
    main()
