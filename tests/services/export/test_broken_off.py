"""Exports and pulls that are broken off: nobody trips over what they leave, and the next one removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from adapted_packs import publish_adapted
from tiny_models import write_adapter

from eda_service.cli.service.garbage import find_garbage, remove
from eda_service.config.job import TargetSpec, TrainConfig
from eda_service.export import export
from eda_service.export.export import ExportRequest, export_draft
from eda_service.export.files.directory import read_export
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.export.repositories.pack_pull import draft_sha256, pull
from eda_service.export.repositories.pack_push import prepare, push
from eda_service.export.repositories.pack_source import find_source
from eda_service.jobstore.home import open_store
from eda_service.storage.published import registry
from eda_service.storage.staging import staged
from eda_service.targets.loader import Target, load_target

ROOT = Path(__file__).resolve().parents[3]
EXPORT = """
import os, signal, sys
from eda_service.export import export
export.check_written = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from eda_service.cli.entry import main
sys.argv = ["eda", *sys.argv[1:]]
main()
"""
STAGING = """
import sys, time
from pathlib import Path
from eda_service.storage.published import registry
from eda_service.storage.staging import staged
with staged(Path(sys.argv[1])) as place:
    (place / "weights").write_bytes(bytes(1000))
    print("there", flush=True)
    time.sleep(600)
"""


def hidden(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("."))


@contextmanager
def writing(destination: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that writes beside a destination, until it is killed."""
    command = [sys.executable, "-c", STAGING, str(destination)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_export_is_in_nobodys_way(
    home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    """Killed when everything is written and nothing is in its place; the same command again does it all."""
    out, model = tmp_path / "out", tiny_target.spec.model
    words = ["export", "tiny@1", "--to", "vllm", "--out", str(out), "--target", model]
    environment = {**os.environ, "EDA_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", EXPORT, *words], cwd=ROOT, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    (left,) = hidden(tmp_path)
    assert {path.name for path in (tmp_path / left).iterdir()} == {"config.json", "model.safetensors"}
    request = ExportRequest("tiny@1", Destination.VLLM, ExportForm.PLUGIN, out, target=tiny_target.spec)
    export_draft(request, home=home)
    assert hidden(tmp_path) == []
    assert read_export(out)[0].source == "tiny@1"


def test_an_interrupted_merge_leaves_neither_directory(
    home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(tiny_target.spec.model)
    spec = TargetSpec(model=str(model), adapter=str(write_adapter(model, tmp_path / "adapter", seed=1)))
    publish_adapted(home, base_draft_dir, load_target(spec), TrainConfig())
    out, merged = tmp_path / "made" / "out", tmp_path / "made" / "merged"
    request = ExportRequest("adapted", Destination.VLLM, ExportForm.PLUGIN, out, target=spec, merged_target=merged)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for where in ("write_merged", "check_written"):
        with monkeypatch.context() as patched:
            patched.setattr(export, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                export_draft(request, home=home)
        assert list((tmp_path / "made").iterdir()) == []
    export_draft(request, home=home)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"out", "merged"}


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """Also by one that writes to a place of nearly the same name."""
    with writing(tmp_path / "out") as process:
        (theirs,) = hidden(tmp_path)
        with staged(tmp_path / "out") as mine:
            assert hidden(tmp_path) == sorted((theirs, mine.name))
        process.kill()
        process.wait()
        with staged(tmp_path / "out.d") as _, staged(tmp_path / "ou") as _:
            assert theirs in hidden(tmp_path)
        with staged(tmp_path / "out") as mine:
            assert hidden(tmp_path) == [mine.name]
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("by", ["pull", "gc"])
def test_a_killed_pull_goes_with_the_next_one_or_gc(
    by: str, home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    beside = draft_sha256(registry.find_draft_manifest("tiny@1", home))
    facts = {"job_id": "adapt_1", "base_draft_sha256": beside}
    publish_adapted(home, base_draft_dir, tiny_target, TrainConfig(), name="math", **facts)
    push(prepare("math", str(tmp_path / "pushed"), licence="mit", base_model="org/model", home=home))
    with writing(home / "pull") as process, closing(open_store(home)) as store:
        (left,) = (name for name in hidden(home) if name.startswith(".pull"))
        assert not any(each.kind == "pull" for each in find_garbage(home, store, days=7.0).garbage)
        process.kill()
        process.wait()
        if by == "pull":
            assert pull(find_source(str(tmp_path / "pushed")), home=home).pack == "math@2"
        else:
            (found,) = (each for each in find_garbage(home, store, days=7.0).garbage if each.kind == "pull")
            assert (found.name, found.size_bytes) == (left, 1000)
            assert remove(found, home, store) == 1000
    assert not any(name.startswith(".pull") for name in hidden(home))
