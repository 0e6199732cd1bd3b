"""Samples that selection kept and dropped: in the order of their values, page by page, and what old runs lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from job_files import NUM_KEPT, NUM_SAMPLES, write_records

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import ArtifactCorruptError
from eda_service.records import SelectionManifest, Stage
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples import samples
from eda_service.storage.samples.samples import NO_TEXTS, SampleText, SampleWriter, read_samples

# (id, value, kept) as generated; by hand the order of values is d a e c b, and of equal ones the smaller id is first
GENERATED = [("a", 4.0, False), ("b", 1.0, True), ("c", 2.0, False), ("d", 9.5, True), ("e", 4.0, True)]
RANKED = ["d", "a", "e", "c", "b"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "runs" / "adapt_x")
    write_records(made, AdaptConfig(target=TargetSpec(model="org/model"), base_draft="small@1"))
    return made


def keep_texts(run: RunDir, **changes: Any) -> None:
    directory = run.stage_dir(Stage.SELECT)
    writer = SampleWriter(directory)
    for name, value, kept in GENERATED:
        text = SampleText(
            sample_id=name,
            kept=kept,
            sample_value=value,
            num_prompt_tokens=3,
            num_answer_tokens=5,
            messages=[{"role": "user", "content": f"what is {name}?\n\u2028"}],
            answer=f"{name} is é\n\x1b[31m",
        )
        writer.add(text.model_copy(update=changes))
    files = tuple(file_entry(directory, path) for path in writer.close())
    record = run.read_record(SelectionManifest, Stage.SELECT)
    assert record is not None
    run.write_record(record.model_copy(update={"files": files, "num_selected": 3, "num_candidates": 5}))


def ids(run: RunDir, *, kept: bool | None = None, after: int = 0, limit: int = 100) -> list[str]:
    page = read_samples(run, kept=kept, after=after, limit=limit)
    assert page is not None
    return [sample.sample_id for _, sample in page.samples]


def test_they_are_ranked_by_value_and_come_back_whole(run: RunDir) -> None:
    keep_texts(run)
    page = read_samples(run, kept=None, after=0, limit=100)
    assert page is not None
    assert [(rank, sample.sample_id) for rank, sample in page.samples] == list(enumerate(RANKED, start=1))
    first = page.samples[0][1]
    assert (first.kept, first.sample_value, first.num_prompt_tokens, first.num_answer_tokens) == (True, 9.5, 3, 5)
    assert first.messages == [{"role": "user", "content": "what is d?\n\u2028"}]
    assert first.answer == "d is é\n\x1b[31m"
    assert (page.num_kept, page.num_dropped, page.has_more, page.note) == (3, 2, False, None)


def test_kept_and_dropped_apart_with_the_ranks_among_all(run: RunDir) -> None:
    keep_texts(run)
    assert ids(run, kept=True) == ["d", "e", "b"]
    assert ids(run, kept=False) == ["a", "c"]
    page = read_samples(run, kept=False, after=0, limit=1)
    assert page is not None
    assert ([rank for rank, _ in page.samples], page.has_more) == ([2], True)
    assert ids(run, kept=False, after=2) == ["c"]


def test_pages_are_the_whole_however_small(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_texts(run)

    def walk(limit: int) -> list[str]:
        found: list[str] = []
        after = 0
        while True:
            page = read_samples(run, kept=None, after=after, limit=limit)
            assert page is not None
            found += [sample.sample_id for _, sample in page.samples]
            if not page.has_more:
                return found
            after = page.samples[-1][0]

    assert [walk(limit) for limit in (1, 2, 5)] == [RANKED] * 3
    monkeypatch.setattr(samples, "MAX_PAGE_BYTES", 10)  # less than a line: pages of one
    assert walk(100) == RANKED
    assert len(ids(run)) == 1
    assert ids(run, after=5) == ids(run, after=10**12 - 1) == []


@pytest.mark.parametrize("damage", [b"", b"short", bytes(17), b"\xff" * 17 * 5])
def test_damaged_files_are_told(run: RunDir, damage: bytes) -> None:
    keep_texts(run)
    path = run.root / "select" / ("samples.index" if damage else "samples.jsonl")
    path.write_bytes(damage)
    with pytest.raises(ArtifactCorruptError, match="redo stage select"):
        ids(run)


def test_a_run_of_before_has_values_and_says_that_it_has_no_texts(run: RunDir) -> None:
    page = read_samples(run, kept=True, after=0, limit=NUM_SAMPLES)
    assert page is not None
    values = [sample.sample_value or 0.0 for _, sample in page.samples]
    assert len(values) == NUM_KEPT == page.num_kept
    assert values == sorted(values, reverse=True)
    assert min(values) == page.threshold
    assert {(sample.messages, sample.answer) for _, sample in page.samples} == {(None, None)}
    assert page.note == NO_TEXTS
    dropped = read_samples(run, kept=False, after=0, limit=NUM_SAMPLES)
    assert dropped is not None
    assert max(sample.sample_value or 0.0 for _, sample in dropped.samples) < min(values)


def test_shards_of_before_under_a_selection_of_now(run: RunDir) -> None:
    keep_texts(run, answer=None)
    page = read_samples(run, kept=None, after=0, limit=2)
    assert page is not None
    assert page.note is not None
    assert page.samples[0][1].messages


def test_there_are_none_before_selection_has_ended(tmp_path: Path) -> None:
    assert read_samples(RunDir(tmp_path / "runs" / "adapt_y"), kept=None, after=0, limit=1) is None
