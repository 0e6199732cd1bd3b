"""Selectors that look at the draft: 1 - sum min(p, q), mean over an answer, and the share of tokens it does not say.

Oracle: q from the form of the draft that decodes, over all pairs of a text at once; p from transformers' own logits of
the same text; sums token by token in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from tiny_models import fit_draft, random_eagle3
from torch import Tensor
from transformers import PreTrainedModel

from eda_service.config.job import SelectionConfig, Selector, SelfGenConfig
from eda_service.decoding.proposal import Proposer
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.draft import Draft
from eda_service.engines.own import OwnEngine
from eda_service.selection import draft_scorer
from eda_service.selection.kinds import make_selector
from eda_service.selection.selector import DraftSelector
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.storage.samples.shards import Sample
from eda_service.targets.loader import Target

VOCAB_W = torch.arange(5, 95)
SETTINGS = SelfGenConfig(temperature=0.9, max_new_tokens=24)


@pytest.fixture(scope="module", params=["eagle1", "eagle1 of some tokens", "eagle3"])
def loaded(request: pytest.FixtureRequest, tiny_target: Target) -> LoadedDraft:
    if request.param == "eagle3":
        draft = fit_draft(tiny_target, draft=random_eagle3(tiny_target), vocab_W=VOCAB_W, steps=40)
        return LoadedDraft(draft, VOCAB_W.int())
    return LoadedDraft(fit_draft(tiny_target, steps=40), VOCAB_W.int() if "some" in request.param else None)


def written(target: Target, draft: Draft, **kept: Callable[[Tensor], Tensor]) -> list[Sample]:
    prompts = [Prompt(id=text, messages=[{"role": "user", "content": text}]) for text in ("a", "the user", "other one")]
    samples = generate(OwnEngine(target), prompts, SETTINGS, seed=1, captures=draft.config.captures, **kept).samples
    return [replace(each, features=each.features.float()) for each in samples if each.features is not None]


def value_of(method: Selector, loaded: LoadedDraft, target: Target, sample: Sample) -> float:
    selector = make_selector(SelectionConfig(method=method))
    assert isinstance(selector, DraftSelector)
    return selector.beside(loaded, target).sample_value(sample)


@torch.no_grad()
def oracle(loaded: LoadedDraft, target: Target, model: PreTrainedModel, sample: Sample) -> tuple[float, float]:
    """(mean rejection probability, share of tokens not said) of the answer's tokens but the first."""
    head = loaded.draft.head(target.lm_head, loaded.vocab_W)
    proposer = Proposer.of(loaded.draft, target.embed, head, num_slots=1, max_tokens=128)
    assert sample.features is not None
    ids = sample.token_ids
    states_1LD = proposer.extend(torch.tensor([ids[1:]]), sample.features[None], [0])
    draft_probs = head(states_1LD)[0].double().softmax(-1)  # of row i: token i+2
    logits = model(torch.tensor([ids])).logits[0].double()
    names = list(range(112)) if loaded.vocab_W is None else loaded.vocab_W.tolist()
    rejected, unsaid = [], []
    for place in range(sample.num_prompt_tokens + 1, len(ids)):
        p, q = logits[place - 1, names].softmax(-1).tolist(), draft_probs[place - 2].tolist()
        rejected.append(1.0 - sum(min(pair) for pair in zip(p, q, strict=True)))
        unsaid.append(names[q.index(max(q))] != ids[place])
    return fmean(rejected), fmean(unsaid)


def test_against_the_decoding_form_and_transformers(
    loaded: LoadedDraft,
    tiny_target: Target,
    reference_model: Callable[[str], PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(draft_scorer, "_AT_ONCE", 7)  # so that an answer is several pieces, the last a short one
    values = []
    for sample in written(tiny_target, loaded.draft):
        lost, unsaid = oracle(loaded, tiny_target, reference_model("llama"), sample)
        # half precision of what the sample keeps of the head's states
        assert value_of(Selector.DRAFT_LOSS, loaded, tiny_target, sample) == pytest.approx(lost, abs=2e-3)
        assert value_of(Selector.DRAFT_REJECTIONS, loaded, tiny_target, sample) == unsaid
        values.append(lost)
    assert len(values) == 3
    assert 0.05 < min(values) < max(values) < 0.95


def test_a_draft_that_says_what_the_target_says_has_no_loss(tiny_target: Target, tiny_draft: Draft) -> None:
    """Its distributions are the target's own, however undecided that is: a cross-entropy would be its entropy."""
    sample = written(tiny_target, tiny_draft)[0]
    true_states_1LD = sample.answer_states().float()

    class Same(type(tiny_draft)):  # type: ignore[misc]
        def step(self, *_: object) -> Tensor:
            before = torch.zeros(sample.num_prompt_tokens - 1, true_states_1LD.shape[1])
            return torch.cat([before, true_states_1LD])[None]

    tiny_draft.__class__ = Same
    loaded = LoadedDraft(tiny_draft, None)
    assert value_of(Selector.DRAFT_LOSS, loaded, tiny_target, sample) == pytest.approx(0.0, abs=1e-6)


def test_what_is_kept_of_the_layers_is_enough(tiny_target: Target) -> None:
    """Where a shard holds the draft's first state instead of the layers, the value is the same."""
    draft = fit_draft(tiny_target, draft=random_eagle3(tiny_target), vocab_W=VOCAB_W, steps=10)
    loaded = LoadedDraft(draft.requires_grad_(False), VOCAB_W.int())
    plain, started = written(tiny_target, draft), written(tiny_target, draft, start=draft.start)
    assert [sample.is_started for sample in started] == [True] * 3
    for method in (Selector.DRAFT_LOSS, Selector.DRAFT_REJECTIONS):
        for one, other in zip(plain, started, strict=True):
            expected = value_of(method, loaded, tiny_target, one)
            assert value_of(method, loaded, tiny_target, other) == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("method", [Selector.DRAFT_LOSS, Selector.DRAFT_REJECTIONS])
def test_the_largest_are_kept(method: Selector) -> None:
    selector = make_selector(SelectionConfig(method=method, keep_fraction=0.5))
    values = [0.1, 0.7, 0.4, 0.4]
    assert selector.keep(["d", "c", "b", "a"], values, seed=0) == [1, 3]  # of the two at 0.4 the one whose id is first
    assert selector.threshold([0.7, 0.4]) == 0.4
    assert (selector.share, selector.value_name) == (0.5, method.value)
