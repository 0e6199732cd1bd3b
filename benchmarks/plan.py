"""The capacity plan compared with real runs and many jobs: `make bench NAME=plan` writes `results/plan.json` and
`.png`.

Three adaptations of SmolLM2's math target run through the service. The first calibrates the plan; the other two, larger
and with other settings, are planned with it and then compared. Then 10 to 1,000 variants of a 7B target a day on 64
GPUs are simulated, whose rates are assumptions (eda_service/planning/constants.py).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.workloads import RESULTS, header, write_result
from eda_service.client import Adaptation, Client
from eda_service.config.job import AdaptConfig
from eda_service.config.overrides import merge
from eda_service.config.presets import preset
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import CORE, DEVICES
from eda_service.planning.measured import Measured, measure
from eda_service.planning.plan import Plan, make_plan
from eda_service.planning.shapes import SHAPES
from eda_service.planning.simulate import SimulatedLoad, simulate
from eda_service.planning.workload import Lengths

RESULT = "plan.json"
TIMEOUT_S = 3600.0
LOOK_S = 5.0
GOAL = 0.2
STAGES = ("generate", "train", "evaluate")
RATES = (10.0, 30.0, 60.0, 100.0, 130.0, 150.0, 200.0, 500.0, 1000.0)
NUM_GPUS, GPUS_PER_JOB, DISK_TB = 64, 8, 20.0
MATH = "reasoning-gym:gsm_symbolic?templates=0-79"
BASE: dict[str, Any] = {
    "dataset": {"source": MATH, "num_prompts": 72},
    "selfgen": {"max_new_tokens": 64, "batch_size": 16, "shard_size": 32, "num_actors": 1},
    "selection": {"num_reference_prompts": 16, "reference_max_new_tokens": 32},
    "train": {"epochs": 6, "num_workers": 1},
    "evaluation": {"num_prompts": 8, "max_new_tokens": 48, "num_timed_prompts": 2, "num_timed_repeats": 2},
}
JOBS: dict[str, dict[str, Any]] = {
    "calibration": BASE,
    "larger": merge(
        BASE,
        {
            "dataset": {"num_prompts": 200},
            "selfgen": {"max_new_tokens": 96, "batch_size": 32, "shard_size": 64},
            "train": {"epochs": 8},
            "evaluation": {"num_prompts": 16},
        },
    ),
    "other settings": merge(
        BASE,
        {
            "dataset": {"num_prompts": 136},
            "selfgen": {"batch_size": 32, "answers_per_prompt": 2},
            "train": {"epochs": 5, "draft_vocab_size": 4096, "loss": {"unroll_steps": 1}},
        },
    ),
}


@dataclass(frozen=True)
class Run:
    """One adaptation that was run.

    Attributes:
        measured: Measured costs from its records.
        load: Number of processes that wanted a core, on average over the minute before each query; this job's own, at
            most two, count too. A larger number means that other processes slowed down the job.
    """

    measured: Measured
    load: tuple[float, ...]


def run_jobs() -> dict[str, Run]:
    """Adapt three times and read the costs of each."""
    from tests.integration.running import Service

    found = {}
    with tempfile.TemporaryDirectory(prefix="eda-plan-") as name:
        home = Path(name) / "home"
        home.mkdir()
        with Service(home, {"EDA_SERVE": "false"}) as service, Client(str(service.up_file["api_url"])) as client:
            for label, config in JOBS.items():
                body = {"model": "smollm2-135m-math", "preset": "demo", "force": True, "config": config}
                # The demo's held-out prompts have another source: keep it, with the number asked for.
                body["config"] = merge(config, {"eval_dataset": {"num_prompts": config["evaluation"]["num_prompts"]}})
                job, load = wait(client, client.create(body).id)
                if job.status != "succeeded":
                    raise SystemExit(f"the job {label!r} ended as {job.status}: {job.error}")
                measured = measure(home / "runs" / job.id)
                # The shipped target is an adapter over SmolLM2, whose sizes are known.
                found[label] = Run(replace(measured, shape=SHAPES["135m"]), load)
                sys.stderr.write(f"{label}: {json.dumps(measured.seconds)}, load {load}\n")
    return found


def wait(client: Client, job_id: str) -> tuple[Adaptation, tuple[float, ...]]:
    """Wait for a job's end; return it and the load of the machine meanwhile.

    Raises:
        SystemExit: The job has not ended in time.
    """
    started, load = time.monotonic(), []
    while time.monotonic() - started < TIMEOUT_S:
        time.sleep(LOOK_S)
        load.append(round(os.getloadavg()[0], 1))
        job = client.get(job_id)
        if job.is_terminal:
            return job, tuple(load)
    raise SystemExit(f"{job_id} has not ended in {TIMEOUT_S:.0f} s; run it on a quieter machine")


def load_of(run: Run) -> dict[str, float]:
    """Return the load average while a job ran."""
    return {"min": min(run.load), "median": statistics.median(run.load), "max": max(run.load)}


def compare(measured: Measured, calibration: Calibration) -> dict[str, Any]:
    """Compute planned divided by measured times, stage by stage and in all."""
    planned = measured.plan(CORE, calibration)
    stages = {
        name: {"planned_s": round(planned.stage(name).seconds, 1), "measured_s": round(measured.seconds[name], 1)}
        for name in STAGES
    }
    total = {key: round(sum(stage[key] for stage in stages.values()), 1) for key in ("planned_s", "measured_s")}
    rows = {**stages, "all three": total}
    for row in rows.values():
        row["ratio"] = round(row["planned_s"] / row["measured_s"], 3)
    generated = planned.stage("generate").disk_bytes
    disk = {"planned_bytes": round(generated), "measured_bytes": measured.disk_bytes}
    return {
        "lengths": asdict(measured.lengths),
        "stages": rows,
        "disk": {**disk, "ratio": round(generated / measured.disk_bytes, 3)},
    }


def seven_b() -> Plan:
    """Make the plan that is simulated: the paper's settings, eight H100 per job."""
    fields = merge(
        {"target": {"model": "7b"}, **preset("paper_7b")},
        {"selfgen": {"num_actors": GPUS_PER_JOB}, "train": {"num_workers": GPUS_PER_JOB, "use_gpu": True}},
    )
    return make_plan(AdaptConfig.model_validate(fields), SHAPES["7b"], DEVICES["h100"], Lengths(200.0, 160.0))


