"""Several packs in one module: each row is computed as its own pack's module computes it.

Shapes: N rows, D hidden, C input of fc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pack_files import fingerprint
from torch import Tensor, nn

from eda_service.config.job import Mix
from eda_service.drafts.draft_config import PrivateConfig
from eda_service.drafts.expert import Expert
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.export.files.eda_config import ExportedPack, PackPlaces
from eda_service.export.packed import ffn as packed_ffn
from eda_service.export.packed.ffn import PackedFFN, PackedFuse
from eda_service.export.packed.rows import PackedRows
from tests.services.export.test_plugins import rank_of

D = 16
KINDS = [(Mix.SOFTMAX, 24), (Mix.SOFTMAX, 12), (Mix.SUM, 8)]
ROWS = [2, 0, 1, 3, 3, 2, 0, 1, 4]
PLACES = PackPlaces(count=4, width=24, has_fuse=True, has_vocabulary=False, shared_sha256="s")


def modules() -> tuple[Expert, list[SharedPrivateFFN]]:
    """One shared expert of width 24 and a module for each kind of pack over it, all weights random."""
    torch.manual_seed(0)
    shared = Expert(D, 24)
    packs = [SharedPrivateFFN(shared, hidden_size=D, private_width=width, mix=mix) for mix, width in KINDS]
    for module in (shared, *packs):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.4)
    return shared, packs


def exported(pack: SharedPrivateFFN, adapter: str = "a") -> ExportedPack:
    """What an export says about it."""
    return ExportedPack(
        adapter=adapter,
        source="p@1",
        source_sha256={},
        private=PrivateConfig(private_width=pack.private.width, mix=pack.mix),
        scale=pack.scale,
        verifier=fingerprint(),
    )


def own(pack: SharedPrivateFFN) -> dict[str, Tensor]:
    """Its own tensors."""
    return {name: tensor for name, tensor in pack.state_dict().items() if not name.startswith("shared.")}


def filled(**settings: Any) -> tuple[PackedFFN, PackedRows, Expert, list[SharedPrivateFFN]]:
    """The module under test with a pack in the places 1 to 3; place 4 is empty."""
    shared, packs = modules()
    rows = PackedRows(8, 32)
    made = PackedFFN(D, PLACES, settings.pop("expert", shared), rows, lambda x: x, **settings)
    for place, pack in enumerate(packs, start=1):
        made.put(place, exported(pack), own(pack))
    return made, rows, shared, packs


def wanted(hidden_ND: Tensor, shared: Expert, packs: list[SharedPrivateFFN], places: list[int]) -> Tensor:
    """Row by row, by each pack's own module; the shared expert alone where there is none."""
    of_place: dict[int, Callable[[Tensor], Tensor]] = {0: shared, 4: shared, **dict(enumerate(packs, start=1))}
    return torch.stack([of_place[place](row_D) for row_D, place in zip(hidden_ND, places, strict=True)])


