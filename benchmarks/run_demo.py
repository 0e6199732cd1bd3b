"""Run the demo and keep its numbers: `make bench NAME=demo` writes `benchmarks/results/demo-<date>.json`."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path

from eda_service.records import STAGES
from eda_service.storage.runs.provenance import library_versions, machine
from eda_service.storage.runs.run import RunDir

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "out" / "bench-demo"


def main() -> None:
    """Run, collect, write."""
    command = [sys.executable, "-m", "eda_service.cli.main", "demo", "--output", str(OUTPUT)]
    subprocess.run(command, check=True, cwd=ROOT)
    summary = json.loads((OUTPUT / "summary.json").read_text(encoding="utf-8"))
    run = RunDir.of_job(summary["job_id"], OUTPUT / "home")
    records = {stage.value: json.loads((run.root / stage.value / "record.json").read_text()) for stage in STAGES[:-1]}
    git = ["git", "rev-parse", "--short", "HEAD"]
    result = {
        "command": "make bench NAME=demo",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "commit": subprocess.run(git, check=True, cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "machine": machine(),
        "library_versions": library_versions(),
        "summary": summary,
        "stage_seconds": {name: round(record["seconds"], 1) for name, record in records.items()},
        "estimated_seconds": round(records["validate"]["estimated_seconds"], 1),
        "acceptance": records["evaluate"]["acceptance"],
        "speed": records["evaluate"]["speed"],
        "lossless": records["evaluate"]["lossless"],
    }
    path = ROOT / "benchmarks" / "results" / f"demo-{result['date']}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stderr.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
