"""Engines over one target and its drafts for the two measurements: acceptance and speed."""

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
        target: The loaded target.
        drafts: Drafts by name, ready to decode; any other name decodes autoregressively.
        prompts: Token ids of each prompt.
        settings: Settings of the evaluation.
        max_tokens: Largest sum of prompt and answer tokens of a request.
    """

    target: Target
    drafts: dict[str, LoadedDraft]
    prompts: Sequence[Sequence[int]]
    settings: EvalConfig
    max_tokens: int

    def params(self, temperature: float) -> SamplingParams:
        """Make the sampling parameters of a request to an endpoint that sets only its temperature."""
        own = own_params(self.target.defaults)
        return replace(own, temperature=temperature, max_new_tokens=self.settings.max_new_tokens)

    def decode(self, name: str, temperature: float) -> Decoded:
        """Decode all prompts in batches; every round drafts to the greatest depth."""
        return decode_all(self._batched(name), self.prompts, self.params(temperature))

    def row(self, name: str, temperature: float, decoded: Decoded) -> AcceptanceRow:
        """Make the row of a draft's acceptance from what it has decoded."""
        return summarise(name, temperature, decoded.stats, num_draft_tokens=self.settings.depth)

    def speeds(self, temperatures: Iterable[float]) -> Iterator[list[SpeedRow]]:
        """Measure, for each temperature, the speed without a draft and with each, interleaved, one
        request at a time.
        """
        engines = {name: self._served(name) for name in (BASELINE, *self.drafts)}
        for temperature in temperatures:
            yield measure_speed(
                engines,
                self.prompts[: self.settings.num_timed_prompts],
                params=self.params(temperature),
                num_repeats=self.settings.num_timed_repeats,
            )

    def _batched(self, name: str) -> Engine:
        """Make the engine for acceptance: every round drafts the whole chain or tree."""
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
        """Make the engine for speed: it decodes as an endpoint does, one request at a time."""
        return make_engine(
            self.target,
            self.drafts.get(name),
            num_draft_tokens=self.settings.serving_chain,
            adaptive=True,
            max_batch=1,
            max_tokens=self.max_tokens,
        )
