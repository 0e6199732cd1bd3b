"""Deployments and packs through both clients, against the real application and, for what takes a cluster, a script."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from both_clients import MakeClient
from live_api import LiveApi
from pack_files import put_pack
from scripted_service import Answer, ScriptedService

from eda_service.client import ApiError, NotServedError
from eda_service.errors import InputError

ROOT = "/v1/deployments"


def body(**changes: Any) -> dict[str, Any]:
    """A deployment under a name that no other test has."""
    return {"name": f"d-{uuid.uuid4().hex[:8]}", "model": "org/model", "base_draft": "small@1", **changes}


def shown(state: str, **fields: Any) -> Answer:
    replicas = {"min": 1, "max": 1, "running": 1}
    facts = {"name": "pair", "state": state, "model": "m", "replicas": replicas, "revision": 1}
    return Answer({**facts, "created_at": 1, "updated_at": 1, "later_field": 1, **fields})


def test_the_life_of_a_deployment(live: LiveApi, make_client: MakeClient) -> None:
    client, pack = make_client(live.url), f"p-{uuid.uuid4().hex[:8]}"
    for length in (2.0, 2.5):
        put_pack(live.home, pack, length)
    asked = body(labels={"a": "b"})
    made = client.deployments.create(asked)
    assert (made.state, made.pack, made.labels, made.revision) == ("pending", None, {"a": "b"}, 1)
    assert client.deployments.create(asked) == made
    swapped = client.deployments.update(made.name, pack=f"{pack}@1", replicas={"min": 1, "max": 2}, reason="try")
    assert (swapped.pack, swapped.replicas.max, swapped.labels) == (f"{pack}@1", 2, {"a": "b"})
    assert swapped.evaluation is not None
    assert swapped.evaluation.acceptance_length == 2.0
    assert client.deployments.update(made.name, labels={}).labels == {}
    assert client.deployments.update(made.name, pack=None).pack is None
    assert client.deployments.rollback(made.name).pack == f"{pack}@1"
    assert client.deployments.rollback(made.name, revision=1, reason="why not").pack is None
    history = client.deployments.get(made.name).revisions
    assert [each.reason for each in history][::-1][:2] == ["created", "try"]
    assert history[0].reason == "why not"
    assert client.deployments.delete(made.name) is None
    with pytest.raises(ApiError) as caught:
        client.deployments.get(made.name)
    assert (caught.value.status, caught.value.param) == (404, "name")


def test_packs_and_their_champion(live: LiveApi, make_client: MakeClient) -> None:
    client, name = make_client(live.url), f"p-{uuid.uuid4().hex[:8]}"
    for length in (2.5, 2.0):
        put_pack(live.home, name, length)
    pack = client.packs.get(name)
    assert (pack.latest, pack.champion, [each.id for each in pack.versions]) == (2, 1, [f"{name}@2", f"{name}@1"])
    assert client.packs.pin_champion(name, 2).champion_pinned
    assert not client.packs.pin_champion(name, None).champion_pinned
    assert name in {each.name for each in client.packs.page(limit=100)}
    assert name in {each.name for each in client.packs.iterate(page_size=1)}


def test_one_version_of_a_pack(live: LiveApi, make_client: MakeClient) -> None:
    client, name = make_client(live.url), f"p-{uuid.uuid4().hex[:8]}"
    put_pack(live.home, name, 2.0)
    put_pack(live.home, name, 2.5, rivals={f"{name}@1": 2.0})
    client.packs.pin_champion(name, 1)
    found = client.packs.version(name)
    assert (found.id, found.pinned, found.metrics["adapted_draft.acceptance_length.t0"]) == (f"{name}@1", True, 2.0)
    both = client.packs.compare(f"{name}@2", name)
    assert (both.comparable, both.other, both.gain) == (True, f"{name}@1", 1.25)
    assert client.packs.compare(f"{name}@2").other == f"{name}@1"  # the champion is the one that is pinned
    made = client.deployments.create({"pack": f"{name}@2"})
    assert (made.name, made.model, made.pack) == (name, "org/model", f"{name}@2")
    assert [each.name for each in client.packs.version(f"{name}@2").deployments] == [name]
    client.deployments.delete(name)
    assert client.packs.delete(f"{name}@2") == f"{name}@2"
    with pytest.raises(ApiError) as caught:
        client.packs.delete(f"{name}@1")
    assert (caught.value.status, "a pin of local" in str(caught.value)) == (409, True)


def test_a_worse_pack_needs_force(live: LiveApi, make_client: MakeClient) -> None:
    client, name = make_client(live.url), f"p-{uuid.uuid4().hex[:8]}"
    for length in (2.5, 2.0):
        put_pack(live.home, name, length)
    made = client.deployments.create(body(pack=f"{name}@1"))
    with pytest.raises(ApiError, match=r"2\.000, below the 2\.500") as caught:
        client.deployments.update(made.name, pack=f"{name}@2")
    assert (caught.value.status, caught.value.code) == (409, "acceptance_regression")
    assert client.deployments.update(made.name, pack=f"{name}@2", force=True).pack == f"{name}@2"
    client.deployments.delete(made.name)


def test_waiting_ends_when_it_is_ready_or_hopeless(scripted: ScriptedService, make_client: MakeClient) -> None:
    client, path = make_client(scripted.url), f"{ROOT}/pair"
    scripted.on("GET", path, shown("pending"), shown("loading"), shown("ready", loaded_pack="p@1"))
    assert client.deployments.wait_ready("pair", interval_s=0.01).loaded_pack == "p@1"
    assert len(scripted.seen("GET", path)) == 3
    scripted.on("GET", path, shown("failed", reason="no such file"))
    with pytest.raises(NotServedError, match="no such file"):
        client.deployments.wait_ready("pair")
    scripted.on("GET", path, shown("loading"))
    with pytest.raises(NotServedError, match="still loading"):
        client.deployments.wait_ready("pair", timeout_s=0.05, interval_s=0.01)


def test_only_what_is_given_is_sent(scripted: ScriptedService, make_client: MakeClient) -> None:
    client, path = make_client(scripted.url), f"{ROOT}/pair"
    scripted.on("PATCH", path, shown("ready"))
    for options, sent in (
        ({"replicas": 2}, {"replicas": 2}),
        ({"pack": None}, {"pack": None}),
        ({"drift": {"below": 0.5}}, {"drift": {"below": 0.5}}),
        ({"pack": "p", "force": True}, {"pack": "p", "force": True}),
    ):
        client.deployments.update("pair", **options)
        assert scripted.seen("PATCH", path)[-1].body == sent
    with pytest.raises(InputError, match="is no name"):
        client.deployments.get("../jobs")