def simulated(plan: Plan) -> dict[str, Any]:
    """Simulate queues at each rate, with much disk space and with little."""
    running = NUM_GPUS // GPUS_PER_JOB + 1
    little = 1e12 * DISK_TB / 20
    return {
        name: {
            f"{rate:g}": asdict(simulate(plan, SimulatedLoad(rate, NUM_GPUS, max_running=running, disk_bytes=disk)))
            for rate in RATES
        }
        for name, disk in (("disk_20_tb", 1e12 * DISK_TB), ("disk_1_tb", little))
    }


def plot(found: dict[str, Any], path: Path) -> None:
    """Plot waits and utilisation over the rate."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (waits, busy) = plt.subplots(1, 2, figsize=(10, 3.6))
    for name, rows in found.items():
        rates = [float(rate) for rate in rows]
        label = name.replace("_", " ")
        for part, style in (("wait_p50_s", "-"), ("wait_p99_s", "--")):
            hours = [row[part] / 3600 for row in rows.values()]
            waits.plot(rates, hours, style, marker=".", label=f"{label}, {part.split('_')[1]}")
        busy.plot(rates, [row["utilisation"] for row in rows.values()], marker=".", label=label)
    waits.set(
        xscale="log",
        yscale="symlog",
        ylim=(0, None),
        xlabel="variants a day",
        ylabel="wait, hours",
        title="7B on 64 H100",
    )
    busy.set(xscale="log", ylim=(0, 1), xlabel="variants a day", ylabel="devices busy", title="utilisation")
    waits.legend(fontsize=7)
    busy.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run, compare and simulate; `--simulate` keeps the runs of the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulate", action="store_true", help="only the simulation")
    arguments = parser.parse_args()
    path = RESULTS / RESULT
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    checked = known.get("checked")
    if not arguments.simulate:
        runs = run_jobs()
        calibration = runs["calibration"].measured.calibration(CORE)
        checked = {"calibration": asdict(calibration), "load": {name: load_of(run) for name, run in runs.items()}} | {
            name: compare(run.measured, calibration) for name, run in runs.items() if name != "calibration"
        }
    plan = seven_b()
    found = simulated(plan)
    write_result(
        RESULT,
        {
            **header("make bench NAME=plan"),
            "goal": f"planned within {GOAL:.0%} of measured",
            "checked": checked,
            "assumed": asdict(DEVICES["h100"]),
            "seven_b": [asdict(stage) for stage in plan.stages],
            "num_gpus": NUM_GPUS,
            "gpus_per_job": GPUS_PER_JOB,
            "simulated": found,
        },
    )
    plot(found, RESULTS / "plan.png")


if __name__ == "__main__":
    main()
