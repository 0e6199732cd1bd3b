"""What is offered before anything is loaded is what an export then does: made or refused, calibrated or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapted_packs import publish_adapted
from test_export_eagle3 import register

from eda_service.config.job import Method, Mix, TrainConfig
from eda_service.errors import TargetIncompatibleError
from eda_service.export.calibration import CalibrationSettings
from eda_service.export.export import ExportRequest, export_draft
from eda_service.export.offers import Offer, offers_of
from eda_service.storage.published.registry import find_pack
from eda_service.targets.loader import Target

GATED, SUM = TrainConfig(method=Method.EDA), TrainConfig(method=Method.EDA, mix=Mix.SUM)
WHOLE = TrainConfig(method=Method.FULL_FT)


def hold(offer: Offer, reference: str, home: Path, target: Target, out: Path) -> None:
    """Export it, and compare with what was said before."""
    settings = CalibrationSettings(num_prompts=8, max_new_tokens=16)
    request = ExportRequest(reference, offer.to, offer.form, out, target=target.spec, calibration=settings)
    if offer.refused is None:
        made = export_draft(request, home=home)
        assert (made.eda_config.calibration is not None) is offer.needs_answers, offer
        return
    with pytest.raises(TargetIncompatibleError) as refused:
        export_draft(request, home=home)
    assert (refused.value.message, refused.value.param) == (offer.refused, "to")


@pytest.mark.parametrize(("train", "has_vocab"), [(GATED, True), (SUM, True), (WHOLE, False)])
def test_offers_over_eagle1(
    train: TrainConfig, has_vocab: bool, home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    vocab_W = torch.arange(1, 111, 2) if has_vocab else None
    reference = publish_adapted(home, base_draft_dir, tiny_target, train, vocab_W=vocab_W)
    offers = offers_of(find_pack(reference, home), base_draft_dir, is_target_known=True)
    assert len({(each.to, each.form) for each in offers}) == 6
    for offer in offers:
        assert offer.dialects == ()
        hold(offer, reference, home, tiny_target, tmp_path / f"{offer.to}-{offer.form}")


def test_offers_over_eagle3(home: Path, tiny_target: Target, tmp_path: Path) -> None:
    """Its queries and keys are normed, which SGLang does not do; nor is there a plugin for it."""
    base = register(home, tiny_target, qk_norm=True)
    reference = publish_adapted(home, base, tiny_target, WHOLE)
    offers = offers_of(find_pack(reference, home), base, is_target_known=True)
    assert {str(each.to) for each in offers if each.refused is not None} == {"sglang"}
    for offer in offers:
        assert bool(offer.dialects) is (offer.form == "dense")
        hold(offer, reference, home, tiny_target, tmp_path / f"{offer.to}-{offer.form}")


def test_a_pack_that_names_no_target_is_offered_nowhere(home: Path, base_draft_dir: Path, tiny_target: Target) -> None:
    reference = publish_adapted(home, base_draft_dir, tiny_target, WHOLE)
    offers = offers_of(find_pack(reference, home), base_draft_dir, is_target_known=False)
    assert all("does not say which target" in (each.refused or "") for each in offers)
