"""Eqs. 3, 4 and 5: two experts, one joint softmax over their two logits, and the weighted sum.

Oracle: numpy with the gate written as a logistic function of the *difference* of the two logits, which is what a joint
softmax over two is and what a softmax inside each group of one is not.

Shapes: B rows, D hidden, F expert width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eda_service.config.job import Mix
from eda_service.drafts.expert import Expert
from eda_service.drafts.gate import Gate
from eda_service.drafts.shared_private import SharedPrivateFFN

_D, _F = 6, 10


def make(private_width: int, mix: Mix, *, seed: int = 0) -> SharedPrivateFFN:
    """A module whose every weight is random, as after training."""
    torch.manual_seed(seed)
    module = SharedPrivateFFN(Expert(_D, _F), hidden_size=_D, private_width=private_width, mix=mix)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.7)
    return module.requires_grad_(False)


def expert_oracle(expert: Expert, hidden_BD: np.ndarray) -> np.ndarray:
    gate_FD, up_FD, down_DF = (
        linear.weight.double().numpy() for linear in (expert.gate_proj, expert.up_proj, expert.down_proj)
    )
    inner_BF = hidden_BD @ gate_FD.T
    return (inner_BF / (1 + np.exp(-inner_BF)) * (hidden_BD @ up_FD.T)) @ down_DF.T


def hidden(rows: int = 7) -> torch.Tensor:
    return torch.randn(rows, _D, generator=torch.Generator().manual_seed(3))


def test_joint_softmax_by_hand() -> None:
    """h = (1, 2), w_s = (1, 1), w_p = (2, 0): logits 3 and 2, so g_s = 1 / (1 + e^-1) = 0.731059."""
    gate = Gate(2)
    gate.proj.weight = torch.nn.Parameter(torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
    weights = gate(torch.tensor([1.0, 2.0])).tolist()
    assert weights == pytest.approx([0.7310586, 0.2689414], abs=1e-6)


def test_gate_is_joint_raising_one_weight_lowers_the_other() -> None:
    gate = Gate(_D).requires_grad_(False)
    before_B2 = gate(hidden())
    assert torch.equal(before_B2, torch.full_like(before_B2, 0.5))  # starts even
    gate.proj.weight[0] += 0.5 * hidden()[0]
    after_2 = gate(hidden())[0]
    assert after_2[0] > 0.5 > after_2[1]
    assert float(after_2.sum()) == pytest.approx(1.0)


def test_gate_takes_its_softmax_in_float32() -> None:
    gate = Gate(_D).to(torch.bfloat16).requires_grad_(False)
    gate.proj.weight.normal_(std=2.0, generator=torch.Generator().manual_seed(0))
    inputs_BD = hidden(64).to(torch.bfloat16)
    logits_B2 = gate.proj(inputs_BD).float()
    wanted_B = 1 / (1 + torch.exp(logits_B2[:, 1] - logits_B2[:, 0]))
    assert gate(inputs_BD).dtype == torch.bfloat16
    assert torch.equal(gate(inputs_BD)[:, 0], wanted_B.to(torch.bfloat16))


@pytest.mark.parametrize(("private_width", "scale"), [(_F, 1.0), (4, 2.0)])
def test_softmax_mix_against_numpy(private_width: int, scale: float) -> None:
    """At full width Eq. 5 as printed; a smaller private expert carries the constant 2 that its neutral start needs."""
    module = make(private_width, Mix.SOFTMAX)
    assert module.gate is not None
    hidden_BD = hidden().double().numpy()
    w_s, w_p = module.gate.proj.weight.double().numpy()
    gate_B1 = 1 / (1 + np.exp(-(hidden_BD @ (w_s - w_p))))[:, None]
    out_s, out_p = expert_oracle(module.shared, hidden_BD), expert_oracle(module.private, hidden_BD)
    wanted_BD = scale * (gate_B1 * out_s + (1 - gate_B1) * out_p)
    np.testing.assert_allclose(module(hidden()).numpy(), wanted_BD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("private_width", [_F, 4])
def test_sum_mix_against_numpy(private_width: int) -> None:
    """The released code's effective form: E_s + E_p, no gate and no scale."""
    module = make(private_width, Mix.SUM)
    assert module.gate is None
    hidden_BD = hidden().double().numpy()
    wanted_BD = expert_oracle(module.shared, hidden_BD) + expert_oracle(module.private, hidden_BD)
    np.testing.assert_allclose(module(hidden()).numpy(), wanted_BD, rtol=1e-4, atol=1e-5)


def test_softmax_and_sum_differ() -> None:
    assert not torch.allclose(make(_F, Mix.SOFTMAX)(hidden()), make(_F, Mix.SUM)(hidden()), atol=0.1)


def test_leading_dimensions_are_free() -> None:
    module = make(4, Mix.SOFTMAX)
    inputs_BD = hidden(6)
    assert torch.allclose(module(inputs_BD.view(2, 3, _D)).view(6, _D), module(inputs_BD), atol=1e-6)
