"""Machines that die: `make proof-nodes` writes `benchmarks/results/nodes.json`.

Five machines made of network namespaces (tests/multinode/network.py), the service on the first, which offers no
processors, nodes on the others, a tiny target. A machine is switched off (SIGKILL for all its processes at once) or cut
off (its interface goes down, its processes go on) while a job generates or trains on it, or while it serves. The job
must succeed with the pack of the uninterrupted run, byte for byte; at the endpoint every answer must be right, and
answers must go on. Beside the faults: work is spread over machines, and a machine added in mid-generation gets some.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.faults import CONFIG
from benchmarks.pairs import ROOT, header, write_result
from eda_service.artifacts.files import sha256_file
from eda_service.artifacts.registry import find_pack
from eda_service.client import Client
from eda_service.config import TargetSpec
from eda_service.presets import merge
from eda_service.target.loader import load_target

sys.path[:0] = [str(ROOT / "tests" / part) for part in ("", "integration", "multinode")]

RESULT = "nodes.json"
NUM_MACHINES = 5  # with the head; the last one joins late
NUM_PROMPTS = 390
TIMEOUT_S = 900.0
QUESTION = [{"role": "user", "content": "the other one and the user"}]
SERVE_FOR_S = 120.0
JOB = merge(
    CONFIG,
    {
        "selfgen": {"max_new_tokens": 96, "num_actors": 3},
        "train": {"num_workers": 2, "batch_size": 8, "epochs": 16},
    },
)


@dataclass(frozen=True)
class Fault:
    """One case.

    Attributes:
        how: `kill` or `cut`.
        stage: Of the job, or `serve`.
        role: Whose machine, of cluster.ROLES.
    """

    how: str
    stage: str
    role: str

    @property
    def name(self) -> str:
        """Of the case."""
        return f"{self.how}-{self.role}-{self.stage}"


ADAPTING = (
    Fault("kill", "generate", "generation_actor"),
    Fault("cut", "generate", "generation_actor"),
    Fault("kill", "generate", "driver"),
    Fault("cut", "generate", "driver"),
    Fault("kill", "train", "train_worker"),
    Fault("cut", "train", "train_worker"),
    Fault("kill", "train", "driver"),
    Fault("cut", "train", "driver"),
)
SERVING = (Fault("kill", "serve", "replica"), Fault("cut", "serve", "replica"))


@dataclass
class Sightings:
    """On which machines the processes of each role were seen."""

    machines: dict[str, set[int]] = field(default_factory=dict)

    def look(self, cluster: Any) -> None:
        """Look once."""
        for role in ("driver", "generation_actor", "train_worker"):
            self.machines.setdefault(role, set()).update(cluster.where(role))

    def as_dict(self) -> dict[str, list[int]]:
        """Sorted."""
        return {role: sorted(found) for role, found in self.machines.items()}


class Bed:
    """Files of the runs: a tiny target with its draft, prompts, a home per service."""

    def __init__(self, directory: Path) -> None:
        from tiny_models import fit_draft, register_draft, write_target

        self.directory, self.home = directory, directory / "home"
        self.home.mkdir()
        self.target_dir = write_target(directory / "tiny-target", "llama")
        target = load_target(TargetSpec(model=str(self.target_dir), dtype="float32"))
        register_draft(self.home, fit_draft(target, steps=60), target)
        self.prompts = directory / "prompts.jsonl"
        rows = (json.dumps({"prompt": f"the user and the other assistant number {i}"}) for i in range(NUM_PROMPTS))
        self.prompts.write_text("".join(row + "\n" for row in rows))

    @contextmanager
    def cluster(self, network: Any, members: list[int], *, serve: bool = False) -> Iterator[Any]:
        """A service with nodes on these machines."""
        from cluster import Cluster

        env = {
            "EDA_SERVE": str(serve).lower(),
            "EDA_BACKOFF_S": "0.2",
            "EDA_DISPATCH_INTERVAL_S": "0.3",
            "EDA_MAX_ATTEMPTS": "5",
        }
        with Cluster(network, self.home, env, members=members, allow=self.directory) as started:
            yield started

    def body(self, **changes: Any) -> dict[str, Any]:
        """A job."""
        return {
            "model": str(self.target_dir),
            "base_draft": "tiny@1",
            "served_name": "tiny-tuned",
            "dataset": {"source": str(self.prompts), "num_prompts": NUM_PROMPTS},
            "config": merge(JOB, changes),
            "force": True,
        }


def adapt(bed: Bed, cluster: Any, fault: Fault | None) -> dict[str, Any]:
    """One job to its end, with a fault in the middle of a stage."""
    began, seen, struck = time.monotonic(), Sightings(), None
    with Client(cluster.url, max_retries=20) as client:
        job = client.create(bed.body())
        for job in client.watch(job.id, interval_s=0.2):
            seen.look(cluster)
            if fault is not None and struck is None and job.stage == fault.stage and _is_amid(job.progress):
                struck = strike(cluster, fault)
                at = None if job.progress is None else f"{job.progress.step} of {job.progress.total_steps}"
            if time.monotonic() - began > TIMEOUT_S:
                break
        events = client.events(job.id)
    seconds = time.monotonic() - began
    found: dict[str, Any] = {
        "status": job.status,
        "code": None if job.error is None else job.error.code,
        "attempts": job.attempt,
        "seconds": round(seconds, 1),
        "machines": seen.as_dict(),
        "resumed": [event.message for event in events if event.type in ("generate_resumed", "train_resumed")],
        "pack_sha256": None,
    }
    if job.result_pack is not None:
        found["pack_sha256"] = sha256_file(find_pack(job.result_pack, bed.home) / "pack.safetensors")
    if struck is not None:
        found |= {"machine": struck, "struck_at": at}
        found["nodes_again_s"] = round(heal(cluster, struck, killed=fault is not None and fault.how == "kill"), 1)
    return found


def _is_amid(progress: Any) -> bool:
    """Whether a stage is past its start and not near its end."""
    return progress is not None and 0 < progress.step < 0.7 * progress.total_steps


def strike(cluster: Any, fault: Fault) -> int | None:
    """Kill or cut a machine with a process of the role, the driver's only if that is asked for; returns which."""
    drivers = set(cluster.where("driver"))
    found = [number for number in cluster.where(fault.role) if fault.role == "driver" or number not in drivers]
    if not found:
        return None
    if fault.how == "kill":
        cluster.kill(found[0])
    else:
        cluster.network.cut(found[0])
    return found[0]


