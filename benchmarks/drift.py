"""The loop from drift to a new pack on a real target: `make proof NAME=drift` writes `benchmarks/results/drift.json`.

SmolLM2's math target is served with the pack adapted on sums, but its users ask medical questions. The acceptance
length at the endpoint falls below the published one; the service adapts on the prompts it received, swaps the new pack
in, and more medical questions are asked.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.bench_service import BenchService, acceptance_length, smollm2_service
from benchmarks.make_packs import SETTINGS
from benchmarks.serving_load import body_of
from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT, SHARED_DATA, header, write_result
from eda_service.client import Client
from jobs.common import config_of_paths

logger = logging.getLogger(__name__)

MATH, MEDICAL = DOMAINS[0], DOMAINS[1]
WATCH = {"below": 0.9, "min_rounds": 1500, "window_s": 86_400, "cool_down_s": 86_400}
NUM_STREAMS = 4
MAX_TOKENS = 64
_PATIENCE_S = 1800.0


def questions(data: Path) -> Iterator[list[dict[str, Any]]]:
    """Generate the messages of medical questions, endlessly."""
    lines = (data / MEDICAL.train).read_text(encoding="utf-8").splitlines()
    return (json.loads(line)["messages"] for line in itertools.cycle(lines))


async def _ask(url: str, asked: Iterator[list[dict[str, Any]]], count: int) -> None:
    async with httpx.AsyncClient(base_url=f"{url}/v1/", timeout=300, trust_env=False) as http:

        async def stream() -> None:
            for _ in range(count // NUM_STREAMS):
                answer = await http.post("chat/completions", json=body_of(MATH.target, next(asked), MAX_TOKENS))
                answer.raise_for_status()

        await asyncio.gather(*(stream() for _ in range(NUM_STREAMS)))


def ask_until(bench_service: BenchService, asked: Iterator[list[dict[str, Any]]], holds: Callable[[], bool]) -> int:
    """Ask questions until a condition holds; return how many were asked."""
    end, count = time.monotonic() + _PATIENCE_S, 0
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"after {count} questions it still does not hold")
        asyncio.run(_ask(bench_service.url, asked, 4 * NUM_STREAMS))
        count += 4 * NUM_STREAMS
    return count


def measure(bench_service: BenchService, data: Path, num_kept: int) -> dict[str, Any]:
    """Serve, ask, wait for the fall, the job and its pack, and ask again."""
    asked = questions(data)
    bench_service.deploy(
        MATH.target, model=MATH.target, pack=f"{MATH.target}@latest", drift={**WATCH, "keep_prompts": num_kept}
    )
    with Client(bench_service.url) as client:

        def drift() -> Any:
            return client.deployments.get(MATH.target).drift

        count = ask_until(bench_service, asked, lambda: drift().is_below)
        count += _ask_rest(bench_service, asked, num_kept - count)
        before = drift()
        logger.info("after %d questions: %s", count, before)
        client.deployments.update(MATH.target, drift={"adapt": True})
        job = _made_job(client)
        ended = client.wait(job, timeout_s=_PATIENCE_S)
        if ended.status != "succeeded":
            raise SystemExit(f"{job} ended {ended.status}: {ended.error}")
        served = client.deployments.wait_ready(MATH.target, timeout_s=300)
        after_count = ask_until(bench_service, asked, lambda: drift().acceptance_length is not None)
        after = drift()
        events = [each.type for each in reversed(list(client.deployments.events(MATH.target)))]
        return {
            "published_acceptance_length": acceptance_length(MATH),
            "num_questions_before": count,
            "before": before.model_dump(exclude={"settings"}),
            "job_seconds": (ended.finished_at or 0) - (ended.started_at or 0),
            "served_pack": served.loaded_pack,
            "num_questions_after": after_count,
            "after": after.model_dump(exclude={"settings"}),
            "acceptance_after_over_before": after.acceptance_length / before.acceptance_length,
            "events": events,
        }


def _ask_rest(bench_service: BenchService, asked: Iterator[list[dict[str, Any]]], count: int) -> int:
    """Ask this many more questions, so that the largest number of prompts is kept."""
    rest = max(0, count)
    asyncio.run(_ask(bench_service.url, asked, rest))
    return rest


def _made_job(client: Client) -> str:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = [each.id for each in client.page() if each.metadata.get("made_by") == "drift"]
        if found:
            return found[0]
        time.sleep(1)
    raise SystemExit("no job was queued within two minutes")


def main() -> None:
    """Measure and write; fail if acceptance did not rise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with train/medical/medquad.jsonl")
    parser.add_argument("--prompts", type=int, default=384, help="questions that are kept and adapted on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    values = {path: json.loads(value) if isinstance(value, str) else value for path, value in SETTINGS.items()}
    config = config_of_paths({"target.model": MATH.target, **values, "selfgen.threads_per_actor": 2})
    with smollm2_service([MATH], settings=config.model_dump()) as bench_service:
        found = measure(bench_service, arguments.data, arguments.prompts)
    write_result("drift.json", {**header("make proof NAME=drift"), "base_draft": PACKS_BASE_DRAFT, **found})
    logger.info("%s", json.dumps(found))
    if found["acceptance_after_over_before"] <= 1:
        raise SystemExit("the new pack is accepted no better than the old one")


if __name__ == "__main__":
    main()
