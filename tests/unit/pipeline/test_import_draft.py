"""The import of a draft, stage by stage, with a dialect of the test's own: what is registered, and when nothing is.

The dialect reads directories that hold a base draft as this project stores it; all else is real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from draft_files import put_draft
from safetensors.torch import load_file

from eda_service.config.job import TargetSpec
from eda_service.config.tasks import ImportConfig
from eda_service.draft_check import DraftCheck, Reading
from eda_service.drafts.checkpoint import load_base_draft, read_draft_config, save_base_draft
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.errors import (
    ArtifactCorruptError,
    ConflictError,
    DraftSourceMissingError,
    InputError,
    TargetIncompatibleError,
    TargetNotFoundError,
)
from eda_service.pipeline import driver, import_draft
from eda_service.pipeline.stage import run_stage
from eda_service.records import Stage
from eda_service.storage.published import registry
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Failed, Succeeded
from eda_service.targets.files.base_target import BaseModel


@dataclass(frozen=True)
class Assumption:
    field: str = "rope_theta"
    value: Any = 10_000
    why: str = "the file does not say it"


@dataclass(frozen=True)
class Seen:
    config: DraftConfig
    dialect: str = "ours"
    assumed: tuple[Assumption, ...] = (Assumption(),)


class OurDialect:
    """Reads what `save_base_draft` writes.

    Attributes:
        asked: The fields that were set by hand, each time.
        meanwhile: Done while the draft is read.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.bases: list[BaseModel] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def stage(
        self, directory: Path, base: BaseModel, staging: Path, *, overrides: Mapping[str, str], scratch: Path
    ) -> Seen:
        assert [*scratch.iterdir(), *staging.iterdir()] == []
        self.asked.append(dict(overrides))
        self.bases.append(base)
        for name in ("config.json", "draft.safetensors"):
            shutil.copy(directory / name, staging / name)
        self.meanwhile()
        return Seen(read_draft_config(staging))


@pytest.fixture
def dialect(monkeypatch: pytest.MonkeyPatch) -> OurDialect:
    made = OurDialect()
    monkeypatch.setattr(import_draft, "stage_source", made.stage)
    return made


@pytest.fixture
def source(tmp_path: Path, tiny_draft: Draft) -> Path:
    directory = tmp_path / "My Draft!"
    directory.mkdir()
    save_base_draft(directory, tiny_draft, None)
    return directory


@pytest.fixture
def make_run(home: Path, source: Path, target_dir: Callable[[str], Path]) -> Callable[..., tuple[RunDir, ImportConfig]]:
    def make(job_id: str = "import_1", **changes: Any) -> tuple[RunDir, ImportConfig]:
        spec = TargetSpec(model=str(changes.pop("model", target_dir("llama"))))
        config = ImportConfig(**{"source": str(source), "target": spec, "check": False, **changes})
        run = RunDir.of_job(job_id, home)
        run.create(config, origin="ray")
        return run, config

    return make


MakeRun = Callable[..., tuple[RunDir, ImportConfig]]


def test_an_import_is_registered_under_the_next_number_with_all_that_is_known_of_it(
    dialect: OurDialect, make_run: MakeRun, source: Path, home: Path, target_dir: Callable[[str], Path]
) -> None:
    run, config = make_run(overrides={"rope_theta": "5e5"})
    record = import_draft.import_draft(run, config)
    assert record.draft == "My-Draft-@1"
    result = run.read_result()
    assert isinstance(result, Succeeded)
    assert (result.result, result.pack) == ("My-Draft-@1", None)
    directory = registry.find_draft("My-Draft-@1", home)
    for name in ("config.json", "draft.safetensors"):
        assert (directory / name).read_bytes() == (source / name).read_bytes()
    loaded = load_base_draft(directory, dtype=torch.bfloat16).draft.state_dict()
    stored = load_file(source / "draft.safetensors")
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    manifest = registry.read_draft_manifest(directory)
    settings = json.loads((target_dir("llama") / "config.json").read_text())
    assert (manifest.hidden_size, manifest.vocab_size) == (settings["hidden_size"], settings["vocab_size"])
    assert (manifest.kind, manifest.dialect, manifest.source) == ("eagle1", "ours", str(source))
    assert manifest.assumed == ("rope_theta = 10000: the file does not say it",)
    assert manifest.overrides == {"rope_theta": "5e5"} == dialect.asked[0]
    assert manifest.check is not None
    assert manifest.check.skipped == "it was imported without a check"
    assert {entry.path for entry in manifest.files} == {"config.json", "draft.safetensors"}
    assert list((run.root / "read" / "draft").iterdir()) == []  # the registry has them
    assert not (run.root / "read" / "scratch").exists()
    told = {event["type"]: event for event in run.read_events()}
    assert told["assumed"]["level"] == "warning"
    assert told["draft_registered"]["message"] == "registered My-Draft-@1"


