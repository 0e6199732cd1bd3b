"""Bodies about how long jobs take and what came of them: one home for what lists, jobs and estimates say alike."""

from __future__ import annotations

from pydantic import BaseModel, Field

from api.jobs.remaining import Remaining


class ExpectedTimeBody(BaseModel):
    """How long a job takes, in seconds, from what earlier jobs of this service took: median and quartiles."""

    low: float
    median: float
    high: float
    num_jobs: int = Field(description="earlier jobs that it rests on; 0: constants, with a width of their own")


class RemainingBody(BaseModel):
    """How long a running job still takes, in seconds, as a range."""

    low_s: int
    high_s: int
    num_jobs: int = Field(description="earlier jobs that it rests on")

    @classmethod
    def of(cls, found: Remaining | None) -> RemainingBody | None:
        """The wire form."""
        return None if found is None else cls(low_s=found.low_s, high_s=found.high_s, num_jobs=found.num_jobs)
