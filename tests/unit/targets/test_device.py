"""Where a process computes: the config's word, held against what it sees. No GPU is needed to tell them apart."""

from __future__ import annotations

import pytest
import torch

from eda_service.errors import InputError
from eda_service.targets.device import choose_device


@pytest.fixture(params=[True, False], ids=["GPU seen", "no GPU"])
def sees_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return bool(request.param)


def test_auto_takes_what_is_there(sees_gpu: bool) -> None:
    assert choose_device("auto").type == ("cuda" if sees_gpu else "cpu")


def test_cpu_is_the_cpu_whatever_is_there(sees_gpu: bool) -> None:
    assert choose_device("cpu").type == "cpu"


def test_cuda_is_a_gpu_or_an_error_that_says_what_is_seen_and_what_to_do(
    sees_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    if sees_gpu:
        assert choose_device("cuda").type == "cuda"
        return
    with pytest.raises(InputError, match=r"sees 0 of the 1 GPU.*CUDA_VISIBLE_DEVICES '7'.*eda doctor") as caught:
        choose_device("cuda")
    assert caught.value.param == "device"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES not set"):
        choose_device("cuda")
