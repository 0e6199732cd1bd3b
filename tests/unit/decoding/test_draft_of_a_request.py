"""What drafts is a request's to choose: several drafts, and none, in one batch over one target, and one text.

Oracle: the target alone.
"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from engine_helpers import DraftMaker, answer, decode, make_prompts
from tiny_models import random_draft

from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.fused.kinds import whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.errors import NotFoundError
from eda_service.targets.loader import Target


def _decoding_draft(target: Target, draft: Draft) -> DecodingDraft:
    return DecodingDraft(whole_parts(draft), draft.head(target.lm_head, None))


@pytest.fixture
def engine(tiny_target: Target, make_fitted_draft: DraftMaker) -> Engine:
    """Two variants: `fit` with a draft that fits, and `poor` with a random one."""
    engine = Engine(tiny_target, num_draft_tokens=3, max_batch=8, max_tokens=120)
    engine.add_variant("fit", decoding_draft=_decoding_draft(tiny_target, make_fitted_draft("llama")))
    engine.add_variant("poor", decoding_draft=_decoding_draft(tiny_target, random_draft(tiny_target, seed=9)))
    return engine


@torch.inference_mode()
def test_drafts_share_a_batch_and_say_the_same(engine: Engine, tiny_target: Target) -> None:
    (prompt,) = make_prompts(1, seed=6)
    params = SamplingParams(max_new_tokens=24, ignore_eos=True)
    (alone,) = decode(Engine(tiny_target, max_batch=2, max_tokens=120), [prompt], [params])
    engine.submit("own", prompt, params, variant="fit")
    engine.submit("other", prompt, params, variant="fit", draft_of="poor")
    engine.submit("better", prompt, params, variant="poor", draft_of="fit")
    engine.submit("none", prompt, SamplingParams(max_new_tokens=24, ignore_eos=True, speculate=False), variant="fit")
    assert engine.variant_loads()["fit"].num_requests == 3  # a request counts for its own variant
    done = run_to_end(engine)
    assert {name: answer(outputs) for name, outputs in done.items()} == dict.fromkeys(done, alone)
    stats = {name: outputs[-1].stats for name, outputs in done.items()}
    assert stats["none"].num_draft_tokens == 0
    assert stats["own"].num_accepted_tokens == stats["better"].num_accepted_tokens > stats["other"].num_accepted_tokens


def test_a_draft_that_is_taken_away_ends_with_its_requests(engine: Engine, tiny_target: Target) -> None:
    prompt, params = make_prompts(1, seed=6)[0], SamplingParams(max_new_tokens=12, ignore_eos=True)
    engine.submit("begun", prompt, params, variant="fit", draft_of="poor")
    engine.remove_variant("poor")
    with pytest.raises(NotFoundError, match="poor"):
        engine.submit("late", prompt, params, variant="fit", draft_of="poor")
    (outputs,) = run_to_end(engine).values()
    assert outputs[-1].stats.num_draft_tokens > 0
    assert len(answer(outputs)) == 12


@pytest.mark.parametrize("draft_of", [None, "poor"])
def test_a_draft_that_is_removed_leaves_memory_while_nothing_is_asked(engine: Engine, draft_of: str | None) -> None:
    decoding_draft = engine._variants["poor"].decoding_draft
    gone, prompt = weakref.ref(decoding_draft), make_prompts(1, seed=6)[0]
    del decoding_draft
    params = SamplingParams(max_new_tokens=6, ignore_eos=True)
    engine.submit("r", prompt, params, variant="fit" if draft_of else "poor", draft_of=draft_of)
    if draft_of is not None:
        engine.remove_variant("poor")  # while it drafts for another variant's request
    run_to_end(engine)
    if draft_of is None:
        engine.remove_variant("poor")
    gc.collect()
    assert gone() is None
