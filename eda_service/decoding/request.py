"""What goes into the engine and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from eda_service.errors import RequestError

MAX_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingParams:
    """How one request is decoded.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus of the target's distribution; the draft follows the result, whatever it is.
        max_new_tokens: Cap on the answer; 0 only reads the prompt.
        seed: Of the request's own random stream; None takes one from the engine's.
        stop_token_ids: End the answer, in addition to the target's own.
        speculate: Use the engine's draft, if it has one; False decodes this request autoregressively.
        ignore_eos: The target's own stop tokens do not end the answer.
        min_new_tokens: No stop token can be chosen before this many tokens.
        num_logprobs: Hand out the target's log-probability of each new token and of so many most likely ones; None
            hands out none.
        score_prompt: Hand out those of the prompt's tokens too; needs `num_logprobs`.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    speculate: bool = True
    ignore_eos: bool = False
    min_new_tokens: int = 0
    num_logprobs: int | None = None
    score_prompt: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 2.0:
            raise RequestError(f"temperature is {self.temperature}, allowed are 0 to 2", param="temperature")
        if not 0.0 < self.top_p <= 1.0:
            raise RequestError(f"top_p is {self.top_p}, allowed is above 0 up to 1", param="top_p")
        if self.max_new_tokens < 0:
            raise RequestError(f"max_tokens is {self.max_new_tokens}, at least 0 is needed", param="max_tokens")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise RequestError(
                f"min_tokens is {self.min_new_tokens}, allowed are 0 to max_tokens, {self.max_new_tokens}",
                param="min_tokens",
            )
        if self.num_logprobs is not None and not 0 <= self.num_logprobs <= MAX_LOGPROBS:
            raise RequestError(f"logprobs is {self.num_logprobs}, allowed are 0 to {MAX_LOGPROBS}", param="logprobs")
        if self.score_prompt and self.num_logprobs is None:
            raise RequestError("the prompt can be scored only where logprobs are asked for", param="logprobs")


@dataclass
class RequestStats:
    """Counts of one request; prefill is not a round and its token is not a round's.

    `num_accepted_tokens` counts emitted draft tokens: tokens after a stop token or the cap are not counted.
    `queue_s` runs from submission to the prefill, `prefill_s` to the first token; both are 0 until then.
    """

    num_prompt_tokens: int
    num_new_tokens: int = 0
    num_rounds: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    accepted_histogram: list[int] = field(default_factory=list)
    queue_s: float = 0.0
    prefill_s: float = 0.0

    def count_round(self, num_proposed: int, num_emitted: int, depth: int | None = None) -> None:
        """Add one propose-verify round that emitted `num_emitted` tokens (accepted ones and one of the target's).

        Args:
            num_proposed: Drafted tokens: of a tree, all its nodes.
            num_emitted: At most depth + 1.
            depth: The most it could accept; None: all of them, as of a chain.
        """
        accepted = num_emitted - 1
        self.num_rounds += 1
        self.num_draft_tokens += num_proposed
        self.num_accepted_tokens += accepted
        while len(self.accepted_histogram) <= max(accepted, num_proposed if depth is None else depth):
            self.accepted_histogram.append(0)
        self.accepted_histogram[accepted] += 1


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """What the target thought of one token.

    Attributes:
        logprob: Of the token itself.
        top: The most likely tokens at its place with theirs, most likely first.
    """

    logprob: float
    top: list[tuple[int, float]]


@dataclass
class StepOutput:
    """What one round gave one request.

    Attributes:
        new_token_ids: In order; a final stop token is included.
        num_accepted: How many of them, from the first, are draft tokens that the target accepted; as in `stats`, the
            last token of a round that was cut counts as the target's own.
        finish_reason: None while the request goes on; else stop, length, cancelled or error.
        error: Why, when the reason is error.
        features_TD: With hidden-state capture, at the end: the target's features of every forwarded token
            (all but the last one).
        logprobs: Of the new tokens, for requests that ask.
        prompt_logprobs: With a request's first output, of its prompt's tokens but the first, for requests that ask.
    """

    request_id: str
    new_token_ids: list[int]
    finish_reason: str | None
    stats: RequestStats
    error: str | None = None
    num_accepted: int = 0
    features_TD: Tensor | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
