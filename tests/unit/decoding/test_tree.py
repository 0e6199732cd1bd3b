"""Draft trees: cutting the pool and following the target's choices, by hand; growth against transformers' order.

Shapes: B rows, P pool, N nodes kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eda_service.config.job import TreeConfig
from eda_service.decoding.proposal import Pending, Proposer
from eda_service.decoding.tree import Candidates, DraftTree, keep_best, shape_of
from eda_service.decoding.verification import verify_tree
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.targets.loader import Target


def pool_of(*rows: tuple[int, float, int]) -> Candidates:
    """Candidates of one row as (token, score, parent)."""
    ids, scores, parents = zip(*rows, strict=True)
    return Candidates(torch.tensor([ids]), torch.tensor([scores]), torch.tensor([parents]))


def test_the_best_nodes_are_kept_in_level_order_with_parents_renumbered() -> None:
    pool = pool_of((7, -0.1, -1), (8, -2.0, -1), (9, -0.3, 0), (5, -0.9, 0), (6, -0.4, 2))
    tree = keep_best(pool, 3, 3)
    assert tree.token_ids_BN.tolist() == [[7, 9, 6]]
    assert tree.parents_BN.tolist() == [[0, 1, 2]]
    assert tree.shape.depths_BL.tolist() == [[0, 1, 2, 3]]
    whole = keep_best(pool, 99, 3)
    assert whole.token_ids_BN.tolist() == [[7, 8, 9, 5, 6]]
    assert whole.parents_BN.tolist() == [[0, 0, 1, 1, 3]]
    assert whole.shape.depths_BL.tolist() == [[0, 1, 1, 2, 2, 3]]


def test_a_tie_keeps_the_parent() -> None:
    """Draft probability 1: parent and child score alike, and the parent comes first."""
    tree = keep_best(pool_of((7, 0.0, -1), (8, -3.0, -1), (9, 0.0, 0)), 1, 2)
    assert tree.token_ids_BN.tolist() == [[7]]
    assert tree.parents_BN.tolist() == [[0]]


def test_ancestors_by_hand() -> None:
    shape = shape_of(torch.tensor([[0, 0, 1, 3]]), 3)
    assert shape.depths_BL.tolist() == [[0, 1, 1, 2, 3]]
    assert [row.nonzero().squeeze(1).tolist() for row in shape.ancestors_BLL[0]] == [
        [0],
        [0, 1],
        [0, 2],
        [0, 1, 3],
        [0, 1, 3, 4],
    ]


def test_deep_chains_reach_their_root() -> None:
    for depth in (1, 2, 5, 9, 32):
        shape = shape_of(torch.arange(depth)[None], depth)
        assert torch.equal(shape.ancestors_BLL[0], torch.ones(depth + 1, depth + 1).tril().bool())


def tree_by_hand() -> DraftTree:
    """root -> 11, 12; 11 -> 13, 14; 13 -> 15."""
    parents_BN = torch.tensor([[0, 0, 1, 1, 3]])
    return DraftTree(torch.tensor([[11, 12, 13, 14, 15]]), parents_BN, shape_of(parents_BN, 3))


@pytest.mark.parametrize(
    ("chosen", "path", "next_id"),
    [
        ([99, 0, 0, 0, 0, 0], [], 99),
        ([12, 0, 77, 0, 0, 0], [2], 77),
        ([11, 14, 0, 0, 55, 0], [1, 4], 55),
        ([11, 13, 0, 15, 0, 66], [1, 3, 5], 66),
        ([11, 13, 0, 44, 0, 66], [1, 3], 44),
        ([99, 13, 0, 15, 0, 66], [], 99),  # the rest agrees, but its first token was not what the target says
    ],
)
def test_the_target_s_choices_are_followed_down_the_tree(chosen: list[int], path: list[int], next_id: int) -> None:
    verdict = verify_tree(torch.tensor([chosen]), tree_by_hand(), 3)
    assert verdict.num_accepted_B.tolist() == [len(path)]
    assert verdict.next_ids_B.tolist() == [next_id]
    assert verdict.path_BK[0].tolist() == path + [0] * (3 - len(path))


def test_a_row_that_does_not_speculate_takes_nothing() -> None:
    chosen_BN1 = torch.tensor([[11, 13, 0, 15, 0, 66]])
    verdict = verify_tree(chosen_BN1, tree_by_hand(), 3, torch.tensor([False]))
    assert (verdict.num_accepted_B.tolist(), verdict.next_ids_B.tolist()) == ([0], [11])


# --- growth against a search over the same draft ----------------------------------------------------------------------


def pending_of(tokens: list[int], draft: Draft) -> Pending:
    features = torch.randn(1, len(tokens), draft.config.hidden_size, generator=torch.Generator().manual_seed(3))
    return Pending(torch.tensor([tokens]), features, [0], [len(tokens)])


def path_log_probs(draft: Draft, target: Target, pending: Pending, path: list[int]) -> Tensor:
    """log-probabilities after a path, from a fresh proposer fed the path as a plain chain."""
    proposer = Proposer.of(draft, target.embed, DraftHead(target.lm_head, None), num_slots=1, max_tokens=64)
    feature = proposer.begin(pending)
    for step, token in enumerate(path):
        feature = proposer.extend(torch.tensor([[token]]), feature, [pending.ends[0] + step])
    return torch.log_softmax(proposer.decoding_draft.head(feature)[0, 0], dim=-1)


@torch.no_grad()
def test_a_tree_holds_the_paths_a_beam_search_finds(
    tiny_target: Target, make_fitted_draft: Callable[[str], Draft]
) -> None:
    """Oracle: the same search with one separate chain per path instead of tree attention."""
    draft, width, depth, size = make_fitted_draft("llama"), 3, 3, 9
    pending = pending_of([30, 40, 50, 60], draft)
    scored: dict[tuple[int, ...], float] = {}
    beam: list[tuple[int, ...]] = [()]
    for _ in range(depth):
        children = {}
        for path in beam:
            best = path_log_probs(draft, tiny_target, pending, list(path)).topk(width)
            base = scored.get(path, 0.0)
            for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                children[(*path, token)] = base + value
        scored |= children
        beam = sorted(children, key=children.__getitem__, reverse=True)[:width]
    wanted = set(sorted(scored, key=scored.__getitem__, reverse=True)[:size])
    proposer = Proposer.of(draft, tiny_target.embed, DraftHead(tiny_target.lm_head, None), num_slots=1, max_tokens=64)
    tree = proposer.tree(pending, TreeConfig(size=size, depth=depth, width=width))
    got = set()
    for node in range(1, size + 1):
        places = tree.shape.ancestors_BLL[0, node].nonzero().squeeze(1).tolist()[1:]
        got.add(tuple(int(tree.token_ids_BN[0, place - 1]) for place in places))
    assert got == wanted


@torch.no_grad()
def test_a_tree_of_width_one_is_the_greedy_chain(
    tiny_target: Target, make_fitted_draft: Callable[[str], Draft]
) -> None:
    draft = make_fitted_draft("llama")
    pending = pending_of([30, 40, 50], draft)
    head = DraftHead(tiny_target.lm_head, torch.arange(0, 112, 3))
    proposers = [Proposer.of(draft, tiny_target.embed, head, num_slots=1, max_tokens=64) for _ in range(2)]
    tree = proposers[0].tree(pending, TreeConfig(size=4, depth=4, width=1))
    assert torch.equal(tree.token_ids_BN, proposers[1].chain(pending, 4).token_ids_BK)
    assert tree.parents_BN.tolist() == [[0, 1, 2, 3]]
