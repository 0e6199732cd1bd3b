"""Bodies about the samples of a job: what selection kept and dropped."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from api.jobs.sample_ids import sample_id
from eda_service.storage.samples.samples import SamplePage, SampleText


class SampleBody(BaseModel):
    """One self-generated sample."""

    id: str = Field(description="`smp_` and its rank among all samples of the job, the most valuable first")
    object: Literal["adaptation.sample"] = "adaptation.sample"
    sample_id: str = Field(description="the id of its prompt; a further answer to the same prompt has a number behind")
    kept: bool
    sample_value: float | None = Field(
        description="see `value_name` of the list; null: this job did not measure its samples"
    )
    num_prompt_tokens: int | None
    num_answer_tokens: int
    messages: list[dict[str, Any]] | None = Field(description="the conversation that was answered; null: not kept")
    answer: str | None = Field(description="what the target wrote; null: not kept")

    @classmethod
    def of(cls, rank: int, sample: SampleText) -> SampleBody:
        """The wire form of a stored sample."""
        return cls(id=sample_id(rank), **sample.model_dump())


class SampleList(BaseModel):
    """A page of samples, the most valuable first."""

    object: Literal["list"] = "list"
    data: list[SampleBody]
    has_more: bool
    first_id: str | None
    last_id: str | None
    num_kept: int = Field(description="of the whole job")
    num_dropped: int = Field(description="of the whole job")
    threshold: float | None = Field(description="smallest value that was kept; null: values did not decide")
    value_name: str = Field(
        description="what `sample_value` is: distance (Eq. 14), draft_loss or draft_rejections, by `selection.method`"
    )
    note: str | None = Field(description="what this run does not have, in words; null: it has everything")

    @classmethod
    def of(cls, page: SamplePage) -> SampleList:
        """The wire form of a page."""
        data = [SampleBody.of(rank, sample) for rank, sample in page.samples]
        return cls(
            data=data,
            has_more=page.has_more,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            num_kept=page.num_kept,
            num_dropped=page.num_dropped,
            threshold=page.threshold,
            value_name=page.value_name,
            note=page.note,
        )
