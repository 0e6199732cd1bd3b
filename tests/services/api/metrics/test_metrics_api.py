"""`/metrics` of the API: what every group says, who sees what, and the page of docs that lists it all."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from scripted_service import Answer, ScriptedService

from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import GROUP_METRICS, GroupMetrics, LoadedModel, VariantMetrics
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.jobstore import Deployment, JobStore
from eda_service.raycluster.serve_plan import group_key

DOCS = Path(__file__).resolve().parents[4] / "docs" / "reference" / "metrics.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def serve_port(proxy: ScriptedService) -> int:
    return httpx.URL(proxy.url).port or 0


def deploy(store: JobStore, name: str, model: str, owner: str = "local") -> str:
    """Deploy, and return the key of the group."""
    target = {"model": model, "adapter": None, "revision": None, "dtype": "auto"}
    store.deployments.put(
        Deployment(name=name, owner=owner, target=target, base_draft=None, pack=None), made_by=owner, reason="x"
    )
    return group_key(target)


def say(
    proxy: ScriptedService,
    store: JobStore,
    group: str,
    *names: str,
    num_new_tokens: int = 10,
    num_swaps: int = 3,
    uids: tuple[str, ...] = (),
) -> bytes:
    """A group's replicas have answered for the deployments of these names, or of these uids; returns what they say."""
    variants, uids = [], uids or tuple(store.deployments.get(name).uid for name in names)
    for uid in uids:
        for pack in ("p@1", "p@2"):
            counts = ModelCounts(num_new_tokens=num_new_tokens, num_rounds=4, accepted_at=[3, 2], num_drafts=4)
            counts.finished["stop"] = 2
            counts.first_token_s.observe(0.003, 2)
            counts.first_token_s.observe(5000.0)
            variants.append(VariantMetrics(uid, pack, counts, num_running=1, num_waiting=2))
    loaded = [LoadedModel(uid, "p@2", "d@1", 40, 6, num_replicas=2) for uid in uids]
    found = GroupMetrics(variants, loaded, dict.fromkeys(uids, num_swaps) if num_swaps else {}, 1000, 2)
    body = GROUP_METRICS.dump_json(found)
    headers = {"content-type": "application/json"}
    proxy.on("GET", f"/groups/{group}/internal/metrics", Answer(headers=headers, body=body))
    return body


