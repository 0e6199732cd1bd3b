"""How many drafted positions training unrolls where nobody says so: it is the draft kind's to know."""

from __future__ import annotations

import pytest
from tiny_models import random_draft, random_eagle3

from eda_service.config.job import TrainConfig
from eda_service.config.loss import LossConfig
from eda_service.drafts.draft import Draft
from eda_service.targets.loader import Target
from eda_service.training.loss import DraftLoss


@pytest.fixture(params=["eagle1", "eagle3"])
def draft(request: pytest.FixtureRequest, tiny_target: Target) -> Draft:
    return random_draft(tiny_target) if request.param == "eagle1" else random_eagle3(tiny_target)


@pytest.mark.parametrize("given", [None, 1, 2])
def test_the_kind_says_it_where_the_job_does_not(draft: Draft, given: int | None) -> None:
    wanted = given or {"eagle1": 1, "eagle3": 3}[draft.config.kind]
    loss = LossConfig(unroll_steps=given)
    assert DraftLoss(draft, loss).num_steps == wanted
    settled = draft.config.settled(TrainConfig(loss=loss, epochs=7))
    assert settled == TrainConfig(loss=LossConfig(unroll_steps=wanted), epochs=7)
