"""Requests of the engine and their outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from eda_service.errors import RequestError
from eda_service.targets.files.generation_defaults import GenerationDefaults
from eda_service.targets.states import TargetStates

MAX_LOGPROBS = 20
MAX_BIAS = 100.0


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters and limits of one request.

    Attributes:
        temperature: Sampling temperature; 0 is greedy.
        top_p: Mass of the nucleus of the target's distribution; it changes the target's distribution, and verification
            follows that.
        top_k: Number of most likely tokens that are kept, with tokens as likely as the last of them; 0 and -1 keep all.
        min_p: Smallest probability of a kept token, as a fraction of that of the most likely token.
        repetition_penalty: Divisor of positive logits, and factor of negative ones, of tokens in the prompt or the
            answer; 1 changes nothing.
        presence_penalty: Number subtracted from the logits of tokens in the answer.
        frequency_penalty: Number subtracted from the logits of tokens in the answer, once for each occurrence.
        logit_bias: Numbers added to the logits of these tokens, before penalties.
        suppress_token_ids: Tokens that are never chosen.
        begin_suppress_token_ids: Tokens that are never chosen as the first token.
        max_new_tokens: Largest number of tokens of the answer; 0 only reads the prompt.
        seed: Seed of the request's own random stream; None takes one from the engine's.
        stop_token_ids: Tokens that end the answer, in addition to the target's own.
        speculate: Whether to use the engine's draft, if it has one; False decodes this request autoregressively.
        ignore_eos: Whether the target's own stop tokens do not end the answer.
        min_new_tokens: Number of tokens before which no stop token can be chosen.
        num_logprobs: Number of most likely tokens whose log-probabilities are returned with that of each new token;
            None returns none.
        score_prompt: Whether to return the log-probabilities of the prompt's tokens too; needs `num_logprobs`.
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
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    suppress_token_ids: frozenset[int] = frozenset()
    begin_suppress_token_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        _require("temperature", self.temperature, 0.0 <= self.temperature <= 2.0, "allowed are 0 to 2")
        _require("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "allowed is above 0 up to 1")
        _require("top_k", self.top_k, self.top_k >= -1, "allowed are 1 or more, and 0 or -1 for all tokens")
        _require("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "allowed are 0 to 1")
        repetition = self.repetition_penalty
        _require("repetition_penalty", repetition, 0.0 < repetition < math.inf, "allowed is above 0; 1 is none")
        for name, penalty in (
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ):
            _require(name, penalty, -2.0 <= penalty <= 2.0, "allowed are -2 to 2")
        for token, bias in self.logit_bias:
            _require("logit_bias", bias, -MAX_BIAS <= bias <= MAX_BIAS, f"allowed are -100 to 100 (token {token})")
        self._check_counts()

    def _check_counts(self) -> None:
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

    @property
    def penalises(self) -> bool:
        """Whether penalties or a bias make the logits depend on more than the target."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)

    @property
    def truncates(self) -> bool:
        """Whether `top_k` or `min_p` removes tokens from the distribution; for a greedy request they do not."""
        return self.temperature > 0 and (self.top_k > 0 or self.min_p > 0.0)


def own_params(defaults: GenerationDefaults) -> SamplingParams:
    """Return the parameters of a request that sets nothing: the model's own values, else values that change nothing,
    and temperature 1 as with OpenAI. Take them as the base of a request (`dataclasses.replace`), so that a model
    answers the same everywhere: at an endpoint, for its own training data, in an evaluation.
    """
    return SamplingParams(
        temperature=_or(defaults.temperature, 1.0),
        top_p=_or(defaults.top_p, 1.0),
        top_k=defaults.top_k or 0,
        min_p=_or(defaults.min_p, 0.0),
        repetition_penalty=_or(defaults.repetition_penalty, 1.0),
        presence_penalty=_or(defaults.presence_penalty, 0.0),
        frequency_penalty=_or(defaults.frequency_penalty, 0.0),
        suppress_token_ids=defaults.suppress_token_ids,
        begin_suppress_token_ids=defaults.begin_suppress_token_ids,
    )


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _require(name: str, value: float, is_allowed: bool, limit: str) -> None:
    if not is_allowed:
        raise RequestError(f"{name} is {value}, {limit}", param=name)


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
            num_proposed: Number of drafted tokens; for a tree, of all its nodes.
            num_emitted: Number of emitted tokens, at most depth + 1.
            depth: Largest number of tokens the round could accept; None: all that were proposed, as in a chain.
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
    """Log-probabilities under the target at one position.

    Attributes:
        logprob: Log-probability of the token itself.
        top: The most likely tokens at this position with their log-probabilities, most likely first.
    """

    logprob: float
    top: list[tuple[int, float]]


@dataclass
class StepOutput:
    """The output of one round for one request.

    Attributes:
        new_token_ids: The new tokens in order; a final stop token is included.
        num_accepted: Number of new tokens, from the first, that are accepted draft tokens; as in `stats`, the last
            token of a round that was cut counts as the target's own.
        finish_reason: None while the request goes on; else stop, length, cancelled or error.
        error: Message of the error, if the reason is error.
        states: The target's states (T, ..) of every forwarded token (all but the last one), in the last output, if
            hidden-state capture is on.
        logprobs: Log-probabilities of the new tokens, for requests that ask for them.
        prompt_logprobs: Log-probabilities of the prompt's tokens except the first, in the request's first output, for
            requests that ask for them.
    """

    request_id: str
    new_token_ids: list[int]
    finish_reason: str | None
    stats: RequestStats
    error: str | None = None
    num_accepted: int = 0
    states: TargetStates | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