def scrape(client: TestClient, key: str | None = None) -> Samples:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_series_have_vllms_names_and_are_summed_over_packs(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    say(proxy, store, deploy(store, "a", "org/base"), "a")
    found = scrape(client)
    for name, value in {
        "vllm:num_requests_running": 2, "vllm:num_requests_waiting": 4, "vllm:generation_tokens_total": 20,
        "vllm:spec_decode_num_drafts_total": 8, "eda_rounds_total": 8, "eda_adapter_bytes": 40, "eda_pack_bytes": 6,
        "eda_pack_swaps_total": 3, "vllm:time_to_first_token_seconds_count": 6,
    }.items():  # fmt: skip
        assert of(found, name, model_name="a") == value, name
    assert of(found, "vllm:request_success_total", model_name="a", finished_reason="stop") == 4
    per_position = [
        of(found, "vllm:spec_decode_num_accepted_tokens_per_pos_total", model_name="a", position=str(place))
        for place in range(2)
    ]
    assert per_position == [6, 4]
    bucket = "vllm:time_to_first_token_seconds_bucket"
    by_bound = [of(found, bucket, model_name="a", le=bound) for bound in ("0.001", "0.005", "640.0", "+Inf")]
    assert by_bound == [0, 4, 4, 6]
    assert of(found, "eda_pack_info", model_name="a", pack="p@2", base_draft="d@1") == 2


def test_all_groups_are_joined_and_one_that_is_away_is_said_to_be(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    one, other, third = (deploy(store, name, f"org/{name}") for name in ("a", "b", "c"))
    say(proxy, store, one, "a")
    say(proxy, store, other, "b", num_new_tokens=7)
    proxy.on("GET", f"/groups/{third}/internal/metrics", Answer(body=b"no replica", status=503))
    found = scrape(client)
    assert [of(found, "vllm:generation_tokens_total", model_name=name) for name in ("a", "b")] == [20, 14]
    assert [of(found, "eda_group_up", group=group) for group in (one, other, third)] == [1, 1, 0]
    assert of(found, "eda_replicas", group=one) == 2
    assert of(found, "eda_base_bytes", group=other) == 1000


def test_what_has_not_happened_yet_is_0_so_that_the_first_time_counts(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    say(proxy, store, deploy(store, "a", "org/base"), "a", num_swaps=0)
    assert of(scrape(client), "eda_pack_swaps_total", model_name="a") == 0


def test_with_keys_each_sees_its_own_and_nobody_without(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    group = deploy(store, "a", "org/base", "ada")
    deploy(store, "b", "org/base", "bob")
    say(proxy, store, group, "a", "b")
    keys = {owner: store.keys.create(owner, "k", ["infer"])[1] for owner in ("ada", "bob")}
    admin = store.keys.create("root", "k", ["admin"])[1]
    assert client.get("/metrics").status_code == 401
    for owner, name in (("ada", "a"), ("bob", "b")):
        names = {value for _, labels in scrape(client, keys[owner]) for key, value in labels if key == "model_name"}
        assert names == {name}
    names = {value for _, labels in scrape(client, admin) for key, value in labels if key == "model_name"}
    assert names == {"a", "b"}


def test_jobs_and_answers_are_counted(client: TestClient, store: JobStore, proxy: ScriptedService) -> None:
    store.jobs.create(AdaptConfig(target=TargetSpec(model="org/base"), base_draft="small@1"))
    group = deploy(store, "a", "org/base")
    proxy.on("POST", f"/groups/{group}/v1/completions", Answer({}), Answer({}), Answer({}, status=429))
    for _ in range(3):
        client.post("/v1/completions", json={"model": "a", "prompt": "x"})
    found = scrape(client)
    assert of(found, "eda_jobs", status="queued") == 1
    assert [of(found, "eda_jobs", status=status) for status in ("running", "failed")] == [0, 0]
    assert of(found, "eda_job_stage_seconds_count", stage="train") == 0
    assert of(found, "eda_webhooks_total", outcome="gave_up") == 0
    assert of(found, "eda_endpoint_responses_total", code="200") == 2
    assert of(found, "eda_endpoint_responses_total", code="429") == 1
    assert of(found, "eda_dispatcher_pass_seconds_count") >= 1


def test_the_docs_list_what_is_exported_and_nothing_else(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    say(proxy, store, deploy(store, "a", "org/base"), "a")
    exported = dict(re.findall(r"^# TYPE (\S+) (\w+)$", client.get("/metrics").text, re.MULTILINE))
    listed = dict(re.findall(r"^\| `([\w:]+)` \| (\w+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == exported


def test_a_name_that_another_owner_takes_shows_nothing_of_before(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    """The replicas still tell what they did for the deployment that is gone, and an older one tells names alone."""
    group = deploy(store, "m", "org/base", "ada")
    old = store.deployments.get("m").uid
    store.deployments.delete("m")
    deploy(store, "m", "org/base", "bob")
    new = store.deployments.get("m").uid
    keys = [store.keys.create(owner, "k", ["infer"])[1] for owner in ("ada", "bob")]
    admin = store.keys.create("root", "k", ["admin"])[1]
    assert old != new
    say(proxy, store, group, uids=(old, ""))
    for key in (*keys, admin):
        assert not [labels for _, labels in scrape(client, key) if dict(labels).get("model_name")]
    say(proxy, store, group, uids=(old, new), num_new_tokens=4, num_swaps=1)
    assert not [labels for _, labels in scrape(client, keys[0]) if dict(labels).get("model_name")]
    for key in (keys[1], admin):
        found = scrape(client, key)
        assert of(found, "vllm:generation_tokens_total", model_name="m") == 8
        assert of(found, "eda_pack_swaps_total", model_name="m") == 1


def test_a_report_of_an_older_version_is_left_out_and_no_error(
    client: TestClient, store: JobStore, proxy: ScriptedService
) -> None:
    group = deploy(store, "a", "org/base")
    body = say(proxy, store, group, "a").replace(b'"uid":', b'"model":')
    body = body.replace(store.deployments.get("a").uid.encode(), b"a")
    proxy.on(
        "GET", f"/groups/{group}/internal/metrics", Answer(headers={"content-type": "application/json"}, body=body)
    )
    found = scrape(client)
    assert not [labels for _, labels in found if dict(labels).get("model_name")]
    assert of(found, "eda_group_up", group=group) == 1


def test_what_the_whole_service_does_is_an_admins_to_see(client: TestClient, store: JobStore) -> None:
    for owner, number in (("ada", 2), ("bob", 1)):
        for seed in range(number):
            config = AdaptConfig(target=TargetSpec(model="org/base"), base_draft="small@1", seed=seed)
            store.jobs.create(config, owner=owner)
    keys = {owner: store.keys.create(owner, "k", ["jobs:read"])[1] for owner in ("ada", "bob", "eve")}
    admin = store.keys.create("root", "k", ["admin"])[1]
    for owner, number in (("ada", 2), ("bob", 1), ("eve", 0)):
        found = scrape(client, keys[owner])
        assert of(found, "eda_jobs", status="queued") == number
        assert not {name for name, _ in found} & {"eda_webhooks_due", "eda_dispatcher_pass_seconds_count"}
    found = scrape(client, admin)
    assert of(found, "eda_jobs", status="queued") == 3
    assert of(found, "eda_webhooks_due") == 0
    assert of(found, "eda_dispatcher_pass_seconds_count") >= 1
