"""`eda status`: the whole service on one screen."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from eda_service.cli.console import JsonOption, UrlOption, connect, err, own_home, print_json, running_url
from eda_service.cli.jobs.view import columns
from eda_service.client import Client, Deployment, Job
from eda_service.formatting import duration, percent, rate, size

_TOKENS = re.compile(r'^vllm:generation_tokens_total\{[^}]*\bmodel_name="([^"]*)"[^}]*\} ([0-9.eE+-]+)$', re.MULTILINE)
_MAX_ROWS = 20


def status(
    window_s: Annotated[
        float, typer.Option("--over", min=0.2, max=60.0, metavar="SECONDS", help="Tokens/s are counted for so long.")
    ] = 1.0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the service, its page, the queue, what runs and how long yet, what is served and how fast, and the disk."""
    with connect(url) as client, err.status("looking"):
        found = look(client, window_s=window_s)
        found["disk"] = _disk() if url is None or url == running_url() else None
    print_json(found) if as_json else typer.echo(status_text(found))


def look(client: Client, *, window_s: float) -> dict[str, Any]:
    """Ask the service for everything that the screen shows."""
    health = client.health()
    jobs = [job for each in ("running", "cancelling") for job in client.jobs.page(status=each, limit=_MAX_ROWS)]
    deployments = list(client.deployments.page(limit=_MAX_ROWS))
    rates = _rates(client, window_s) if any(each.state == "ready" for each in deployments) else {}
    service = {"url": client.base_url, "page": f"{client.base_url}/ui", "version": health.get("version")}
    return {
        "service": {**service, "status": health["status"]},
        "jobs": health.get("jobs") or {},
        "running": [_job(job) for job in jobs],
        "deployments": [_deployment(each, rates.get(each.name)) for each in deployments],
    }


def status_text(found: dict[str, Any]) -> str:
    """The screen."""
    service, counts, disk = found["service"], found["jobs"], found.get("disk")
    numbers = ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none yet"
    version = f", version {service['version']}" if service["version"] else ""
    lines = [
        f"page     {service['page']}",
        f"service  {service['url']} is {service['status']}{version}",
        f"jobs     {numbers}",
    ]
    if disk is not None:
        lines.append(f"disk     {size(disk['free_bytes'])} free, {size(disk['home_bytes'])} in {disk['home']}")
    if found["running"]:
        rows = [("RUNNING", "STAGE", "DONE", "LEFT", "MODEL")]
        for job in found["running"]:
            done = None if job["percent"] is None else job["percent"] / 100
            stage, left = job["stage"] or job["status"], duration(job["eta_s"])
            rows.append((job["id"], stage, percent(done, 0), left, job["model"]))
        lines += ["", columns(rows)]
    if found["deployments"]:
        rows = [("DEPLOYMENT", "STATE", "TOKENS/S", "ANSWERING", "PACK")]
        for each in found["deployments"]:
            speed = "0" if each["tokens_per_s"] == 0 else rate(each["tokens_per_s"], "").removesuffix("/s")
            answering = "" if each["num_running"] is None else str(each["num_running"])
            rows.append((each["name"], each["state"], speed, answering, each["pack"] or "no pack"))
        lines += ["", columns(rows)]
    if not counts and not found["deployments"]:
        lines += ["", "next: eda adapt smollm2-135m-math --preset demo --watch"]
    return "\n".join(lines)


def _job(job: Job) -> dict[str, Any]:
    progress = job.progress
    return {
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "stage": job.stage,
        "percent": None if progress is None else progress.percent,
        "eta_s": None if progress is None else progress.eta_s,
        "model": job.model,
    }


def _deployment(each: Deployment, tokens_per_s: float | None) -> dict[str, Any]:
    return {
        "name": each.name,
        "state": each.state,
        "pack": each.pack,
        "num_running": each.num_running,
        "tokens_per_s": tokens_per_s,
    }


def _rates(client: Client, window_s: float) -> dict[str, float]:
    """Tokens that each deployment generates a second, by its counter before and after."""
    before, began = _tokens(client.metrics()), time.monotonic()
    time.sleep(window_s)
    after, seconds = _tokens(client.metrics()), time.monotonic() - began
    return {name: max(0.0, count - before.get(name, count)) / seconds for name, count in after.items()}


def _tokens(metrics: str) -> dict[str, float]:
    """Tokens generated so far, by name, packs and replicas together."""
    found: dict[str, float] = {}
    for name, count in _TOKENS.findall(metrics):
        found[name] = found.get(name, 0.0) + float(count)
    return found


def _disk() -> dict[str, Any] | None:
    """Of this machine's home; None where there is none."""
    from eda_service.storage.files import directory_bytes

    home: Path = own_home()
    if not home.is_dir():
        return None
    return {"home": str(home), "home_bytes": directory_bytes(home), "free_bytes": shutil.disk_usage(home).free}
