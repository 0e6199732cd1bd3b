"""The interface between the ingress and an engine: what an engine must offer to be served.

`EngineRunner` and `ServedGroup` are the project's own engine; `VllmRunner` and `VllmGroup` are vLLM. Engines take and
return token ids. Text, stop strings, answers, keys, metrics and errors are handled in the ingress, once for all
engines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from api.endpoint.engines.pending_answers import PendingAnswers, Queue
from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.round_times import RoundTimes
from api.endpoint.protocol.schemas import VariantMemory
from api.endpoint.protocol.token_text import TokenText
from eda_service.decoding.variants import BASE
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.targets.files.generation_defaults import NO_DEFAULTS, GenerationDefaults


class Runner(Queue, Protocol):
    """Decodes requests.

    Attributes:
        max_open: Largest number of answers that run, wait or are booked.
        round_times: Times of the newest rounds.
    """

    max_open: int
    round_times: RoundTimes

    @property
    def counts(self) -> Mapping[tuple[str, str | None], ModelCounts]:
        """Totals by deployment uid and pack."""

    @property
    def failure(self) -> str | None:
        """The reason why the engine has failed for good; None while it works."""

    @property
    def num_open(self) -> int:
        """Number of answers that run, wait, or are booked and not yet submitted."""

    @property
    def num_running(self) -> int:
        """Number of answers in the batch."""

    @property
    def is_alive(self) -> bool:
        """Whether counts may still change."""

    def open_by_model(self) -> Counter[tuple[str, str | None, bool]]:
        """Count submitted answers by deployment uid, pack, and whether they have a slot."""

    def book(self, count: int, *, timeout_s: float) -> PendingAnswers:
        """Take places for the answers of one call, all or none.

        Raises:
            OverloadedError: The queue has no free place for the call.
            ResourceError: The engine has failed, or is being restarted.
        """

    def retire(self) -> None:
        """Serve the booked answers, then end."""


@dataclass(frozen=True)
class ServedPair:
    """A target with its draft, ready to answer.

    Attributes:
        uid: Uid of the deployment for which requests are counted; empty outside the service.
        fingerprint: Hash of the target's weights; seeded answers depend on it.
        tokenizer: Tokenizer of the target.
        token_text: Text and bytes of the tokenizer's single tokens.
        num_spec_tokens: K, the number of tokens proposed per round.
        max_model_len: Largest number of tokens of prompt and answer together.
        variant: The engine's name for the pair.
        defaults: Sampling defaults of the target's generation_config.json, for fields that a request leaves out.
        drafts: Names of the other drafts that requests can choose now, `base` and packs by reference, each with the
            engine's name for the variant it belongs to; None: requests cannot choose a draft.
    """

    name: str
    base_draft: str | None
    pack: str | None
    loaded_at: int
    fingerprint: str
    runner: Runner
    tokenizer: Any
    token_text: TokenText
    num_spec_tokens: int
    max_model_len: int
    variant: str = BASE
    uid: str = ""
    defaults: GenerationDefaults = NO_DEFAULTS
    drafts: Callable[[], Mapping[str, str]] | None = None


class ModelGroup(Protocol):
    """Models that one runner serves."""

    @property
    def runner(self) -> Runner:
        """The runner that decodes for all models of the group."""

    @property
    def keys(self) -> list[str]:
        """List the keys of the models that are served."""

    @property
    def size_bytes(self) -> int:
        """Return the memory of the base target's and the base drafts' weights."""

    async def put(self, model: ServedModel, adapter_dir: Path | None) -> ServedPair:
        """Serve a model, or a new version of one: new requests get it, and running ones end on the old one.

        Raises:
            EdaError: The model cannot be loaded or does not fit; the version served before stays.
        """

    async def remove(self, key: str) -> None:
        """Accept no more requests for a model; a group without models ends with its last request.

        Raises:
            EdaError: The engine has failed.
        """

    async def memory(self) -> list[VariantMemory]:
        """Return the memory of each model beside the base.

        Raises:
            EdaError: The engine has failed.
        """
