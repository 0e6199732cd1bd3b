"""A head that dies and comes back, its state in Redis: `make proof NAME=gcs` writes `benchmarks/results/gcs.json`.

Four machines made of network namespaces (tests/resilience/redis_cluster.py): Redis and the API on the first, Ray's head
on the second, which does no work, workers on the others. The head's machine is switched off for twenty seconds while
two replicas answer, with Serve's proxies on every node and on the head alone, and while a job generates and trains.
Replicas must be the same processes afterwards and take a further model; the job must end with the pack of the
uninterrupted run, byte for byte.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.workloads import ROOT, header, write_result
from eda_service.client import Client
from tests.resilience.nodes import SETTINGS, NodesBench, is_amid, outcome
from tests.resilience.nodes_faults import TIMEOUT_S
from tests.resilience.nodes_serving import asking, judge, wait_replicas

RESULT = "gcs.json"
NUM_MACHINES = 4
AWAY_S = 20.0
LOCATIONS = {"EveryNode": 2, "HeadOnly": 1}
"""Where Serve has proxies, and the machine whose proxy the API asks."""
STAGES = ("generate", "train")


def away(cluster: Any) -> float:
    """Switch the head's machine off and on again; returns how long its dashboard was gone."""
    began = time.monotonic()
    cluster.kill_head()
    time.sleep(AWAY_S)
    cluster.start_head()
    cluster.wait(cluster.is_head_up, "the new head's dashboard")
    return time.monotonic() - began


def serve(bench: NodesBench, start: Callable[[dict[str, str]], Any], location: str) -> dict[str, Any]:
    """Steady questions to two replicas while the head is away, and a further model afterwards."""
    from tests.resilience.redis_cluster import client_of

    model = {"model": str(bench.target_dir), "dtype": "float32", "base_draft": "tiny@1"}
    with start({"EDA_SERVE_PROXY_LOCATION": location}) as cluster, client_of(cluster) as client:
        client.deployments.create({**model, "name": "m", "replicas": 2})
        wait_replicas(client)
        before = cluster.pids("replica")
        with asking(cluster.url) as (answers, began):
            time.sleep(10)
            struck_s = time.monotonic() - began
            gone_s = away(cluster)
            wait_replicas(client)
            time.sleep(20)
        after = cluster.pids("replica")
        further_s = load_further(client, {**model, "name": "n"})
        kept = cluster.pids("replica")
        for name in ("m", "n"):  # the next service has the same database
            client.deployments.delete(name)
    meanwhile = [at for at, text in answers.rows if text is not None and struck_s < at < struck_s + AWAY_S]
    return {
        "head_gone_s": round(gone_s, 1),
        **judge(answers, struck_s),
        "num_answers_while_gone": len(meanwhile),
        "replica_machines": sorted(before.values()),
        "same_replicas": before == after == kept,
        "further_model_s": round(further_s, 1),
        "ends_well": before == after == kept and (location == "HeadOnly" or len(meanwhile) > 0),
    }


def load_further(client: Client, model: dict[str, Any]) -> float:
    """Deploy one more model, which the controller has to load into the replicas; returns how long that took."""
    began = time.monotonic()
    client.deployments.create(model)
    client.deployments.wait_ready(model["name"], interval_s=0.3)
    return time.monotonic() - began


def adapt(bench: NodesBench, cluster: Any, client: Client, stage: str | None) -> dict[str, Any]:
    """One job, and the head away in the middle of a stage."""
    began, found = time.monotonic(), {}
    first = client.create(bench.body())
    for job in client.watch(first.id, interval_s=0.3):
        if stage is not None and not found and job.stage == stage and is_amid(job.progress):
            at = f"{job.progress.step} of {job.progress.total_steps}"
            found = {"struck_at": at, "head_gone_s": round(away(cluster), 1)}
        if time.monotonic() - began > TIMEOUT_S:
            break
    return {**outcome(bench, job, began), **found}


def jobs(bench: NodesBench, start: Callable[[dict[str, str]], Any]) -> dict[str, Any]:
    """The uninterrupted job, and one for each stage in which the head goes away."""
    from tests.resilience.redis_cluster import client_of

    with start({"EDA_SERVE": "false"}) as cluster, client_of(cluster) as client:
        found = {"uninterrupted": adapt(bench, cluster, client, None)}
        for stage in STAGES:
            case = adapt(bench, cluster, client, stage)
            same = case["pack_sha256"] == found["uninterrupted"]["pack_sha256"]
            found[stage] = {**case, "ends_well": case["status"] == "succeeded" and same and "struck_at" in case}
            sys.stderr.write(f"{stage}: {json.dumps(found[stage])}\n")
    return found


def main() -> None:
    """All runs; the program starts itself again on the first machine."""
    from tests.resilience.network import on_head
    from tests.resilience.redis_cluster import RedisCluster

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # clean up
    # Before the network, whose machines reach nothing outside; there it only says where Redis is.
    installed = subprocess.run(["sh", str(ROOT / "tests" / "install_redis.sh")], check=True, stdout=subprocess.PIPE)
    redis = Path(installed.stdout.decode().strip())
    network = on_head(NUM_MACHINES, ["-m", "tests.resilience.gcs"])
    directory = Path(tempfile.mkdtemp(prefix="eda-gcs-", dir="/var/tmp"))  # of /tmp every machine has its own
    result: dict[str, Any] = {**header("make proof NAME=gcs"), "away_s": AWAY_S, "serving": {}, "jobs": {}}
    try:
        bench = NodesBench(directory)

        def start(env: dict[str, str]) -> Any:
            upstream = LOCATIONS[env.get("EDA_SERVE_PROXY_LOCATION", "HeadOnly")]
            return RedisCluster(network, bench.home, redis, {**SETTINGS, **env}, upstream=upstream, allow=directory)

        for location in LOCATIONS:
            result["serving"][location] = serve(bench, start, location)
            sys.stderr.write(f"{location}: {json.dumps(result['serving'][location])}\n")
            write_result(RESULT, result)
        result["jobs"] = jobs(bench, start)
        write_result(RESULT, result)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    runs = {**result["serving"], **{stage: result["jobs"][stage] for stage in STAGES}}
    if bad := [name for name, run in runs.items() if not run["ends_well"]]:
        raise SystemExit(f"these did not end well: {', '.join(bad)}")


if __name__ == "__main__":
    main()
