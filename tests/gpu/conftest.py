"""Fixtures of `make test-gpu`: the tiny targets of the suite on the GPU, beside their twins on the CPU.

`EDA_TEST_DEVICE=cpu` runs the tests themselves where there is no GPU; then they show that they are sound, nothing else.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from eda_service.config.job import TargetSpec
from eda_service.drafts.draft import Draft
from eda_service.targets.loader import Target, load_target


@pytest.fixture(scope="session")
def device() -> torch.device:
    """What is under test."""
    found = torch.device(os.environ.get("EDA_TEST_DEVICE", "cuda"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.fail("torch sees no GPU here: `make test-gpu` wants one and a CUDA build of torch")
    return found


@pytest.fixture(scope="session")
def target_on(device: torch.device, target_dir: Callable[[str], Path]) -> Callable[[str], Target]:
    """Family name to its tiny target in float32 on the device."""
    return cache(lambda family: load_target(TargetSpec(model=str(target_dir(family)), dtype="float32"), device=device))


@pytest.fixture(scope="session")
def draft_on(device: torch.device, make_fitted_draft: Callable[[str], Draft]) -> Callable[[str], Draft]:
    """Family name to its fitted draft on the device, frozen."""
    return cache(lambda family: copy.deepcopy(make_fitted_draft(family)).to(device).requires_grad_(False).eval())
