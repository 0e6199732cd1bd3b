"""Rows of an evaluation report: one for each draft, each decoding mode, and each check of equal answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """Immutable value; unknown keys are refused so that a newer schema is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AcceptanceRow(Frozen):
    """Acceptance of one draft at one temperature (Eq. 2)."""

    draft: str
    temperature: float
    mean_accepted: float
    acceptance_length: float = Field(description="1 + mean_accepted")
    acceptance_rate: float = Field(description="accepted / proposed")
    acceptance_by_position: tuple[float, ...] = Field(description="P(position k accepted), k = 1..K")
    num_rounds: int
    num_new_tokens: int


class SpeedRow(Frozen):
    """Wall clock of one mode at one temperature, batch 1; medians over interleaved repeats."""

    mode: str = Field(description="autoregressive, base_draft, adapted_draft or, of a rival, pack:name@version")
    num_draft_tokens: int = Field(description="chain length; the acceptance rows have their own")
    temperature: float
    tokens_per_s: float
    speedup_over_autoregressive: float
    speedup_min: float
    speedup_max: float


class LosslessCheck(Frozen):
    """T=0 outputs of speculative against autoregressive decoding, token by token."""

    num_prompts: int
    num_identical: int
    num_near_ties: int = Field(description="first difference where the two logits lie within the rounding bound")
    num_different: int
    largest_tie_gap: float = Field(description="largest difference of two logits that counted as a near tie")
    dtype: str