def test_versions_follow_what_there_ever_was(dialect: OurDialect, make_run: MakeRun, home: Path) -> None:
    put_draft(home, "ours", 3)
    names = [
        import_draft.import_draft(*make_run(f"import_{number}", name="ours", seed=number)).draft for number in (1, 2)
    ]
    assert names == ["ours@4", "ours@5"]
    registry.delete_draft("ours", 5, home)
    assert registry.draft_versions("ours", home) == [3, 4]
    assert import_draft.import_draft(*make_run("import_3", name="ours")).draft == "ours@6"
    registry.delete_draft("ours", 3, home)  # it came by no job, and its number is gone all the same
    registry.delete_draft("ours", 4, home)
    registry.delete_draft("ours", 6, home)
    again = import_draft.import_draft(*make_run("import_4", name="ours")).draft
    assert again not in {f"ours@{number}" for number in (3, 4, 5, 6)}


def test_the_names_of_shipped_drafts_are_the_packages(dialect: OurDialect, make_run: MakeRun, home: Path) -> None:
    with pytest.raises(InputError, match="smollm2-135m is the name of a draft that comes with the package"):
        import_draft.import_draft(*make_run(name="smollm2-135m"))
    assert registry.draft_versions("smollm2-135m", home) == [2, 3]
    put_draft(home, "smollm2-135m", 3)  # registered before a release came with that number
    assert registry.find_draft("smollm2-135m@3", home).is_relative_to(registry.shipped_drafts())


def test_a_check_of_files_that_were_read_again_since_is_not_registered(
    dialect: OurDialect, make_run: MakeRun, home: Path
) -> None:
    run, config = make_run()
    for stage in (import_draft.READ, import_draft.CHECK):
        run_stage(run, config, stage)
    record = run.read_record(import_draft.CheckRecord, Stage.CHECK, verify=False)
    assert record is not None
    stale = record.check.model_copy(update={"skipped": "of other files"})
    run.write_record(record.model_copy(update={"inputs": {"draft.safetensors": "0" * 64}, "check": stale}))
    import_draft.import_draft(run, config)
    found = registry.find_draft_manifest("My-Draft-@1", home).check
    assert found is not None
    assert found.skipped == "it was imported without a check"


@pytest.mark.parametrize("stage", [Stage.READ, Stage.CHECK, Stage.PUBLISH])
@pytest.mark.parametrize("is_recorded", [False, True])
def test_an_attempt_that_was_killed_anywhere_is_taken_up_by_the_next(
    dialect: OurDialect,
    make_run: MakeRun,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage,
    is_recorded: bool,
) -> None:
    class Killed(BaseException):
        """Ends the process, as far as the code can see."""

    run, config = make_run()
    write = RunDir.write_record

    def killed(self: RunDir, record: Any) -> Any:
        if record.stage is not stage:
            return write(self, record)
        if is_recorded:
            write(self, record)
        raise Killed

    runners = import_draft.IMPORTING
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "write_record", killed)
        dying = tuple(
            import_draft.StageRunner(each.record, each.part, each.run, keep=killed, afterwards=each.afterwards)
            for each in runners
        )
        with pytest.raises(Killed):
            driver.drive(run, config, dying, import_draft.RegisterRecord, lambda record: None)
    is_published = stage is Stage.PUBLISH
    assert registry.draft_versions("My-Draft-", home) == ([1] if is_published else [])
    assert run.read_result() is None
    again = RunDir(run.root, attempt=2)
    assert import_draft.import_draft(again, config).draft == "My-Draft-@1"
    assert registry.draft_versions("My-Draft-", home) == [1]
    registry.read_draft_manifest(registry.find_draft("My-Draft-@1", home))  # its files' hashes


def _nothing_is_registered(home: Path) -> bool:
    drafts = home / "drafts"
    left = [path for path in drafts.rglob("*") if path.is_file()] if drafts.exists() else []
    return left == []


def no_source(source: Path) -> None:
    shutil.rmtree(source)


def a_file(source: Path) -> None:
    shutil.rmtree(source)
    source.write_text("x")


