"""What a home takes of its disk: against files of known sizes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from api.metrics.disk import Disk, count


def put(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size_bytes)


def test_a_home_is_counted_by_its_parts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for path, size_bytes in {
        "runs/a/train/x": 1000, "runs/b/y": 30, "packs/m/1/pack": 500, "eda.db": 7, "drafts/d/1/z": 60, "cache/c": 900
    }.items():  # fmt: skip
        put(home / path, size_bytes)
    put(tmp_path / "elsewhere" / "large", 1_000_000)
    (home / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    found = count(home)
    link_bytes = (home / "runs" / "link").lstat().st_size
    assert (found.runs_bytes, found.packs_bytes, found.others_bytes) == (1030 + link_bytes, 500, 967)
    assert found.total_bytes == shutil.disk_usage(home).total
    assert 0 < found.free_bytes < found.total_bytes


def test_it_is_counted_once_a_minute_and_never_waited_for_long(tmp_path: Path) -> None:
    now = [0.0]
    disk = Disk(tmp_path, clock=lambda: now[0])
    put(tmp_path / "runs" / "a", 10)

    def seen() -> int | None:
        for _ in range(100):
            found = disk.look()
            if found is not None:
                return found.runs_bytes
            time.sleep(0.05)
        return None

    assert seen() == 10
    put(tmp_path / "runs" / "b", 5)
    now[0] = 59.0
    assert seen() == 10
    now[0] = 61.0
    for _ in range(100):
        if seen() == 15:
            break
        time.sleep(0.05)
    assert seen() == 15
