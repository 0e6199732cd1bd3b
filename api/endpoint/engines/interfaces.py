"""The seam between the ingress and whatever decodes: what an engine must offer to be served.

`EngineRunner` and `ServedGroup` are the project's own engine; `VllmRunner` and `VllmGroup` are vLLM. Token ids go in
and come out: text, stop strings, answers, keys, metrics and errors are the ingress's, once.
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
        max_open: Answers that run, wait or are booked, at most.
        round_times: Of the newest rounds.
    """

    max_open: int
    round_times: RoundTimes

    @property
    def counts(self) -> Mapping[tuple[str, str | None], ModelCounts]:
        """By uid of the deployment and pack."""

    @property
    def failure(self) -> str | None:
        """Why it has failed for good, once it has."""

    @property
    def num_open(self) -> int:
        """Answers that run, wait, or are booked and not yet submitted."""

    @property
    def num_running(self) -> int:
        """Answers in the batch."""

    @property
    def is_alive(self) -> bool:
        """Whether anything may still be counted."""

    def open_by_model(self) -> Counter[tuple[str, str | None, bool]]:
        """Submitted answers by uid of the deployment, pack, and whether they have a slot."""

    def book(self, count: int, *, timeout_s: float) -> PendingAnswers:
        """Take places for the answers of one call, all or none.

        Raises:
            OverloadedError: Too many answers run and wait.
            ResourceError: It has failed, or is being restarted.
        """

    def retire(self) -> None:
        """Serve what is booked, then end."""


@dataclass(frozen=True)
class ServedPair:
    """A target with its draft, ready to answer.

    Attributes:
        uid: Of its deployment, for which its requests are counted; empty outside the service.
        fingerprint: Of the target's weights; what a seeded answer depends on.
        tokenizer: The target's.
        token_text: Of the tokenizer.
        num_spec_tokens: K, proposed per round.
        max_model_len: Prompt plus answer of any request.
        variant: The engine's name for it.
        defaults: What its generation_config.json says, where a request does not.
        drafts: The other drafts that its requests can have now, `base` and packs by reference, each with the engine's
            name for the variant it belongs to; None: drafting is not a request's to choose.
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
        """What decodes for all of them."""

    @property
    def keys(self) -> list[str]:
        """What is served, each by its model's key."""

    @property
    def size_bytes(self) -> int:
        """Weights of the base target and base drafts."""

    async def put(self, model: ServedModel, adapter_dir: Path | None) -> ServedPair:
        """Serve a model, or a new version of one: requests from now on get it, those that run end on the old one.

        Raises:
            EdaError: It cannot be loaded or does not fit; what was served under the name stays.
        """

    async def remove(self, key: str) -> None:
        """Take no more requests for a model; without any the group ends with its last request.

        Raises:
            EdaError: The engine has failed.
        """

    async def memory(self) -> list[VariantMemory]:
        """What each model takes beside the base.

        Raises:
            EdaError: The engine has failed.
        """