@pytest.mark.parametrize(
    ("spoil", "changes", "error", "word"),
    [
        pytest.param(no_source, {}, DraftSourceMissingError, "no directory", id="no source"),
        pytest.param(a_file, {}, DraftSourceMissingError, "no directory", id="a file"),
        pytest.param(None, {"revision": "main"}, DraftSourceMissingError, "revision", id="revision of a directory"),
        pytest.param(None, {"source": "org/nowhere"}, DraftSourceMissingError, "hub", id="a hub that is away"),
        pytest.param(None, {"model": "/nowhere"}, TargetNotFoundError, "no directory", id="no target"),
        pytest.param(None, {"model": "org/nowhere"}, TargetNotFoundError, "hub", id="a target on a hub that is away"),
    ],
)
def test_whatever_is_wrong_is_said_and_nothing_is_registered(
    dialect: OurDialect,
    make_run: MakeRun,
    source: Path,
    home: Path,
    spoil: Callable[[Path], None] | None,
    changes: dict[str, Any],
    error: type[InputError],
    word: str,
) -> None:
    run, config = make_run(**changes)
    if spoil is not None:
        spoil(source)
    with pytest.raises(error, match=word):
        import_draft.import_draft(run, config)
    result = run.read_result()
    assert isinstance(result, Failed)
    assert result.error.code == error.code
    assert _nothing_is_registered(home)


def test_files_that_change_while_they_are_read_are_refused(
    dialect: OurDialect, make_run: MakeRun, source: Path, home: Path
) -> None:
    dialect.meanwhile = lambda: (source / "draft.safetensors").write_bytes(b"another")
    with pytest.raises(ArtifactCorruptError, match="changed while it was read"):
        import_draft.import_draft(*make_run())
    assert _nothing_is_registered(home)


def test_a_number_that_somebody_else_has_taken_is_not_overwritten(
    dialect: OurDialect, make_run: MakeRun, home: Path
) -> None:
    run, config = make_run(name="ours")
    assert registry.reserve_draft("ours", run.job_id, home) == 1
    there = put_draft(home, "ours", 1)
    before = (there / "manifest.json").read_bytes()
    with pytest.raises(ConflictError, match="registered by somebody else"):
        import_draft.import_draft(run, config)
    assert (there / "manifest.json").read_bytes() == before


def test_a_target_without_weights_is_enough_and_the_check_says_why_it_was_left_out(
    dialect: OurDialect, make_run: MakeRun, home: Path, tmp_path: Path, target_dir: Callable[[str], Path]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(target_dir("llama"), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    import_draft.import_draft(*make_run(model=bare, check=True))
    manifest = registry.find_draft_manifest("My-Draft-@1", home)
    assert manifest.check is not None
    assert "not on this machine" in (manifest.check.skipped or "")
    assert len(manifest.tokenizer_sha256) == 64
    assert dialect.bases[0].resolved is None
    (bare / "tokenizer.json").unlink()
    import_draft.import_draft(*make_run("import_2", model=bare))
    manifest = registry.find_draft_manifest("My-Draft-@2", home)
    assert manifest.tokenizer_sha256 == ""
    assert any("tokenizer" in each for each in manifest.assumed)
    pickled = tmp_path / "pickled"
    shutil.copytree(bare, pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="pickled"):
        import_draft.import_draft(*make_run("import_3", model=pickled))


def test_a_fine_tune_is_no_base(dialect: OurDialect, make_run: MakeRun, target_dir: Callable[[str], Path]) -> None:
    run, config = make_run()
    tuned = TargetSpec(model=str(target_dir("llama")), adapter="org/lora")
    with pytest.raises(TargetIncompatibleError, match="base model"):
        run_stage(run, config.model_copy(update={"target": tuned}), import_draft.READ)


def test_a_check_names_the_best_reading_and_what_to_set() -> None:
    declared = Reading(agreement=(0.1, 0.05), acceptance_length=1.1)
    other = Reading(overrides={"layers": "[2, 4, 6]"}, agreement=(0.45, 0.3), acceptance_length=1.9)
    check = DraftCheck(num_prompts=20, num_positions=900, declared=declared, others=(other,))
    assert check.best == other
    assert check.is_misread
    assert "--set 'layers=[2, 4, 6]'" in check.advice
    alone = check.model_copy(update={"others": ()})
    assert alone.best == declared
    assert not alone.is_misread
    assert "1.10 tokens" in alone.advice
    assert DraftCheck(skipped="no weights").advice == "not measured: no weights"
