"""The head over a draft vocabulary: its logits are those rows of the target's, and ids and probabilities map back.

Shapes: B rows, V vocabulary, W draft vocabulary, D hidden.
"""

from __future__ import annotations

import pytest
import torch

from eda_service.drafts.head import DraftHead
from eda_service.errors import TargetIncompatibleError
from eda_service.targets.head import LmHead

VOCAB = [1, 4, 5, 9]


@pytest.fixture(name="weight_VD")
def make_weight() -> torch.Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(0))


def test_logits_are_rows_of_the_target_s(weight_VD: torch.Tensor) -> None:
    features_BD = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    got_BW = DraftHead(LmHead(weight_VD), torch.tensor(VOCAB, dtype=torch.int32))(features_BD)
    torch.testing.assert_close(got_BW, (features_BD @ weight_VD.T)[:, VOCAB], rtol=1e-5, atol=1e-6)


def test_ids_and_probabilities_map_back(weight_VD: torch.Tensor) -> None:
    head = DraftHead(LmHead(weight_VD), torch.tensor(VOCAB))
    assert head.to_token_ids(torch.tensor([[0, 3], [2, 1]])).tolist() == [[1, 9], [5, 4]]
    full = head.scatter_probs(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    torch.testing.assert_close(full, torch.tensor([[0.0, 0.1, 0, 0, 0.2, 0.3, 0, 0, 0, 0.4]]))


def test_without_a_vocabulary_everything_passes_through(weight_VD: torch.Tensor) -> None:
    head = DraftHead(LmHead(weight_VD), None)
    ids, probs = torch.tensor([7]), torch.rand(1, 10)
    assert head.to_token_ids(ids) is ids
    assert head.scatter_probs(probs) is probs


def test_a_vocabulary_of_another_target_is_refused(weight_VD: torch.Tensor) -> None:
    with pytest.raises(TargetIncompatibleError, match="names token 10, the target has 10") as caught:
        DraftHead(LmHead(weight_VD), torch.tensor([3, 10]))
    assert caught.value.param == "pack"