def heal(cluster: Any, number: int, *, killed: bool) -> float:
    """Put the machine back and wait until it is a node again; returns how long that took."""
    if killed:
        cluster.join(number)
    else:
        cluster.network.mend(number)
    waited: float = cluster.wait_joined(sorted({*cluster.alive(), number}))
    return waited


def add(bed: Bed, cluster: Any, number: int) -> dict[str, Any]:
    """A job that wants more actors than there is room for, and a machine that joins while it generates."""
    seen, joined_at = Sightings(), None
    with Client(cluster.url, max_retries=20) as client:
        job = client.create(bed.body(selfgen={"num_actors": 7}))
        for job in client.watch(job.id, interval_s=0.2):
            if joined_at is None and job.stage == "generate" and job.progress is not None and job.progress.step > 0:
                cluster.join(number)
                joined_at = f"{job.progress.step} of {job.progress.total_steps}"
            seen.look(cluster)
    machines = seen.as_dict()
    used = number in machines["generation_actor"]
    return {"status": job.status, "joined_at": joined_at, "machines": machines, "added_machine_generated": used}


@dataclass
class Answers:
    """What clients saw, in order of time: (seconds since the start, the text, or None for an error)."""

    rows: list[tuple[float, str | None]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def ask_on(url: str, answers: Answers, began: float, stop: threading.Event) -> None:
    """Ask the same question again and again, as a client with a timeout of ten seconds and no retries does."""
    body = {"model": "m", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    while not stop.is_set():
        text = None
        try:
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=10)
            if answer.status_code == httpx.codes.OK:
                text = answer.json()["choices"][0]["message"]["content"]
            else:
                answers.errors.append(str(answer.json()["error"]["code"]))
        except httpx.HTTPError as error:
            answers.errors.append(type(error).__name__)
        answers.rows.append((time.monotonic() - began, text))
        stop.wait(0.1)


def serve(bed: Bed, cluster: Any, fault: Fault) -> dict[str, Any]:
    """Two replicas on two machines under steady questions, and a fault on one machine."""
    with Client(cluster.url) as client:
        if "m" not in [each.name for each in client.deployments.list()]:
            model = {"model": str(bed.target_dir), "dtype": "float32", "base_draft": "tiny@1"}
            client.deployments.create({**model, "name": "m", "replicas": 2})
        _wait_replicas(client)
        before = sorted(cluster.where("replica"))
        answers, stop, began = Answers(), threading.Event(), time.monotonic()
        clients = [
            threading.Thread(target=ask_on, args=(cluster.url, answers, began, stop), daemon=True) for _ in range(4)
        ]
        for each in clients:
            each.start()
        time.sleep(10)
        struck, struck_s = strike(cluster, fault), time.monotonic() - began
        stop.wait(SERVE_FOR_S)
        recovered_s = _wait_replicas(client)
        stop.set()
        for each in clients:
            each.join(30)
    assert struck is not None
    after = sorted(cluster.where("replica"))
    heal(cluster, struck, killed=fault.how == "kill")
    return {"machine": struck, "replicas_before": before, "replicas_after": after} | judge(
        answers, struck_s, recovered_s
    )


def judge(answers: Answers, struck_s: float, recovered_s: float) -> dict[str, Any]:
    """Numbers of one serving run."""
    good = [at for at, text in sorted(answers.rows) if text is not None]
    texts = {text for _, text in answers.rows if text is not None}
    bad_after = [at for at, text in answers.rows if text is None and at > struck_s]
    longest = max((b - a for a, b in zip(good, good[1:], strict=False)), default=0.0)
    return {
        "num_answers": len(good),
        "num_errors": len(answers.errors),
        "errors": {code: answers.errors.count(code) for code in sorted(set(answers.errors))},
        "num_different_texts": len(texts),
        "longest_gap_s": round(longest, 2),
        "last_error_after_s": round(max(bad_after, default=struck_s) - struck_s, 1),
        "second_replica_again_s": round(SERVE_FOR_S + recovered_s, 1),
    }


def _wait_replicas(client: Client) -> float:
    began = time.monotonic()
    while client.deployments.get("m").replicas.running < 2:
        if time.monotonic() - began > TIMEOUT_S:
            raise SystemExit("there are not two replicas")
        time.sleep(0.3)
    return time.monotonic() - began


def ends_well(case: dict[str, Any], reference: dict[str, Any]) -> bool:
    """Whether a fault run did."""
    if "num_answers" in case:
        going_on = case["longest_gap_s"] < 10.0 and case["num_different_texts"] == 1
        return going_on and case["last_error_after_s"] < SERVE_FOR_S - 10.0
    return (
        case["status"] == "succeeded"
        and case.get("machine") is not None
        and case["pack_sha256"] == reference["pack_sha256"]
    )


def summary(reference: dict[str, Any], cases: dict[str, Any], added: dict[str, Any] | None) -> dict[str, Any]:
    """The result file."""
    spread = {role: len(found) for role, found in reference["machines"].items()}
    return {
        **header("make proof-nodes"),
        "num_machines": NUM_MACHINES,
        "uninterrupted": reference,
        "num_machines_by_role": spread,
        "added": added,
        "num_fault_runs": len(cases),
        "num_ended_well": sum(case["ends_well"] for case in cases.values()),
        "cases": cases,
    }


def main() -> None:
    """All runs; the program starts itself again on the first machine."""
    from network import Network, network_here, run_on_head, why_not

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="fault runs whose name contains this")
    arguments = parser.parse_args()
    network = network_here()
    if network is None:
        if (reason := why_not()) is not None:
            raise SystemExit(reason)
        with Network(NUM_MACHINES) as made:
            raise SystemExit(run_on_head(made, ["-m", "benchmarks.nodes", *sys.argv[1:]]))
    # Not under /tmp, of which every machine has its own.
    directory = Path(tempfile.mkdtemp(prefix="eda-nodes-", dir="/var/tmp"))
    try:
        run(network, Bed(directory), arguments.only)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(network: Any, bed: Bed, only: str) -> None:
    """The uninterrupted run, every fault, the added machine; the result file is written after each."""
    cases: dict[str, Any] = {}
    added: dict[str, Any] | None = None
    members = list(range(1, NUM_MACHINES - 1))
    with bed.cluster(network, members) as cluster:
        reference = adapt(bed, cluster, None)
        sys.stderr.write(f"uninterrupted: {json.dumps(reference)}\n")
        if reference["status"] != "succeeded":
            raise SystemExit("the uninterrupted run did not succeed")
        for fault in (each for each in ADAPTING if only in each.name):
            cases[fault.name] = adapt(bed, cluster, fault)
            note(fault, cases, reference, added)
        added = add(bed, cluster, NUM_MACHINES - 1)
        sys.stderr.write(f"added: {json.dumps(added)}\n")
    with bed.cluster(network, members, serve=True) as cluster:
        for fault in (each for each in SERVING if only in each.name):
            cases[fault.name] = serve(bed, cluster, fault)
            note(fault, cases, reference, added)
    bad = [name for name, case in cases.items() if not case["ends_well"]]
    if bad or added["status"] != "succeeded" or not added["added_machine_generated"]:
        raise SystemExit(f"these did not end well: {', '.join(bad) or 'the added machine'}")


def note(fault: Fault, cases: dict[str, Any], reference: dict[str, Any], added: dict[str, Any] | None) -> None:
    """Judge the newest case and write the file."""
    cases[fault.name]["ends_well"] = ends_well(cases[fault.name], reference)
    sys.stderr.write(f"{fault.name}: {json.dumps(cases[fault.name])}\n")
    write_result(RESULT, summary(reference, cases, added))


if __name__ == "__main__":
    main()
