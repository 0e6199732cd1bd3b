"""API keys: shown once, kept as a hash, and good only while they are."""

from __future__ import annotations

import hashlib
import re

import pytest
from sqlalchemy import select
from store_helpers import Clock

from eda_service.errors import InputError, NotFoundError
from eda_service.jobstore import JobStore
from eda_service.jobstore.models import KeyRow


def test_a_key_opens_and_only_its_hash_is_kept(store: JobStore) -> None:
    info, key = store.keys.create("ann", "laptop", ["jobs:write", "jobs:read", "jobs:read"])
    word, key_id, secret = key.split("_")
    assert (word, key_id) == ("eda", info.id)
    assert re.fullmatch(r"[0-9a-f]{64}", secret)
    assert (info.owner, info.name, info.scopes) == ("ann", "laptop", ["jobs:read", "jobs:write"])
    with store.database.read() as session:
        row = session.scalars(select(KeyRow)).one()
        assert row.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
        assert not any(secret in str(value) for value in vars(row).values())
    found = store.keys.check(key)
    assert found is not None
    assert (found.id, found.owner, found.scopes) == (info.id, "ann", ["jobs:read", "jobs:write"])


def test_anything_else_does_not_open(store: JobStore) -> None:
    info, key = store.keys.create("ann", "laptop", ["infer"])
    _, other = store.keys.create("bob", "desk", ["infer"])
    last = "0" if key[-1] != "0" else "1"
    swapped = f"eda_{info.id}_{other.split('_')[2]}"
    for wrong in (
        "", "eda_", info.id, key[:-1], key + "0", key[:-1] + last, key.upper(), f" {key}", f"{key}\n", swapped,
        f"eda_{'0' * 16}_{'0' * 64}", key.replace("eda", "sk"), key[:-1] + "\0", "é" * 85, "eda_" + "0" * 10**6,
    ):  # fmt: skip
        assert store.keys.check(wrong) is None
    assert store.keys.check(key) is not None


def test_expired_keys_do_not_open(store: JobStore, clock: Clock) -> None:
    _, key = store.keys.create("ann", "for an hour", ["infer"], int(clock.now) + 3600)
    clock.now += 3599
    assert store.keys.check(key) is not None
    clock.now += 1
    assert store.keys.check(key) is None


def test_a_key_may_outlive_2038(store: JobStore) -> None:
    info, key = store.keys.create("ann", "long", ["infer"], 2**31 + 5)
    assert info.expires_at == 2**31 + 5
    assert store.keys.check(key) is not None


def test_revoked_keys_do_not_open(store: JobStore, clock: Clock) -> None:
    info, key = store.keys.create("ann", "laptop", ["infer"])
    _, other = store.keys.create("ann", "desk", ["infer"])
    revoked = store.keys.revoke(info.id)
    assert revoked.revoked_at == int(clock.now)
    clock.now += 5
    assert store.keys.revoke(info.id) == revoked
    assert store.keys.check(key) is None
    assert store.keys.check(other) is not None
    for unknown in ("none", "\0"):
        with pytest.raises(NotFoundError, match="`eda keys ls`"):
            store.keys.revoke(unknown)


def test_use_is_noted_once_a_minute(store: JobStore, clock: Clock) -> None:
    _, key = store.keys.create("ann", "laptop", ["infer"])
    start = int(clock.now)

    def used_at() -> int | None:
        store.keys.check(key)
        return store.keys.all()[0].last_used_at

    assert store.keys.all()[0].last_used_at is None
    assert used_at() == start
    clock.now += 59
    assert used_at() == start
    clock.now += 1
    assert used_at() == start + 60


def test_keys_are_listed_by_owner(store: JobStore, clock: Clock) -> None:
    made = []
    for owner in ("ann", "bob", "ann"):
        made.append(store.keys.create(owner, "n", ["infer"])[0])
        clock.now += 1
    assert store.keys.all() == made
    assert store.keys.all("ann") == [made[0], made[2]]
    assert store.keys.all("carl") == []


def test_a_store_with_only_revoked_keys_still_has_keys(store: JobStore) -> None:
    assert not store.keys.exist()
    info, _ = store.keys.create("ann", "laptop", ["infer"])
    assert store.keys.exist()
    store.keys.revoke(info.id)
    assert store.keys.exist()


@pytest.mark.parametrize(
    ("owner", "name", "scopes", "expires_at", "match"),
    [
        ("", "n", ["infer"], None, "owner ''"),
        ("a" * 65, "n", ["infer"], None, "owner 'aaa"),
        ("a\0", "n", ["infer"], None, "owner"),
        ("ann", "", ["infer"], None, "name has 1 to 128"),
        ("ann", "n\n", ["infer"], None, "name has 1 to 128"),
        ("ann", "n", [], None, "one or more of jobs:read"),
        ("ann", "n", ["infer", "root"], None, r"\['root'\] are unknown"),
        ("ann", "n", ["infer"], 1_000_000, "expires_at 1000000 is past"),
    ],
)
def test_impossible_keys_are_refused(
    store: JobStore, owner: str, name: str, scopes: list[str], expires_at: int | None, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        store.keys.create(owner, name, scopes, expires_at)
    assert not store.keys.exist()


def test_a_key_that_was_checked_is_found_by_its_id_while_it_is_valid(store: JobStore, clock: Clock) -> None:
    info, key = store.keys.create("ann", "laptop", ["infer"], expires_at=clock.now + 100)
    found = store.keys.valid(info.id)
    assert found is not None
    assert (found.id, found.owner, found.scopes) == (info.id, "ann", ["infer"])
    for wrong in ("", "0" * 16, key):
        assert store.keys.valid(wrong) is None
    clock.now += 100
    assert store.keys.valid(info.id) is None
    other, _ = store.keys.create("ann", "desk", ["infer"])
    assert store.keys.valid(other.id) is not None
    store.keys.revoke(other.id)
    assert store.keys.valid(other.id) is None


def test_dead_keys_are_the_revoked_the_expired_and_the_unknown(store: JobStore, clock: Clock) -> None:
    """Asking is no use of a key."""
    good, brief, bad = (store.keys.create("ann", name, ["infer"], at)[0].id for name, at in (
        ("good", None), ("brief", int(clock.now) + 10), ("bad", None)
    ))  # fmt: skip
    assert store.keys.dead({good, brief, bad}) == set()
    store.keys.revoke(bad)
    clock.now += 10
    assert store.keys.dead({good, brief, bad, "unknown"}) == {brief, bad, "unknown"}
    assert store.keys.dead([good]) == store.keys.dead([]) == set()
    assert all(each.last_used_at is None for each in store.keys.all())
