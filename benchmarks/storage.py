"""A job directory of 10,000 shards: `make bench NAME=storage` writes `benchmarks/results/storage.json`.

It has about the paper's size: 70,000 samples, seven per shard, with small tensors, because the numbers of files and
requests are measured. On disk and on a real S3 server on loopback (moto: one request at a time, in Python, slower than
production stores), it measures: which shards are finished (the first query of a resumed job), the manifest of all of
them, the record written and read again. On S3 once more in the state after a killed driver: 255 shards not in the
journal.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch

from benchmarks.workloads import ROOT, header, write_result
from eda_service.config.job import AdaptConfig, DatasetSpec, TargetSpec
from eda_service.pipeline.generate import GENERATE, fields_of
from eda_service.records import SampleScore, SelfGenManifest, Stage
from eda_service.storage.files import file_entry, write_bytes
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Prepared, ShardResult, encoded
from eda_service.storage.samples.shard_results import ShardResults
from eda_service.storage.samples.shards import Sample, write_shard

GOAL_S = 10.0
_PER_SHARD = 7
_LEFT_OUT = 255
_AT_ONCE = 16
T = TypeVar("T")


def samples(shard: str) -> list[Sample]:
    """Make answers of twelve tokens with features of eight numbers."""
    return [
        Sample(f"{shard}-{n}", list(range(20)), 8, torch.zeros(19, 8, dtype=torch.float16)) for n in range(_PER_SHARD)
    ]


def result(run: RunDir, shard: str) -> ShardResult:
    """Write a shard's files; return the result that its actor would write."""
    directory = run.stage_dir(Stage.GENERATE)
    tokens, features = write_shard(directory, shard, samples(shard))
    return ShardResult(
        num_samples=_PER_SHARD,
        num_tokens=20 * _PER_SHARD,
        skipped=(),
        scores=tuple(
            SampleScore(sample_id=f"{shard}-{n}", shard=shard, row=n, num_answer_tokens=12, sample_value=1.5)
            for n in range(_PER_SHARD)
        ),
        files=(file_entry(directory, tokens), file_entry(directory, features, transient=True)),
        generation_seconds=1.0,
        scoring_seconds=0.01,
    )


def prepared(run: RunDir) -> Prepared:
    """Write the files of the stage's preparation."""
    directory = run.stage_dir(Stage.GENERATE)
    (directory / "prompts.jsonl").write_text("{}\n", encoding="utf-8")
    return Prepared(files=(file_entry(directory, directory / "prompts.jsonl"),))


def timed(what: Callable[[], T]) -> tuple[float, T]:
    """Measure the seconds of a call; return them with its result."""
    started = time.perf_counter()
    value = what()
    return round(time.perf_counter() - started, 2), value


def measure(run: RunDir, names: list[str], preparation: Prepared, num_expected: int) -> dict[str, Any]:
    """Measure resume, manifest and record of a job whose shards are written."""
    config = AdaptConfig(target=TargetSpec(model="org/model"), dataset=DatasetSpec(num_prompts=1_000_000))
    resume_s, found = timed(lambda: ShardResults(run).finished(names))
    assert len(found) == num_expected == len(names)
    directory = run.root / Stage.GENERATE.value
    manifest_s, fields = timed(lambda: fields_of(config, directory, names, preparation))
    record = GENERATE.record_of(config, fields, seconds=1.0)
    write_s, _ = timed(lambda: run.write_record(record))
    read_s, again = timed(lambda: RunDir(run.root).read_record(SelfGenManifest, Stage.GENERATE))
    assert again == record
    return {
        "resume_s": resume_s,
        "manifest_s": manifest_s,
        "write_record_s": write_s,
        "read_record_s": read_s,
        "met": max(resume_s, manifest_s, write_s, read_s) < GOAL_S,
    }


def on_disk(home: Path, names: list[str]) -> dict[str, Any]:
    """Measure with all state under home."""
    run = RunDir.of_job("job", home)
    preparation = prepared(run)

    def write(name: str) -> None:
        write_bytes(run.root / Stage.GENERATE.value / f"{name}.json", encoded(result(run, name)))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        setup_s, _ = timed(lambda: list(pool.map(write, names)))
    return {"setup_s": setup_s, **measure(run, names, preparation, len(names))}


def on_s3(home: Path, names: list[str]) -> dict[str, Any]:
    """Measure with shards as actors finish them and the driver records them; first after a killed driver, then all
    recorded.
    """
    run = RunDir.of_job("job", home)
    preparation, results = prepared(run), ShardResults(run)
    left = names[-_LEFT_OUT:]
    kept = set(names) - set(left)

    def fill() -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            values = pool.map(lambda name: results.write(name, result(run, name)), names)
            for name, value in zip(names, values, strict=True):
                if name in kept:
                    results.note(name, value)
        results.flush()

    setup_s, _ = timed(fill)
    killed_s, found = timed(lambda: ShardResults(run).finished(names))
    assert len(found) == len(names)
    for name in left:
        results.note(name, found[name])
    results.flush()
    return {"setup_s": setup_s, "resume_after_kill_s": killed_s, **measure(run, names, preparation, len(names))}


@contextmanager
def s3_server() -> Iterator[str]:
    """Run the tests' S3 server; yield a URL in a bucket of its own."""
    subprocess.run(["sh", str(ROOT / "tests" / "install_s3_server.sh")], check=True)
    from tests.s3_server import S3Server

    server = S3Server()
    os.environ.update(server.env)
    assert httpx.get(server.endpoint, trust_env=False).is_success
    try:
        yield str(server.new_bucket())
    finally:
        server.stop()


def main() -> None:
    """Measure both, and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    names = [f"shard-{n:05d}" for n in range(arguments.shards)]
    with tempfile.TemporaryDirectory(prefix="eda-storage-") as directory:
        rows = {"disk": on_disk(Path(directory) / "disk", names)}
        with s3_server() as url:
            os.environ["EDA_STORAGE"] = url
            rows["s3"] = on_s3(Path(directory) / "s3", names)
    value = {"num_shards": len(names), "num_samples": _PER_SHARD * len(names), "goal_s": GOAL_S, **rows}
    print(value)  # noqa: T201
    if not arguments.no_write:
        write_result("storage.json", {**header("make bench NAME=storage"), **value})


if __name__ == "__main__":
    main()
