"""The selectors by their names in the config."""

from __future__ import annotations

from eda_service.config.job import SelectionConfig, Selector
from eda_service.selection.draft_loss import LargestDraftLoss
from eda_service.selection.draft_rejections import MostDraftRejections
from eda_service.selection.everything import Everything
from eda_service.selection.mahalanobis import LargestDistance, SmallestDistance
from eda_service.selection.random_draw import RandomDraw
from eda_service.selection.selector import SampleSelector

SELECTORS: dict[str, type[SampleSelector]] = {
    Selector.PCA: LargestDistance,
    Selector.REVERSED: SmallestDistance,
    Selector.RANDOM: RandomDraw,
    Selector.ALL: Everything,
    Selector.DRAFT_LOSS: LargestDraftLoss,
    Selector.DRAFT_REJECTIONS: MostDraftRejections,
}


def make_selector(config: SelectionConfig) -> SampleSelector:
    """Make the selector that a job asks for."""
    return SELECTORS[config.method](config)