@pytest.fixture(params=["the places that occur", "all places, as in a graph"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing."""
    if request.param != "the places that occur":
        monkeypatch.setattr(packed_ffn, "present", lambda _: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("places", [ROWS, [2] * 9, [0] * 9], ids=["mixed", "one pack", "none"])
def test_each_row_is_its_own_packs(places: list[int]) -> None:
    made, rows, shared, packs = filled()
    rows.row_place_N[:9] = torch.tensor(places)
    hidden_ND = torch.randn(9, D)
    with torch.no_grad():
        torch.testing.assert_close(made(hidden_ND), wanted(hidden_ND, shared, packs, places), rtol=1e-5, atol=1e-5)
        if any(places):
            others = [(place + 1) % 4 for place in places]
            assert not torch.allclose(made(hidden_ND), wanted(hidden_ND, shared, packs, others), atol=1e-2)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_add_up_to_the_whole(size: int) -> None:
    """A width is split as it is, zeros and all: some ranks hold nothing of a narrow pack."""
    hidden_ND, total_ND = torch.randn(9, D), torch.zeros(9, D)
    _, _, shared, packs = filled()
    for rank in range(size):
        part, rows, *_ = filled(expert=rank_of(shared, rank, size), rank=rank, num_ranks=size)
        rows.row_place_N[:9] = torch.tensor(ROWS)
        total_ND += part(hidden_ND).detach()
    torch.testing.assert_close(total_ND, wanted(hidden_ND, shared, packs, ROWS), rtol=1e-4, atol=1e-4)


def test_a_place_is_filled_and_emptied_where_it_lies() -> None:
    """A recorded graph reads addresses: none changes, and nothing of the pack before is left."""
    made, rows, shared, packs = filled()
    addresses = {name: buffer.data_ptr() for name, buffer in made.named_buffers()}
    rows.row_place_N[:9] = 1
    hidden_ND = torch.randn(9, D)
    made.put(1, exported(packs[2]), own(packs[2]))  # narrower, and without a gate
    torch.testing.assert_close(made(hidden_ND), packs[2](hidden_ND), rtol=1e-5, atol=1e-5)
    made.put(1, None, {})
    torch.testing.assert_close(made(hidden_ND), shared(hidden_ND), rtol=0, atol=0)
    assert {name: buffer.data_ptr() for name, buffer in made.named_buffers()} == addresses


def test_one_graph_is_right_for_every_batch() -> None:
    """Traced once, without a break, for any number of rows; what fills places and rows later is seen by it."""
    made, rows, shared, packs = filled()
    traces: list[int] = []

    def counting(graph: torch.fx.GraphModule, _: Any) -> Any:
        traces.append(1)
        return graph.forward

    compiled = torch.compile(made, backend=counting, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for places in (ROWS, [1, 2, 0, 3], [3] * 7):
            rows.row_place_N[: len(places)] = torch.tensor(places)
            hidden_ND = torch.randn(len(places), D)
            torch.testing.assert_close(
                compiled(hidden_ND), wanted(hidden_ND, shared, packs, places), rtol=1e-5, atol=1e-5
            )
        made.put(3, exported(packs[0]), own(packs[0]))
        torch.testing.assert_close(compiled(hidden_ND), packs[0](hidden_ND), rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


@pytest.mark.usefixtures("way")
def test_an_fc_of_each_pack() -> None:
    rows, torch_rng = PackedRows(8, 32), torch.Generator().manual_seed(1)
    weights = torch.randn(3, D, 2 * D, generator=torch_rng)
    fuse = PackedFuse(2 * D, D, 3, rows)
    fuse.put(0, weights[0])
    fuse.put(1, weights[1])
    fuse.put(3, weights[2])
    x_NC, places = torch.randn(6, 2 * D), [3, 0, 1, 2, 1, 0]
    rows.row_place_N[:6] = torch.tensor(places)
    of_place = {0: weights[0], 1: weights[1], 2: weights[0], 3: weights[2]}  # 2 has none of its own
    expected = torch.stack([of_place[place] @ x_C for place, x_C in zip(places, x_NC, strict=True)])
    torch.testing.assert_close(fuse(x_NC), expected, rtol=1e-5, atol=1e-5)
    fuse.clear(3)
    rows.row_place_N[:6] = 3
    torch.testing.assert_close(fuse(x_NC), x_NC @ weights[0].T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padded", [0, 3])
def test_rows_follow_their_requests(padded: int) -> None:
    """Requests of 3, 1 and 2 rows, of places 2, 0 and 1; rows behind them are nobody's."""
    rows = PackedRows(4, 32)
    rows.set_requests([3, 3, 3, 3])
    rows.set_requests([2, 0, 1])
    starts_R = torch.tensor([0, 3, 4, 6], dtype=torch.int32)
    rows.spread(6 + padded, starts_R)
    assert rows.of_rows(6 + padded).tolist() == [2, 2, 2, 0, 1, 1, *[0] * padded]
    assert rows.of_requests(3).tolist() == [2, 0, 1]
    assert rows.of_requests(7).tolist() == [2, 0, 1, 0, 0, 0, 0]
    rows.spread(6, None)
    assert rows.of_rows(6).tolist() == [0] * 6


def test_a_full_batch_has_rows_behind_it() -> None:
    rows = PackedRows(2, 8)
    rows.set_requests([1, 2])
    rows.spread(8, torch.tensor([0, 1, 2]))
    assert rows.of_rows(8).tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
