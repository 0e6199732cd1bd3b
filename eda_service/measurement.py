"""The result of measuring a draft on a target: acceptance, speed, coverage, loss against its own target, and advice."""

from __future__ import annotations

from pydantic import Field

from eda_service.draft_check import FULL_COVERAGE, DraftCheck
from eda_service.measured_rows import AcceptanceRow, Frozen, SpeedRow
from eda_service.records import ADAPTED, BASE

KEPT_ENOUGH = 0.95
"""Share of its acceptance that a draft must keep on a tuned target so that an adaptation is not worth a job: an
adaptation wins back at most the lost share, and two evaluations of one draft differ by about 5 percent. Mildly tuned
targets keep 0.97 to 0.98 (z-lab/dflash #149).
"""
LITTLE = 1.5
"""Tokens per round, for a chain of five, below which a draft is of little use: most of its first tokens are wrong."""


class Measurement(Frozen):
    """A draft, or a draft with a pack, measured on a target and prompts.

    It has rows for `base_draft`, and with a pack for `adapted_draft` too.
    """

    num_prompts: int
    acceptance: tuple[AcceptanceRow, ...] = Field((), description="on the target, by temperature")
    check: DraftCheck | None = Field(
        None, description="instead of the rest, where the check of an import was asked for"
    )
    speed: tuple[SpeedRow, ...] = Field((), description="in the engine of this project; none: not timed")
    coverage: float | None = Field(None, ge=0, le=1, description="share of the answers' tokens that the draft scores")
    base_acceptance: tuple[AcceptanceRow, ...] = Field((), description="on the draft's own target, where it was asked")
    base_coverage: float | None = Field(None, ge=0, le=1, description="the same share of that target's answers")
    advice: str = Field("", description="whether adapting is worth it, in a sentence")
    machine: dict[str, str] = Field({}, description="that measured")

    @property
    def temperature(self) -> float:
        """The first temperature; drafts are compared at it."""
        return self.acceptance[0].temperature

    def length(self, draft: str) -> float | None:
        """Return the tokens per round of a draft on the target; None: not measured."""
        return _length(self.acceptance, draft, self.temperature)

    @property
    def base_length(self) -> float | None:
        """Tokens per round of the draft on its own target; None: not measured."""
        return _length(self.base_acceptance, BASE, self.temperature)

    @property
    def kept(self) -> float | None:
        """The draft's acceptance length here divided by that on its own target; None if that was not measured."""
        here, there = self.length(BASE), self.base_length
        return None if here is None or there is None else here / there

    @property
    def most_gain(self) -> float | None:
        """The factor by which adapting raises the acceptance length if it wins back all that was lost."""
        return None if self.kept is None else 1.0 / self.kept

    @property
    def speedup(self) -> float | None:
        """Speedup of the last draft over decoding without one, at the first temperature that was timed; None: not
        timed.
        """
        name = ADAPTED if self.length(ADAPTED) is not None else BASE
        return next((row.speedup_over_autoregressive for row in self.speed if row.mode == name), None)


def advise(found: Measurement) -> str:
    """Write the advice that follows from the numbers."""
    said = _of_a_pack(found) if found.length(ADAPTED) is not None else _of_a_draft(found)
    if found.coverage is not None and found.coverage < FULL_COVERAGE:
        said += (
            f"; its vocabulary has {found.coverage:.0%} of the tokens that the target writes, and each of the others "
            "ends a round"
        )
    if found.speedup is not None and found.speedup < 1:
        said += f"; in this engine it is slower than no draft at all ({found.speedup:.2f}x)"
    return said


def _of_a_draft(found: Measurement) -> str:
    here, there, kept = found.length(BASE), found.base_length, found.kept
    assert here is not None
    if there is None or kept is None:
        said = f"it accepts {here:.2f} tokens a round"
        if here < LITTLE:
            return f"{said}, which is little: adapt it, or look first whether it is for this target (eda drafts check)"
        return f"{said}; name its own target as the base target to learn how much of it was lost on the way to this one"
    said = f"it keeps {kept:.0%} of its acceptance ({here:.2f} of {there:.2f} tokens a round)"
    if kept >= KEPT_ENOUGH:
        return f"{said}: adapting would gain at most {max(0.0, 1 / kept - 1):.0%}, so use the draft as it is"
    return f"{said}: adapting can gain up to {1 / kept - 1:.0%}, so adapt it"


def _of_a_pack(found: Measurement) -> str:
    before, after, there = found.length(BASE), found.length(ADAPTED), found.base_length
    assert before is not None
    assert after is not None
    said = f"the pack takes it from {before:.2f} to {after:.2f} tokens a round ({after / before - 1:+.0%})"
    if there is not None:
        said += f", {after / there:.0%} of what the draft has on its own target"
    return said if after >= before else f"{said}: use the draft without the pack"


def _length(rows: tuple[AcceptanceRow, ...], draft: str, temperature: float) -> float | None:
    return next((row.acceptance_length for row in rows if (row.draft, row.temperature) == (draft, temperature)), None)
