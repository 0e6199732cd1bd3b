"""Prometheus on the running service: `make proof NAME=monitoring` writes `benchmarks/results/monitoring.json`.

Debian's Prometheus, with the files of `cluster/monitoring`, scrapes `eda up` while users ask SmolLM2's math target and
a small adaptation runs. Every expression of the dashboard, and of the alerts without their thresholds, has to return
data; promtool has to accept the files and see each alert fire in its unit test. Grafana is not run.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.bench_service import BenchService, smollm2_service
from benchmarks.serving_load import body_of
from benchmarks.workloads import DOMAINS, ROOT, header, write_result
from eda_service.client import Client
from eda_service.raycluster.processes import free_port
from tests.resilience.monitoring_files import FOLDER, Expression, alert_expressions, alerts, dashboard_expressions

logger = logging.getLogger(__name__)

MATH = DOMAINS[0]
WATCH = {"below": 1.0, "min_rounds": 40, "window_s": 86_400}
SETTINGS = {"EDA_WEBHOOK_PRIVATE_ADDRESSES": "true", "EDA_DRIFT_INTERVAL_S": "1"}
SCRAPE_S = 5
QUESTIONS = ("What is {0} times 7?", "Ann has {0} apples and eats 3. How many are left?", "Who wrote play number {0}?")
JOB: dict[str, Any] = {
    "model": MATH.target,
    "preset": "demo",
    "served_name": "monitored",
    "webhook": {"url": "https://localhost:9/nobody-listens"},
    "config": {
        "dataset": {"num_prompts": 24},
        "selfgen": {"max_new_tokens": 32, "num_actors": 1},
        "selection": {"num_reference_prompts": 8, "reference_max_new_tokens": 16},
        "train": {"epochs": 1, "num_workers": 1},
        "evaluation": {"num_prompts": 4, "max_new_tokens": 16, "temperatures": [0.0], "num_timed_prompts": 0},
        "deploy": {"min_gain": 0, "min_speed_gain": 0},
    },
}
_PATIENCE_S = 1500.0


def promtool(binaries: Path) -> dict[str, str]:
    """What promtool says of the files; raises where it refuses one."""
    said = {}
    for command in ("check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"):
        words = [str(binaries / "promtool"), *command.split()]
        done = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"promtool {command}:\n{done.stdout}{done.stderr}")
        said[command] = "SUCCESS"
    return said


class Prometheus:
    """A server over the committed configuration; only the address of the service and the interval are others.

    Args:
        url: Its own.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def get(self, path: str, **query: str) -> Any:
        """The `data` of an answer."""
        answer = self._http.get(f"/api/v1/{path}", params=query).raise_for_status().json()
        return answer["data"]

    def num_values(self, promql: str) -> int:
        """Series of an instant query that have a number."""
        found = self.get("query", query=promql)["result"]
        return sum(not math.isnan(float(series["value"][1])) for series in found)

    def wait_scraped(self) -> None:
        """Until the newest scrape of the service came through."""
        while not self.num_values('up{job="eda"} > 0'):
            time.sleep(0.5)

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return self._http.get("/-/ready").is_success
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


@contextmanager
def prometheus(binaries: Path, folder: Path, scraped: str) -> Iterator[Prometheus]:
    """Run until the end of the block."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [scraped.removeprefix("http://")]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([binaries / "prometheus", *options], stdout=log, stderr=log)
    server = Prometheus(f"http://{address}")
    try:
        deadline = time.monotonic() + 60
        while not server.is_ready():
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.2)
        yield server
    finally:
        server.close()
        child.terminate()
        child.wait(30)


def ask(url: str, stop: threading.Event) -> None:
    """Two questions at a time until told to stop; while the deployment loads the answer is 503, which is wanted too."""

    def stream(first: int) -> None:
        with httpx.Client(base_url=f"{url}/v1/", timeout=300, trust_env=False) as http:
            for number in itertools.count(first):
                if stop.wait(0.2):
                    return
                messages = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)].format(number)}]
                http.post("chat/completions", json=body_of(MATH.target, messages, 48))

    streams = [threading.Thread(target=stream, args=(first,), daemon=True) for first in range(2)]
    for each in streams:
        each.start()
    for each in streams:
        each.join()


def measure(bench_service: BenchService, server: Prometheus) -> dict[str, Any]:
    """Serve, ask and adapt until every expression has returned data, or patience ends."""
    stop = threading.Event()
    server.wait_scraped()  # what happens before the first scrape is no increase
    with Client(bench_service.url) as client:
        wanted = {"name": MATH.target, "model": MATH.target, "pack": f"{MATH.target}@champion"}
        client.deployments.create({**wanted, "drift": WATCH})
        asking = threading.Thread(target=ask, args=(bench_service.url, stop), daemon=True)
        asking.start()
        try:
            job = client.create(JOB)
            client.deployments.wait_ready(MATH.target, timeout_s=_PATIENCE_S)
            found = collect(server, [*dashboard_expressions(), *alert_expressions()])
            ended = client.wait(job.id, timeout_s=_PATIENCE_S)
        finally:
            stop.set()
            asking.join(60)
    server.wait_scraped()
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    return {
        "job_status": ended.status,
        "targets_up": [target["health"] for target in server.get("targets")["activeTargets"]],
        "rules_healthy": sum(rule["health"] == "ok" for rule in rules),
        "series_scraped": server.num_values('{job="eda"}'),
        **found,
    }


def collect(server: Prometheus, expressions: list[Expression]) -> dict[str, Any]:
    """Ask every expression until each has returned a number once."""
    values = dict.fromkeys((each.name for each in expressions), 0)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        for each in expressions:
            values[each.name] = values[each.name] or server.num_values(each.promql)
        missing = [name for name, number in values.items() if not number]
        if not missing:
            break
        logger.info("%d of %d expressions without data yet: %s", len(missing), len(values), missing[:6])
        time.sleep(5)
    return {"expressions": len(values), "without_data": [name for name in values if not values[name]], "series": values}


def main() -> None:
    """Check, serve, scrape and write the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    install = ["sh", str(ROOT / "tests" / "install_prometheus.sh")]
    binaries = Path(subprocess.run(install, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    said = promtool(binaries)
    version = subprocess.run([binaries / "promtool", "--version"], check=True, capture_output=True, text=True).stdout
    os.environ.update(SETTINGS)
    with (
        tempfile.TemporaryDirectory(prefix="eda-prometheus-") as name,
        smollm2_service([MATH]) as bench_service,
        prometheus(binaries, Path(name), bench_service.url) as server,
    ):
        found = measure(bench_service, server)
    num_alerts = len(alerts())
    tools = {"prometheus": version.split("\n")[0], "promtool": said, "alerts": num_alerts}
    logger.info("%s", write_result("monitoring.json", header("make proof NAME=monitoring") | tools | found))
    if found["without_data"] or found["rules_healthy"] < num_alerts:
        raise SystemExit(f"no data: {found['without_data']}; healthy: {found['rules_healthy']} of {num_alerts} rules")


if __name__ == "__main__":
    main()
