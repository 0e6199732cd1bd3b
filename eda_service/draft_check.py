"""What the check of an imported draft has measured: how its file is read as declared, and as it may have been meant.

The base target answers some prompts; the draft is asked, over those answers, for the next tokens. A reading is one set
of fields; each has its agreement with the target by position. Nothing is switched by what is found here.
"""

from __future__ import annotations

from pydantic import Field

from eda_service.config.base import Config


class Reading(Config):
    """One way to read a draft's file, and what it gave."""

    overrides: dict[str, str] = Field({}, description="what differs from the file's own words, as `--set` takes it")
    agreement: tuple[float, ...] = Field(description="share of top-1 tokens that are the target's, by position")
    acceptance_length: float = Field(ge=1, description="1 + tokens accepted per round, drafting greedily")

    @property
    def name(self) -> str:
        """In words."""
        return ", ".join(f"{key}={value}" for key, value in self.overrides.items()) or "as declared"


class DraftCheck(Config):
    """The readings that were measured, or why none was."""

    skipped: str | None = Field(None, description="why nothing was measured; None: it was")
    num_prompts: int = Field(0, ge=0, description="answers of the target")
    num_positions: int = Field(0, ge=0, description="places in them at which was drafted")
    declared: Reading | None = Field(None, description="by what the file says, and what was set by hand")
    others: tuple[Reading, ...] = Field((), description="likely misreadings, where the declared one was poor")

    @property
    def best(self) -> Reading | None:
        """The reading with the longest acceptance; the declared one where none is better."""
        if self.declared is None:
            return None
        return max((self.declared, *self.others), key=lambda reading: reading.acceptance_length)

    @property
    def is_misread(self) -> bool:
        """Whether another reading than the declared one accepts more."""
        return self.best is not self.declared

    @property
    def advice(self) -> str:
        """What to do about it, in a sentence."""
        best = self.best
        if best is None or self.declared is None:
            return f"not measured: {self.skipped}"
        if not self.is_misread:
            return f"as declared it accepts {self.declared.acceptance_length:.2f} tokens a round"
        return (
            f"as declared it accepts {self.declared.acceptance_length:.2f} tokens a round, with {best.name} "
            f"{best.acceptance_length:.2f}: import it again with "
            + " ".join(f"--set {key}={value}" for key, value in best.overrides.items())
        )
