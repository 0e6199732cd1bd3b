"""What a pickle may hold to be converted: tensors by name, and nothing that is larger than it claims."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from eda_service.drafts.dialects import conversion_worker
from eda_service.drafts.dialects.conversion_worker import NotTensorsError


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"model": {"fc.weight": torch.ones(2)}}, "'model' is a dict"),
        ([torch.ones(2)], "holds a list"),
        ({}, "holds a dict"),
        ({1: torch.ones(2)}, "under '1'"),
        ({"a": 3}, "'a' is a int"),
        ({"a": torch.ones(2).to_sparse()}, "sparse"),
        ({"a": torch.ones(2, device="meta")}, "without data"),
        ({"a": torch.ones(1).expand(1 << 40)}, "take more than 1048576 bytes"),
        ({"a": torch.nn.Linear(2, 2)}, "holds code or objects"),
    ],
)
def test_only_tensors_by_name_are_taken(tmp_path: Path, value: object, message: str) -> None:
    path = tmp_path / "a.bin"
    torch.save(value, path)
    with pytest.raises(NotTensorsError, match=message):
        conversion_worker.tensors_of(path, 1 << 20)


def test_views_parameters_and_empty_tensors_are_written_as_they_are(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    value = OrderedDict(a=whole.t(), b=torch.nn.Parameter(whole[1:3]), c=torch.empty(0, 3), d=torch.tensor(True))
    torch.save(value, tmp_path / "a.bin")
    conversion_worker.write(conversion_worker.tensors_of(tmp_path / "a.bin", 1 << 20), tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == value.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in value.items())
