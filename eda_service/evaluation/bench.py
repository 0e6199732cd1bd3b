"""Engines over one target and its drafts for the two things that are measured: what is accepted, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from eda_service.config.job import EvalConfig
from eda_service.decoding.build import make_engine
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams, own_params
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.decode import Decoded, decode_all
from eda_service.evaluation.speed import BASELINE, measure_speed
from eda_service.measured_rows import AcceptanceRow, SpeedRow
from eda_service.targets.loader import Target


@dataclass
class Bench:
    """A target, drafts by name, and prompts.

    Attributes:
        target: What decodes.
        drafts: Ready to decode; a name that is not among them decodes autoregressively.
        prompts: Token ids.
        settings: Of the evaluation.
        max_tokens: Prompt plus answer of any request.
    """

    target: Target
    drafts: dict[str, LoadedDraft]
    prompts: Sequence[Sequence[int]]
    settings: EvalConfig
    max_tokens: int

    def params(self, temperature: float) -> SamplingParams:
        """As the target is served where a request says only its temperature."""
        own = own_params(self.target.defaults)
        return replace(own, temperature=temperature, max_new_tokens=self.settings.max_new_tokens)

    def decode(self, name: str, temperature: float) -> Decoded:
        """All prompts as batches, every round as deep as it may."""
        return decode_all(self._batched(name), self.prompts, self.params(temperature))

    def row(self, name: str, temperature: float, decoded: Decoded) -> AcceptanceRow:
        """Acceptance in what a draft has decoded."""
        return summarise(name, temperature, decoded.stats, num_draft_tokens=self.settings.depth)

    def speeds(self, temperatures: Iterable[float]) -> Iterator[list[SpeedRow]]:
        """For each temperature, of no draft and of each, interleaved, one request at a time."""
        engines = {name: self._served(name) for name in (BASELINE, *self.drafts)}
        for temperature in temperatures:
            yield measure_speed(
                engines,
                self.prompts[: self.settings.num_timed_prompts],
                params=self.params(temperature),
                num_repeats=self.settings.num_timed_repeats,
            )

    def _batched(self, name: str) -> Engine:
        """For acceptance: every round drafts the whole chain or tree."""
        settings = self.settings
        return make_engine(
            self.target,
            self.drafts.get(name),
            num_draft_tokens=settings.num_draft_tokens,
            tree=settings.tree,
            max_batch=settings.batch_size,
            max_tokens=self.max_tokens,
        )

    def _served(self, name: str) -> Engine:
        """For time: as an endpoint decodes, one request at a time."""
        return make_engine(
            self.target,
            self.drafts.get(name),
            num_draft_tokens=self.settings.serving_chain,
            adaptive=True,
            max_batch=1,
            max_tokens=self.max_tokens,
        )
