"""Machines that die: `make proof NAME=nodes` writes `benchmarks/results/nodes.json`.

Five machines made of network namespaces (tests/resilience/network.py), the service on the first, which offers no
processors, nodes on the others, a tiny target. A machine is switched off (SIGKILL for all its processes at once) or cut
off (its interface goes down, its processes go on) while a job generates or trains on it, or while it serves. The job
must succeed with the pack of the uninterrupted run, byte for byte; at the endpoint every answer must be right, and
answers must go on. Beside the faults: work is spread over machines, and a machine added in mid-generation gets some.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.workloads import RESULTS, header, write_result
from eda_service.client import Adaptation, Client
from eda_service.config.job import TargetSpec
from eda_service.config.overrides import merge
from eda_service.storage.files import sha256_file
from eda_service.storage.published.registry import find_pack
from eda_service.targets.loader import load_target
from tests.resilience.faults import CONFIG
from tests.resilience.nodes_faults import TIMEOUT_S, Fault, heal, strike
from tests.resilience.nodes_serving import SERVE_FOR_S, serve

RESULT = "nodes.json"
NUM_MACHINES = 5  # with the head; the last one joins late
NUM_PROMPTS = 198
LONGEST_GAP_S = 10.0
MEMBERS = list(range(1, NUM_MACHINES - 1))
SETTINGS = {
    "EDA_BACKOFF_S": "0.2",
    "EDA_DISPATCH_INTERVAL_S": "0.3",
    "EDA_MAX_ATTEMPTS": "5",
    "EDA_SERVE_MAX_REPLICAS_PER_NODE": "1",  # a machine that dies takes one of two with it
}
JOB = merge(
    CONFIG,
    {
        "selfgen": {"max_new_tokens": 96, "num_actors": 3},
        "train": {"num_workers": 2, "batch_size": 8, "epochs": 8, "checkpoint_every_steps": 5},
        "evaluation": {"num_prompts": 2, "max_new_tokens": 8, "temperatures": [0.0]},
    },
)


ADAPTING = (
    Fault("kill", "generate", "generation_actor"),
    Fault("cut", "train", "train_worker"),
    Fault("kill", "train", "driver"),
    Fault("cut", "generate", "generation_actor"),
    Fault("kill", "train", "train_worker"),
    Fault("cut", "generate", "driver"),
    Fault("kill", "generate", "driver"),
    Fault("cut", "train", "driver"),
)
SERVING = (Fault("kill", "serve", "replica"), Fault("cut", "serve", "replica"))


@dataclass
class Sightings:
    """On which machines the processes of each role were seen."""

    machines: dict[str, set[int]] = field(default_factory=dict)

    def look(self, cluster: Any) -> None:
        """Look once."""
        for role, found in cluster.look().items():
            if role != "replica":
                self.machines.setdefault(role, set()).update(found)

    def as_dict(self) -> dict[str, list[int]]:
        """Sorted."""
        return {role: sorted(found) for role, found in self.machines.items()}


class NodesBench:
    """Files of the runs: a tiny target with its draft, prompts, a home per service."""

    def __init__(self, directory: Path) -> None:
        from tests.tiny_models import fit_draft, register_draft, write_target

        self.directory, self.home = directory, directory / "home"
        self.home.mkdir()
        self.target_dir = write_target(directory / "tiny-target", "llama")
        target = load_target(TargetSpec(model=str(self.target_dir), dtype="float32"))
        register_draft(self.home, fit_draft(target, steps=60), target)
        self.prompts = directory / "prompts.jsonl"
        rows = (json.dumps({"prompt": f"the user and the other assistant number {i}"}) for i in range(NUM_PROMPTS))
        self.prompts.write_text("".join(row + "\n" for row in rows))

    @contextmanager
    def cluster(self, network: Any, members: Sequence[int], *, serve: bool = False) -> Iterator[Any]:
        """A service with nodes on these machines."""
        from tests.resilience.cluster import Cluster

        env = {**SETTINGS, "EDA_SERVE": str(serve).lower()}
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


def adapt(bench: NodesBench, cluster: Any, fault: Fault | None) -> dict[str, Any]:
    """One job to its end, with a fault in the middle of a stage."""
    began, seen, struck = time.monotonic(), Sightings(), None
    with Client(cluster.url, max_retries=20) as client:
        first = client.create(bench.body())
        for job in client.watch(first.id, interval_s=0.3):
            seen.look(cluster)
            if fault is not None and struck is None and job.stage == fault.stage and is_amid(job.progress):
                struck = strike(cluster, fault)
                at = None if job.progress is None else f"{job.progress.step} of {job.progress.total_steps}"
            if time.monotonic() - began > TIMEOUT_S:
                break
        events = client.events(first.id)
    found = {
        **outcome(bench, job, began),
        "machines": seen.as_dict(),
        "resumed": [event.message for event in events if event.type in ("generate_resumed", "train_resumed")],
    }
    if struck is not None:
        found |= {"machine": struck, "struck_at": at}
        found["nodes_again_s"] = round(heal(cluster, struck, killed=fault is not None and fault.how == "kill"), 1)
    return found


def outcome(bench: NodesBench, job: Adaptation, began: float) -> dict[str, Any]:
    """How a job ended that began at a monotonic time, and the hash of its pack."""
    seconds, pack = time.monotonic() - began, None
    if job.result_pack is not None:
        pack = sha256_file(find_pack(job.result_pack, bench.home) / "pack.safetensors")
    return {
        "status": job.status,
        "code": None if job.error is None else job.error.code,
        "attempts": job.attempt,
        "seconds": round(seconds, 1),
        "pack_sha256": pack,
    }


def is_amid(progress: Any) -> bool:
    """Whether a stage is past its start and not near its end."""
    return progress is not None and 0 < progress.step < 0.7 * progress.total_steps


def add(bench: NodesBench, cluster: Any, number: int) -> dict[str, Any]:
    """A job that wants more actors than there is room for, and a machine that joins while it generates."""
    seen, joined_at = Sightings(), None
    with Client(cluster.url, max_retries=20) as client:
        # Long enough for a machine that joins to start an actor before the last shard is taken.
        first = client.create(bench.body(selfgen={"num_actors": 7, "answers_per_prompt": 6}, train={"epochs": 1}))
        for job in client.watch(first.id, interval_s=0.3):
            if joined_at is None and job.stage == "generate" and job.progress is not None and job.progress.step > 0:
                cluster.join(number)
                joined_at = f"{job.progress.step} of {job.progress.total_steps}"
            seen.look(cluster)
    machines = seen.as_dict()
    used = number in machines["generation_actor"]
    return {"status": job.status, "joined_at": joined_at, "machines": machines, "added_machine_generated": used}


@dataclass
class Results:
    """What the file holds.

    Attributes:
        uninterrupted: The run without a fault.
        added: The run during which a machine joined.
        cases: Fault runs by name.
    """

    uninterrupted: dict[str, Any] | None = None
    added: dict[str, Any] | None = None
    cases: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Results:
        """From the file, without the fault runs that did not end well."""
        found = json.loads((RESULTS / RESULT).read_text(encoding="utf-8"))
        cases = {name: case for name, case in found["cases"].items() if case["ends_well"]}
        added = found["added"]
        return cls(found["uninterrupted"], added if _got_work(added) else None, cases)

    def add(self, fault: Fault, case: dict[str, Any]) -> None:
        """Judge a fault run and write the file."""
        self.cases[fault.name] = {**case, "ends_well": self._ends_well(case)}
        sys.stderr.write(f"{fault.name}: {json.dumps(self.cases[fault.name])}\n")
        self.write()

    def write(self) -> None:
        """Write the file."""
        machines = {} if self.uninterrupted is None else self.uninterrupted["machines"]
        result = {
            **header("make proof NAME=nodes"),
            "num_machines": NUM_MACHINES,
            "uninterrupted": self.uninterrupted,
            "num_machines_by_role": {role: len(found) for role, found in machines.items()},
            "added": self.added,
            "num_fault_runs": len(self.cases),
            "num_ended_well": sum(case["ends_well"] for case in self.cases.values()),
            "cases": self.cases,
        }
        write_result(RESULT, result)

    def bad(self) -> list[str]:
        """What did not end well."""
        found = [name for name, case in self.cases.items() if not case["ends_well"]]
        if self.added is not None and not _got_work(self.added):
            found.append("the added machine")
        return found

    def _ends_well(self, case: dict[str, Any]) -> bool:
        if "num_answers" in case:
            going_on = case["longest_gap_s"] < LONGEST_GAP_S and case["num_different_texts"] == 1
            return bool(going_on and case["last_error_after_s"] < SERVE_FOR_S - LONGEST_GAP_S)
        assert self.uninterrupted is not None
        same = case["pack_sha256"] == self.uninterrupted["pack_sha256"]
        return bool(case["status"] == "succeeded" and case.get("machine") is not None and same)


def _got_work(added: dict[str, Any] | None) -> bool:
    """Whether the job of `add` succeeded and the machine that joined had a part in it."""
    return added is not None and added["status"] == "succeeded" and bool(added["added_machine_generated"])


def main() -> None:
    """All runs; the program starts itself again on the first machine."""
    from tests.resilience.network import on_head

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resume", action="store_true", help="keep the runs of the result file that ended well")
    parser.add_argument("--only", choices=("adapt", "serve"), help="one half")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # clean up
    network = on_head(NUM_MACHINES, ["-m", "tests.resilience.nodes", *sys.argv[1:]])
    results = Results.read() if arguments.resume else Results()
    # Not under /tmp, of which every machine has its own.
    directory = Path(tempfile.mkdtemp(prefix="eda-nodes-", dir="/var/tmp"))
    try:
        bench = NodesBench(directory)
        if arguments.only != "serve":
            run_adapting(network, bench, results)
        if arguments.only != "adapt":
            run_serving(network, bench, results)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if bad := results.bad():
        raise SystemExit(f"these did not end well: {', '.join(bad)}")


def run_adapting(network: Any, bench: NodesBench, results: Results) -> None:
    """The uninterrupted run, the faults, the added machine."""
    with bench.cluster(network, MEMBERS) as cluster:
        if results.uninterrupted is None:
            results.uninterrupted = adapt(bench, cluster, None)
            sys.stderr.write(f"uninterrupted: {json.dumps(results.uninterrupted)}\n")
            if results.uninterrupted["status"] != "succeeded":
                raise SystemExit("the uninterrupted run did not succeed")
        for fault in ADAPTING:
            if fault.name not in results.cases:
                results.add(fault, adapt(bench, cluster, fault))
        if results.added is None:
            results.added = add(bench, cluster, NUM_MACHINES - 1)
            results.write()


def run_serving(network: Any, bench: NodesBench, results: Results) -> None:
    """The faults at the endpoint."""
    todo = [fault for fault in SERVING if fault.name not in results.cases]
    if todo:
        with bench.cluster(network, MEMBERS, serve=True) as cluster:
            for fault in todo:
                results.add(fault, serve(bench.target_dir, cluster, fault))


if __name__ == "__main__":
    main()
