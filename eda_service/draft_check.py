"""The result of the check of an imported draft: agreement with its target as declared, and under other readings.

The base target answers some prompts; the draft is asked, over those answers, for the next tokens. A reading is one set
of field values for the draft's config; each reading has its agreement with the target by position. The check only
reports: it changes no field.
"""

from __future__ import annotations

import shlex

from pydantic import Field

from eda_service.config.base import Config

POOR_FIRST = 0.5
"""Agreement at the first position below which other readings are tried: trained drafts reach 0.6 to 0.8 on text of
their own target (the shipped draft reaches 0.62), and a file whose layers were read one off reached 0.1 where 0.45 was
right (vLLM #43671).
"""
POOR_NEXT = 0.6
"""Agreement at the second position divided by that at the first, below which the state may be fed back wrongly: a
trained draft keeps more than 0.8 (the shipped one 0.95), and a wrong feedback shows from the second position on.
"""
CLEAR_GAIN = 1.05
"""Acceptance length of a reading divided by that of a plainer reading from which it is reported: the mean over about
five hundred rounds of twenty answers is known to about three percent.
"""
FULL_COVERAGE, GOOD_COVERAGE = 0.95, 0.99
"""Share of the target's tokens in the draft vocabulary below which the vocabulary itself costs acceptance, and the
share from which it hardly costs any.
"""
SAME_EMBEDDING = 0.9
"""Mean cosine of the rows of two embeddings below which neither is a (fine-tuned) copy of the other."""


class Reading(Config):
    """One way to read a draft's file, and its measured agreement."""

    overrides: dict[str, str] = Field({}, description="what differs from the file's own words, as `--set` takes it")
    agreement: tuple[float, ...] = Field(description="share of top-1 tokens that are the target's, by position")
    acceptance_length: float = Field(ge=1, description="1 + tokens accepted per round, drafting greedily")

    @property
    def name(self) -> str:
        """The changed fields in words."""
        return ", ".join(f"{key}={value}" for key, value in self.overrides.items()) or "as declared"

    @property
    def command(self) -> str:
        """The options of an import that reads the file in this way."""
        return " ".join(f"--set {shlex.quote(f'{key}={value}')}" for key, value in self.overrides.items())

    @property
    def numbers(self) -> str:
        """The measured numbers in words."""
        return f"{self.agreement[0]:.0%} at the first position, {self.acceptance_length:.2f} tokens a round"

    @property
    def is_poor(self) -> bool:
        """Whether agreement is so low that other readings are tried."""
        first, second = (*self.agreement, 0.0, 0.0)[:2]
        return first < POOR_FIRST or second < POOR_NEXT * first


class DraftCheck(Config):
    """The readings that were measured, or the reason why none was."""

    skipped: str | None = Field(None, description="why nothing was measured; None: it was")
    num_prompts: int = Field(0, ge=0, description="answers of the target")
    num_positions: int = Field(0, ge=0, description="places in them at which was drafted")
    declared: Reading | None = Field(None, description="by what the file says, and what was set by hand")
    others: tuple[Reading, ...] = Field((), description="likely misreadings, where the declared one was poor")
    coverage: float | None = Field(None, ge=0, le=1, description="share of the answers' tokens that the draft scores")
    embedding_cosine: float | None = Field(
        None, description="of an embedding of its own: mean cosine of its rows with the target's; None: it has none"
    )

    @property
    def best(self) -> Reading | None:
        """The declared reading, or the plainest reading that is clearly better. Of each number of changed fields the
        best reading is taken, if it gains `CLEAR_GAIN` over the best with fewer changes.
        """
        best = self.declared
        for count in sorted({len(reading.overrides) for reading in self.others}):
            of_count = [reading for reading in self.others if len(reading.overrides) == count]
            longest = max(of_count, key=lambda reading: reading.acceptance_length)
            if best is not None and longest.acceptance_length >= CLEAR_GAIN * best.acceptance_length:
                best = longest
        return best

    @property
    def is_misread(self) -> bool:
        """Whether another reading than the declared one is clearly better."""
        return self.best is not self.declared

    @property
    def advice(self) -> str:
        """The next step for the user, in a sentence."""
        best, declared = self.best, self.declared
        if best is None or declared is None:
            return f"not measured: {self.skipped}"
        if self.is_misread:
            return (
                f"as declared: {declared.numbers}; with {best.name}: {best.numbers}. If the file's makers meant that, "
                f"import it again with {best.command}"
            )
        if declared.is_poor:
            looked = f"none of {len(self.others)} other readings does clearly better"
            return (
                f"as declared: {declared.numbers}, which is little, and {looked}: it may be for another target, or a "
                "weak draft"
            )
        return f"as declared: {declared.numbers}"

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences for the user: the advice, and other findings."""
        found = [self.advice]
        if self.coverage is not None and self.coverage < FULL_COVERAGE:
            found.append(f"its vocabulary has {self.coverage:.0%} of the tokens that the target writes")
        if self.embedding_cosine is not None and self.embedding_cosine < SAME_EMBEDDING:
            cosine = f"the mean cosine of their rows is {self.embedding_cosine:.2f}"
            found.append(f"its embedding is no copy of the target's: {cosine}")
        return tuple(found)
