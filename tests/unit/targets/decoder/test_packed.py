"""Packed linears give what `nn.Linear` gives, and the same bits for a row whatever stands beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eda_service.targets.decoder.packed import PlainLinear, can_pack, fuse_linears, make_linear, pack_linears


def test_packed_equals_plain_with_and_without_bias() -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        plain = nn.Linear(48, 30, bias=bias)
        packed = make_linear(plain.weight.data, plain.bias.data if bias else None)
        x = torch.randn(2, 5, 48)
        torch.testing.assert_close(packed(x), plain(x).detach(), rtol=1e-5, atol=1e-5)


def test_fused_linears_stand_side_by_side() -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(16, width) for width in (8, 4, 4)]
    x = torch.randn(3, 16)
    wanted = torch.cat([linear(x).detach() for linear in linears], dim=-1)
    torch.testing.assert_close(fuse_linears(linears)(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width_in", "width_out"), [(576, 1536), (576, 192), (1152, 576), (1536, 576)])
@pytest.mark.parametrize("num_rows", [1, 2, 5, 6, 30])
def test_a_row_s_bits_do_not_depend_on_the_batch(width_in: int, width_out: int, num_rows: int) -> None:
    """What makes float32 decoding exactly lossless; widths of SmolLM2's and its draft's layers."""
    torch.manual_seed(0)
    packed = make_linear(torch.randn(width_out, width_in))
    x_NI = torch.randn(96, width_in)
    assert torch.equal(packed(x_NI[:num_rows]), packed(x_NI)[:num_rows])


def test_pack_linears_replaces_all_and_keeps_the_function() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Sequential(nn.Linear(16, 8, bias=False)))
    x = torch.randn(3, 8)
    before = module(x).detach()
    module.requires_grad_(False)
    assert can_pack(torch.zeros(2, 2))
    pack_linears(module)
    assert not any(type(child) is nn.Linear for child in module.modules())
    torch.testing.assert_close(module(x), before, rtol=1e-5, atol=1e-6)


def test_half_precision_is_not_packed() -> None:
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float16))
    assert type(make_linear(torch.zeros(2, 2, dtype=torch.float16))) is PlainLinear
