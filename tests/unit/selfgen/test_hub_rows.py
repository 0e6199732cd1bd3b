"""A data set of a stranger's on the hub, whose card or rows name files of this machine: none of them is opened."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from datasets.data_files import DataFilesDict, DataFilesPatternsDict, sanitize_patterns

from eda_service.config.job import DatasetSpec
from eda_service.errors import DatasetInvalidError
from eda_service.selfgen.hub_rows import hub_files_alone
from eda_service.selfgen.prompts import load_prompts

BASE = "hf://datasets/org/data@0123456789abcdef0123456789abcdef01234567"
ROWS = [{"prompt": f"question {n}"} for n in range(12)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Another owner's kept prompts."""
    path = tmp_path / "home" / "prompts" / "dep_1" / "r1.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize(
    "pattern",
    [
        "{kept}", "{home}/prompts/*/*.jsonl", "../{kept}", "a/../../../../..{kept}", "~/x.jsonl",
        "file://{kept}", "local://{kept}", "zip://x.jsonl::{kept}", "http://169.254.169.254/x.jsonl",
        "https://10.0.0.1/x.jsonl", "s3://bucket/x.jsonl", "hf://datasets/a/b/../../../../../{kept}",
    ],
)  # fmt: skip
def test_a_card_names_files_of_its_repository_alone(kept: Path, pattern: str) -> None:
    written = pattern.format(kept=kept, home=kept.parents[2])
    with hub_files_alone():
        with pytest.raises(DatasetInvalidError, match="not one of its own"):
            DataFilesDict.from_patterns(sanitize_patterns(written), base_path=BASE)
        with pytest.raises(DatasetInvalidError, match="not one of its own"):  # the configs of a card go this way
            DataFilesPatternsDict.from_patterns(sanitize_patterns(written)).resolve(BASE)


@pytest.mark.parametrize("base", ["{home}", "/", "hf://buckets/a", "https://10.0.0.1/"])
def test_a_card_leads_to_no_other_directory(kept: Path, base: str) -> None:
    with hub_files_alone(), pytest.raises(DatasetInvalidError, match="not one of its own"):
        DataFilesDict.from_patterns({"train": ["**"]}, base_path=base.format(home=kept.parents[2]))


def test_the_library_would_read_it(kept: Path) -> None:
    """What is refused above is found without the block, so that the refusals are not of something else."""
    found = DataFilesDict.from_patterns(sanitize_patterns(str(kept)), base_path=BASE)
    assert found["train"] == [str(kept)]


@pytest.mark.parametrize("source", ["json", "JSON", "text", "csv", "parquet", "imagefolder", "arrow"])
def test_a_format_is_no_data_set_of_what_lies_around(kept: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept.parents[3])
    with pytest.raises(DatasetInvalidError, match="a format and no data set") as caught:
        load_prompts(DatasetSpec(source=source, num_prompts=8), seed=0)
    assert caught.value.param == "dataset.source"


def test_columns_of_pictures_are_not_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether something is at the path would be told by how the job fails."""
    text = datasets.Value("string")
    nested = datasets.List({"of": datasets.Image()})
    shape = datasets.Features({"prompt": text, "seen": datasets.Image(), "deep": nested, "tools": datasets.Json()})
    there = {"path": str(tmp_path / "none.png"), "bytes": None}
    more = {"seen": there, "deep": [{"of": there}], "tools": [{"type": "function", "function": {"name": "f"}}]}
    rows = datasets.Dataset.from_list([{**row, **more} for row in ROWS], features=shape)
    with pytest.raises(FileNotFoundError):
        rows[0]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    found = load_prompts(DatasetSpec(source="org/data", num_prompts=8), seed=0)
    assert {prompt.messages[0]["content"] for prompt in found} <= {row["prompt"] for row in ROWS}
    assert found[0].tools is not None
