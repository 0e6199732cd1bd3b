"""`python -m jobs.import_draft` and `jobs.measure`: what their arguments become, without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.tasks import ImportConfig, MeasureConfig
from eda_service.errors import InputError, NotFoundError, WorkerLostError
from eda_service.storage.runs.run import RunDir
from jobs import import_draft, measure, train_draft
from jobs.common import open_run, open_task, parser


@pytest.mark.parametrize("more", [[], ["--pretrain", "small@1"]], ids=["stage", "pretraining"])
def test_a_stage_by_hand_leaves_a_running_driver_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    run = RunDir.of_job("adapt_1", home)
    run.create(AdaptConfig(target=TargetSpec(model="m")), origin="api")
    joined: list[bool] = []
    monkeypatch.setattr("eda_service.pipeline.driver.LOCK_TIMEOUT_S", 0.2)
    monkeypatch.setattr("eda_service.raycluster.resources.connect", lambda: joined.append(True))
    arguments = train_draft.arguments_of_training().parse_args(["--job-id", "adapt_1", *more])
    with run.driver_lock(timeout_s=1), pytest.raises(WorkerLostError, match="another driver of adapt_1 still runs"):
        train_draft.train(arguments)
    assert joined == []


def test_arguments_become_a_run_directory_of_an_import(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[RunDir, ImportConfig]] = []
    monkeypatch.setattr("eda_service.pipeline.import_draft.import_draft", _keep(seen))
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    made = import_draft.arguments_of_import()
    arguments = "--source mine --target org/base --revision v1 --set layers=[1,2] --set a.b=c=d --no-check --seed 3"
    import_draft.run_import(made.parse_args(arguments.split()))
    ((run, config),) = seen
    assert run.job_id.startswith("import_")
    assert config == ImportConfig(
        source=str(tmp_path / "mine"),
        target=TargetSpec(model="org/base", revision="v1"),
        overrides={"layers": "[1,2]", "a.b": "c=d"},
        check=False,
        seed=3,
    )
    job = run.read_job()
    assert job is not None
    assert (job.origin, job.config) == ("ray", config)
    import_draft.run_import(made.parse_args(["--job-id", run.job_id]))  # resumed with what it was made with
    assert seen[1][1] == config
    for bad, error in (
        (["--target", "org/base"], InputError),  # no source
        (["--job-id", "import_none"], NotFoundError),
        (["--source", "a", "--target", "b", "--set", "x"], InputError),
        (["--source", "a", "--target", "b", "--name", "a/b"], InputError),
    ):
        with pytest.raises(error):
            import_draft.run_import(made.parse_args(bad))


def test_arguments_become_a_run_directory_of_a_measurement(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[RunDir, MeasureConfig]] = []
    monkeypatch.setattr("eda_service.pipeline.measure.measure", _keep(seen))
    made = measure.arguments_of_measure()
    arguments = "--target org/tuned --adapter org/lora --draft small@1 --base-target org/base --data org/set"
    measure.run_measurement(made.parse_args([*arguments.split(), *["--num-prompts", "9", "--temperature", "0.5"]]))
    ((run, config),) = seen
    assert run.job_id.startswith("measure_")
    assert (config.target.adapter, config.base_target) == ("org/lora", TargetSpec(model="org/base"))
    assert (config.dataset.source, config.num_prompts, config.temperatures) == ("org/set", 9, (0.5,))
    assert not config.check


def test_a_job_is_not_started_by_the_entry_point_of_another_kind(home: Path) -> None:
    run = RunDir.of_job("measure_1", home)
    run.create(MeasureConfig(target=TargetSpec(model="m"), draft="small@1"), origin="ray")
    arguments = import_draft.arguments_of_import().parse_args(["--job-id", "measure_1"])
    with pytest.raises(InputError, match="kind measure"):
        open_task(arguments, ImportConfig, {})
    with pytest.raises(InputError, match="no adaptation"):
        open_run(parser("").parse_args(["--job-id", "measure_1"]))
    other = RunDir.of_job("adapt_1", home)
    other.create(AdaptConfig(target=TargetSpec(model="m")), origin="ray")
    with pytest.raises(InputError, match="kind adapt"):
        open_task(measure.arguments_of_measure().parse_args(["--job-id", "adapt_1"]), MeasureConfig, {})


class _Told:
    """Stands for a record."""

    draft = "x@1"

    class measurement:  # noqa: N801
        advice = "x"


def _keep(seen: list[tuple[RunDir, ImportConfig]] | list[tuple[RunDir, MeasureConfig]]) -> object:
    def run(run: RunDir, config: ImportConfig | MeasureConfig) -> _Told:
        seen.append((run, config))  # type: ignore[arg-type]  # each test has configs of one kind
        return _Told()

    return run
