"""Deployments in the store: changes that start from what was read, a history, owners, champions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from store_helpers import Clock, at_once

from eda_service.errors import NotFoundError, StaleDeploymentError
from eda_service.jobstore import Deployment, JobStore

PAIR = Deployment(name="pair", owner="ada", target={"model": "m"}, base_draft="d@1", pack="p@1", labels={"team": "x"})


def test_a_change_is_a_revision_with_who_and_why(store: JobStore, clock: Clock) -> None:
    made = store.deployments.put(PAIR, made_by="ada", reason="made")
    clock.now += 5
    changed = store.deployments.put(
        made.model_copy(update={"pack": "p@2", "pack_ref": "p@latest", "max_replicas": 3}), made_by="bob", reason="new"
    )
    assert (changed.revision, changed.created_at, changed.updated_at) == (2, made.created_at, made.created_at + 5)
    assert store.deployments.get("pair") == changed
    newest, oldest = store.deployments.revisions("pair")
    assert (newest.pack, newest.pack_ref, newest.max_replicas, newest.made_by) == ("p@2", "p@latest", 3, "bob")
    assert (oldest.pack, oldest.reason, oldest.created_at) == ("p@1", "made", made.created_at)
    assert oldest.content == {
        "target": {"model": "m"}, "base_draft": "d@1", "pack": "p@1", "pack_ref": None, "job_id": None
    }  # fmt: skip
    assert store.deployments.revisions("pair", limit=1) == [newest]


@pytest.mark.parametrize("stale", [0, 2])
def test_a_change_made_from_another_revision_is_refused(store: JobStore, stale: int) -> None:
    store.deployments.put(PAIR, made_by="ada", reason="made")
    with pytest.raises(StaleDeploymentError, match=f"revision 1, the change was made from {stale}"):
        store.deployments.put(PAIR.model_copy(update={"revision": stale, "pack": None}), made_by="ada", reason="x")
    assert store.deployments.get("pair").pack == "p@1"
    assert len(store.deployments.revisions("pair")) == 1


def test_of_many_that_make_one_name_at_once_one_does(store: JobStore, open_store: Callable[[], JobStore]) -> None:
    def make(place: int) -> bool:
        try:
            open_store().deployments.put(PAIR.model_copy(update={"pack": f"p@{place}"}), made_by="a", reason="made")
        except StaleDeploymentError:
            return False
        return True

    assert sorted(at_once([partial(make, place) for place in range(4)])) == [False, False, False, True]
    assert len(store.deployments.revisions("pair")) == 1


def test_owners_see_their_own(store: JobStore) -> None:
    store.deployments.put(PAIR, made_by="ada", reason="made")
    store.deployments.put(PAIR.model_copy(update={"name": "other", "owner": "bob"}), made_by="bob", reason="made")
    assert [each.name for each in store.deployments.all()] == ["other", "pair"]
    assert [each.name for each in store.deployments.all(owner="ada")] == ["pair"]
    for look in (store.deployments.get, store.deployments.revisions, store.deployments.delete):
        with pytest.raises(NotFoundError, match="no deployment 'other'"):
            look("other", owner="ada")
    assert store.deployments.get("other", owner="bob").owner == "bob"


def test_a_deleted_deployment_is_gone_with_its_history(store: JobStore) -> None:
    store.deployments.put(PAIR, made_by="ada", reason="made")
    store.deployments.delete("pair", owner="ada")
    assert store.deployments.all() == []
    with pytest.raises(NotFoundError):
        store.deployments.delete("pair")
    assert store.deployments.put(PAIR, made_by="ada", reason="again").revision == 1


def test_a_deployment_needs_neither_job_nor_pack_nor_draft(store: JobStore) -> None:
    made = store.deployments.put(
        PAIR.model_copy(update={"pack": None, "base_draft": None}), made_by="ada", reason="made"
    )
    assert (made.pack, made.base_draft, made.job_id) == (None, None, None)


def test_a_pinned_champion_is_each_owners_own_and_can_be_let_go(store: JobStore) -> None:
    store.deployments.pin_champion("ada", "p", 3)
    store.deployments.pin_champion("ada", "p", 2)
    assert [store.deployments.pinned_champion(*each) for each in (("ada", "p"), ("bob", "p"), ("ada", "q"))] == [
        2,
        None,
        None,
    ]
    store.deployments.pin_champion("ada", "p", None)
    assert store.deployments.pinned_champion("ada", "p") is None


def test_a_name_made_again_is_another_deployment(store: JobStore, clock: Clock) -> None:
    """Its uid stays while it is changed, and nothing that was decided about the one before reaches it."""
    made = store.deployments.put(PAIR, made_by="ada", reason="made")
    changed = store.deployments.put(
        made.model_copy(update={"uid": "dep_forged", "pack": "p@2"}), made_by="a", reason="x"
    )
    assert changed.uid == made.uid
    told = {"is_below": True, "message": "fell", "data": {}}
    assert store.drifts.record_crossing("pair", made.uid, "p@2", **told)
    assert store.drifts.num_events() == {made.uid: 1}
    assert store.deployments.delete("pair").uid == made.uid
    clock.now += 5
    again = store.deployments.put(PAIR.model_copy(update={"owner": "bob"}), made_by="bob", reason="made")
    assert again.uid != made.uid
    assert made.has_own_uid
    assert again.has_own_uid
    assert not store.drifts.record_crossing("pair", made.uid, "p@1", **told)
    assert store.drifts.record_crossing("pair", again.uid, "p@1", **told)
    assert not store.drifts.record_handled("pair", made.uid, "adaptation_queued", "late", {}, is_job=True)
    assert store.drifts.num_events() == {again.uid: 1}
    assert store.drifts.all()["pair"].is_handled is False
