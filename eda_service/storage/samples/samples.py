"""The samples that selection kept and dropped, for people to read: each with its value, its prompt and its answer.

    select/samples.jsonl   one sample per line, in the order in which they were generated
    select/samples.index   the position of each line, from the most valuable sample to the least

Hidden states are large and are deleted; texts are small and stay. A run of a version that kept no texts has neither
file; its records still name the samples, their values and which were kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import Field, ValidationError

from eda_service.errors import ArtifactCorruptError
from eda_service.measured_rows import Frozen
from eda_service.records import DISTANCE, SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.files import temporary_name, write_bytes
from eda_service.storage.runs.run import RunDir

LINES_FILE, INDEX_FILE = "samples.jsonl", "samples.index"
MAX_PAGE_BYTES = 4 << 20
"""Largest size of a page's lines in bytes; a page has at least one line."""
NO_TEXTS = "this run was made by a version that kept no texts: the samples have values, and neither prompt nor answer"
_ENTRY = np.dtype([("offset", "<i8"), ("size", "<i8"), ("kept", "u1")])


class SampleText(Frozen):
    """One self-generated sample.

    Attributes:
        sample_value: Value by the job's selector (`SamplePage.value_name`); None if samples were not measured.
        num_prompt_tokens: Number of prompt tokens; None if unknown.
        messages: Messages of the conversation that was answered; None if texts were not kept.
        answer: Text that the target wrote; None if texts were not kept.
    """

    sample_id: str
    kept: bool
    sample_value: float | None
    num_prompt_tokens: int | None = None
    num_answer_tokens: int = Field(ge=0)
    messages: list[dict[str, Any]] | None = None
    answer: str | None = None


@dataclass(frozen=True)
class SamplePage:
    """Samples with their ranks, the most valuable first.

    Attributes:
        samples: Pairs of the rank among all samples of the job, counted from 1, and the sample.
        has_more: Whether more samples match the request.
        value_name: Name of their values: `distance` (Eq. 14), or the name of another selector's measure.
        note: Description of what this run lacks; None: it has everything.
    """

    samples: tuple[tuple[int, SampleText], ...]
    has_more: bool
    num_kept: int
    num_dropped: int
    threshold: float | None
    note: str | None
    value_name: str = DISTANCE


class SampleWriter:
    """Writes both files; `close` makes them visible.

    Args:
        directory: Directory of stage select.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._temporary = temporary_name(directory / LINES_FILE)
        self._stream: BinaryIO = self._temporary.open("wb")
        self._entries: list[tuple[int, int, bool]] = []
        self._order: list[tuple[float, str]] = []

    def add(self, sample: SampleText) -> None:
        """Append one sample."""
        line = sample.model_dump_json().encode("utf-8") + b"\n"
        self._entries.append((self._stream.tell(), len(line), sample.kept))
        self._order.append((-(sample.sample_value or 0.0), sample.sample_id))
        self._stream.write(line)

    def close(self) -> list[Path]:
        """Finish both files; return their paths."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temporary.replace(self._directory / LINES_FILE)
        ranked = sorted(range(len(self._order)), key=self._order.__getitem__)
        index = np.array([self._entries[place] for place in ranked], dtype=_ENTRY)
        write_bytes(self._directory / INDEX_FILE, index.tobytes())
        return [self._directory / LINES_FILE, self._directory / INDEX_FILE]


def read_samples(run: RunDir, *, kept: bool | None, after: int, limit: int) -> SamplePage | None:
    """Read a page of a job's samples; None while selection has not ended.

    Args:
        run: Run directory of the job.
        kept: Whether to list kept or dropped samples; None: both.
        after: Rank of the last sample of the page before; 0: start at the first.
        limit: Largest number of samples of the page.

    Raises:
        ArtifactCorruptError: A record or a file does not hold what it should.
    """
    selected = run.read_record(SelectionManifest, Stage.SELECT, verify=False)
    if selected is None:
        return None
    entries = [entry for entry in selected.files if entry.path in {LINES_FILE, INDEX_FILE}]
    if len(entries) == 2:
        run.store.fetch(Stage.SELECT, entries)
        found, has_more = _from_files(run.root / Stage.SELECT.value, kept, after, limit)
        has_texts = not found or any(sample.answer is not None for _, sample in found)
    else:
        found, has_more = _from_records(run, selected, kept, after, limit)
        has_texts = False
    return SamplePage(
        samples=tuple(found),
        has_more=has_more,
        num_kept=selected.num_selected,
        num_dropped=selected.num_candidates - selected.num_selected,
        threshold=selected.threshold,
        note=None if has_texts else NO_TEXTS,
        value_name=selected.value_name,
    )


def _from_files(
    directory: Path, kept: bool | None, after: int, limit: int
) -> tuple[list[tuple[int, SampleText]], bool]:
    try:
        index = np.frombuffer((directory / INDEX_FILE).read_bytes(), dtype=_ENTRY)
        ranks = _wanted(index["kept"].astype(bool), kept, after)
        found: list[tuple[int, SampleText]] = []
        size = 0
        with (directory / LINES_FILE).open("rb") as stream:
            for rank in ranks[:limit]:
                entry = index[rank - 1]
                size += int(entry["size"])
                if found and size > MAX_PAGE_BYTES:
                    break
                stream.seek(int(entry["offset"]))
                found.append((rank, SampleText.model_validate_json(stream.read(int(entry["size"])))))
    except (OSError, ValueError, ValidationError, json.JSONDecodeError) as error:
        raise ArtifactCorruptError(f"the samples in {directory} cannot be read: {error}; redo stage select") from error
    return found, len(ranks) > len(found)


def _from_records(
    run: RunDir, selected: SelectionManifest, kept: bool | None, after: int, limit: int
) -> tuple[list[tuple[int, SampleText]], bool]:
    generated = run.read_record(SelfGenManifest, Stage.GENERATE, verify=False)
    if generated is None:
        raise ArtifactCorruptError(f"{run.root} has no generate record; the samples of this job cannot be shown")
    chosen = set(selected.selected_ids)
    scores = sorted(generated.scores, key=lambda score: (-score.sample_value, score.sample_id))
    is_measured = any(score.sample_value for score in scores)
    ranks = _wanted([score.sample_id in chosen for score in scores], kept, after)
    found = [
        (
            rank,
            SampleText(
                sample_id=(score := scores[rank - 1]).sample_id,
                kept=score.sample_id in chosen,
                sample_value=score.sample_value if is_measured else None,
                num_answer_tokens=score.num_answer_tokens,
            ),
        )
        for rank in ranks[:limit]
    ]
    return found, len(ranks) > len(found)


def _wanted(is_kept: Sequence[bool] | np.ndarray[Any, np.dtype[np.bool_]], kept: bool | None, after: int) -> list[int]:
    """Return the ranks after `after` of the requested samples."""
    return [rank for rank, each in enumerate(is_kept, start=1) if rank > after and (kept is None or bool(each) is kept)]
