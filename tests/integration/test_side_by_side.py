"""Two jobs of one name on a real Ray, from evaluation on: the second measures the served pack of the first beside its
own, and its manifest says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_models import register_draft
from trained_job import PROMPTS, trained_job

from eda_service.drafts.draft import Draft
from eda_service.pipeline.driver import runner_of
from eda_service.pipeline.stage import run_stage
from eda_service.records import ADAPTED, EvalReport, PackManifest, Stage
from eda_service.storage.published.gate import beside, champion
from eda_service.storage.published.packs import read_pack
from eda_service.storage.runs.rivals import Rivals
from eda_service.targets.loader import Target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    tiny_target: Target,
    make_fitted_draft: Callable[[str], Draft],
) -> Iterator[Path]:
    """With a base draft; Ray's workers get it from the environment that Ray is started in."""
    directory = tmp_path_factory.mktemp("home")
    register_draft(directory, make_fitted_draft("llama"), tiny_target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDA_HOME", str(directory))
        request.getfixturevalue("cluster")
        yield directory


def test_a_served_pack_is_measured_beside_the_new_one(home: Path, tiny_target: Target) -> None:
    base_draft_dir = home / "drafts" / "tiny" / "1"
    run, config = trained_job(home, base_draft_dir, tiny_target, "first", std=0.002)
    first = run_stage(run, config, runner_of(Stage.EVALUATE))
    assert isinstance(first, EvalReport)
    assert first.measured_on == "4 prompts split off mine.jsonl"
    run_stage(run, config, runner_of(Stage.PUBLISH))

    timed = {"num_timed_prompts": 1, "num_timed_repeats": 1}
    run, config = trained_job(home, base_draft_dir, tiny_target, "second", std=0.05, prompts=PROMPTS[:2], **timed)
    run.write(Rivals(served="math@1", champion="math@7"))
    report = run_stage(run, config, runner_of(Stage.EVALUATE))
    assert isinstance(report, EvalReport)
    measured, left_out = report.rivals
    assert (measured.pack, measured.left_out, left_out.pack) == ("math@1", None, "math@7")
    assert "no pack 'math@7'" in str(left_out.left_out)
    told = [event["message"] for event in run.read_events() if event["type"] == "rival_left_out"]
    assert told == [f"not measured beside math@7: {left_out.left_out}"]
    own = {row.temperature: row for row in report.acceptance if row.draft == ADAPTED}
    rival = {row.temperature: row for row in measured.acceptance}
    assert own.keys() == rival.keys()

    manifest = run_stage(run, config, runner_of(Stage.PUBLISH))
    assert isinstance(manifest, PackManifest)
    assert manifest.unmeasured_rivals.keys() == {"math@7"}
    versions = [read_pack("math", version, home) for version in (1, 2)]
    found = beside(versions[1], "math@1")
    assert found is not None
    assert (found.length, found.old_length) == (own[1.0].acceptance_length, rival[1.0].acceptance_length)
    assert found.speed_gain is not None
    assert manifest.fixed is not None
    assert manifest.fixed.lengths.keys() == {"math@2"}  # the first has a score there from its own job
    fixed = [version.manifest.fixed for version in versions if version.manifest is not None]
    lengths = {pack: length for each in fixed if each is not None for pack, length in each.lengths.items()}
    assert lengths.keys() == {"math@1", "math@2"}
    best = champion(versions)
    assert best is not None
    assert best.reference == max(lengths, key=lengths.__getitem__)  # which is better depends on the processor
