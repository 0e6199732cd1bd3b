"""Log-probabilities of tokens under the target itself: log-softmax of its raw logits, in float32, before bias,
penalties, temperature, truncation and held-back stops (what vLLM calls `raw_logprobs`).

Only rows that ask cost anything: their positions are gathered, scored together and read back in one transfer.

Shapes: B rows, L positions, P positions to score, D hidden, V vocabulary, T top tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from eda_service.decoding.live import LiveRequest
from eda_service.decoding.request import TokenLogprobs

_PROMPT_BLOCK = 64


def score(logits_PV: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """Score one token per position.

    Args:
        logits_PV: Raw logits of the positions before the tokens.
        token_ids: The P tokens to score.
        num_top: T, the number of most likely tokens to add; 0 adds none.
    """
    logprobs_PV = torch.log_softmax(logits_PV.float(), dim=-1)
    ids_P1 = torch.tensor(token_ids, device=logits_PV.device)[:, None]
    top_PT, top_ids_PT = logprobs_PV.topk(min(num_top, logprobs_PV.shape[1]), dim=-1)
    own = logprobs_PV.gather(1, ids_P1).squeeze(1).tolist()
    tops = zip(top_ids_PT.tolist(), top_PT.tolist(), strict=True)
    return [
        TokenLogprobs(logprob, list(zip(ids, values, strict=True)))
        for logprob, (ids, values) in zip(own, tops, strict=True)
    ]


def score_rows(
    live: Sequence[LiveRequest], logits_BLV: Tensor, places: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
) -> list[list[TokenLogprobs] | None]:
    """Score the tokens of each row; None for rows that did not ask.

    Args:
        live: The requests of the batch.
        logits_BLV: Raw logits of the target.
        places: Positions (of L) before the tokens of each row.
        tokens: Tokens to score, of each row.
    """
    asking = [i for i, request in enumerate(live) if request.params.num_logprobs is not None]
    found: list[list[TokenLogprobs] | None] = [None] * len(live)
    if not asking:
        return found
    rows = [i for i in asking for _ in tokens[i]]
    columns = [place for i in asking for place in places[i]]
    most = max(live[i].params.num_logprobs or 0 for i in asking)
    scored = iter(score(logits_BLV[rows, columns], [token for i in asking for token in tokens[i]], most))
    for i in asking:
        num_top = live[i].params.num_logprobs or 0
        mine = islice(scored, len(tokens[i]))
        found[i] = [TokenLogprobs(each.logprob, each.top[:num_top]) for each in mine]
    return found


def score_prompt(request: LiveRequest, head_in_PD: Tensor, head: Callable[[Tensor], Tensor]) -> list[TokenLogprobs]:
    """Score a prompt's tokens, except the first one, before which no position exists.

    Args:
        request: The request, whose prompt has P tokens.
        head_in_PD: The head's inputs, at least P of them.
        head: Function from head inputs to logits; called on a few positions at a time, so that P x V logits never exist
            at once.
    """
    ids, found = request.prompt_ids, list[TokenLogprobs]()
    for start in range(0, len(ids) - 1, _PROMPT_BLOCK):
        tokens = ids[start + 1 : start + 1 + _PROMPT_BLOCK]
        logits_PV = head(head_in_PD[None, start : start + len(tokens)])[0]
        found += score(logits_PV, tokens, request.params.num_logprobs or 0)
    return found
