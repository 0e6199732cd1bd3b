"""Two owners of one service, and what each has made: worlds that differ by one owner's objects alone.

Everything real but the cluster: the API on uvicorn, its database and files; a scripted server answers in the place of
Serve, and tells what replicas did for every deployment there ever was.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from draft_files import put_draft
from job_files import finish_job
from live_api import LiveApi, live_api
from scripted_service import Answer, Request, ScriptedService, refusal, scripted_service

from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import GROUP_METRICS, GroupMetrics, LoadedModel, VariantMetrics
from api.ui.sessions import COOKIE, Sessions
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.tasks import ImportConfig
from eda_service.jobstore import Job
from eda_service.raycluster.serve_plan import UID_HEADER, group_key, route_prefix_of
from eda_service.records import Stage
from eda_service.storage.published import registry
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples import prompts

TARGET = {"model": "org/model", "adapter": None, "revision": None, "dtype": "auto"}
PREFIX = route_prefix_of(group_key(TARGET))
SHARED = "shared"
"""The name that both owners want: of a deployment, and of the pack that a job publishes."""
MISSING_JOB = "adapt_00000000000000000000000000"
MISSING_FILE = "file-00000000000000000000000000"
SCOPES = ("jobs:read", "jobs:write", "infer")


@dataclass
class Owner:
    """One owner with a key, as a bearer and as a browser."""

    name: str
    key_id: str
    key: str
    cookie: str
    form_token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def browser(self) -> dict[str, str]:
        return {"cookie": f"{COOKIE}={self.cookie}"}


@dataclass
class Made:
    """The jobs and the imported draft of an owner in a world; without any, ids that nothing has."""

    draft: str
    file: str = MISSING_FILE
    queued: str = MISSING_JOB
    finished: str = MISSING_JOB


@dataclass
class World:
    """A running service.

    Attributes:
        uids: Of every deployment that there ever was, and what each did, in tokens.
    """

    api: LiveApi
    proxy: ScriptedService
    owners: dict[str, Owner] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    uids: dict[str, int] = field(default_factory=dict)

    def add_owner(self, name: str) -> None:
        info, key = self.api.store.keys.create(name, "test", SCOPES)
        sessions = Sessions(self.api.home)
        session = sessions.new(info.id)
        self.owners[name] = Owner(name, info.id, key, sessions.seal(session), sessions.form_token(session))
        self.made[name] = Made(draft=f"draft-{name}@1")

    def ask(self, owner: str, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(
            method, f"{self.api.url}{path}", headers=self.owners[owner].bearer, timeout=60, trust_env=False, **more
        )

    def must(self, owner: str, method: str, path: str, **more: Any) -> Any:
        answer = self.ask(owner, method, path, **more)
        assert answer.is_success, (method, path, answer.text)
        return answer.json()

    def make_jobs(self, owner: str) -> None:
        """One that waits, and one that has published a pack of the shared name; both tell whose they are."""
        body = {"model": "org/model", "base_draft": "small@1", "seed": 7, "metadata": {"secret": f"label of {owner}"}}
        headers = {**self.owners[owner].bearer, "idempotency-key": "once"}
        answer = httpx.post(f"{self.api.url}/v1/adaptations", json=body, headers=headers, timeout=60, trust_env=False)
        assert answer.status_code == 201, answer.text
        self.made[owner].queued = str(answer.json()["id"])
        config = AdaptConfig(target=TargetSpec(model="org/model"), base_draft="small@1", served_name=SHARED)
        job, _ = self.api.store.jobs.create(config, owner=owner, labels={"secret": f"label of {owner}"})
        self.made[owner].finished = self._finish(job).id
        assert self._import(owner) == self.made[owner].draft
        rows = "".join(json.dumps({"prompt": f"prompt {n} of {owner}"}) + "\n" for n in range(20))
        sent = {"data": {"purpose": "fine-tune"}, "files": {"file": (f"rows of {owner}.jsonl", rows.encode())}}
        self.made[owner].file = str(self.must(owner, "POST", "/v1/files", **sent)["id"])

    def _import(self, owner: str) -> str:
        """A draft that a job of the owner has imported."""
        config = ImportConfig(target=TargetSpec(model="org/base"), source="org/draft", name=f"draft-{owner}")
        job, _ = self.api.store.jobs.create(config, owner=owner, labels={"secret": f"label of {owner}"})
        version = registry.reserve_draft(config.draft_name, job.id, self.api.home)
        put_draft(self.api.home, config.draft_name, version)
        return f"{config.draft_name}@{version}"

    def _finish(self, job: Job) -> Job:
        finished = finish_job(self.api.store, self.api.home, job)
        plots = RunDir.of_job(job.id, self.api.home).root / Stage.EVALUATE
        for name in ("acceptance", "training", "selection"):
            (plots / f"{name}.png").write_bytes(f"plot of {job.owner}".encode())
        return finished

    def deploy(self, owner: str, name: str, tokens: int) -> None:
        """Serve the owner's pack under a name, with a history, events, kept prompts, a pinned champion and traffic."""
        drift = {"keep_prompts": 50, "min_rounds": 100}
        body = {"name": name, "model": "org/model", "base_draft": "small@1", "drift": drift}
        self.must(owner, "POST", "/v1/deployments", json=body)
        versions = self.must(owner, "GET", f"/v1/packs/{SHARED}")["versions"]
        change = {"pack": f"{SHARED}@latest", "labels": {"secret": f"label of {owner}"}, "reason": f"why of {owner}"}
        self.must(owner, "PATCH", f"/v1/deployments/{name}", json=change)
        self.must(owner, "PUT", f"/v1/packs/{SHARED}/champion", json={"version": versions[0]["version"]})
        there = self.api.store.deployments.get(name)
        assert there.pack is not None
        told = {"message": f"fall of {owner}", "data": {"secret": owner}}
        assert self.api.store.drifts.record_crossing(name, there.uid, there.pack, is_below=True, **told)
        file = prompts.PromptFile(prompts.open_directory(self.api.home, there.uid) / "r1.jsonl", 50)
        file.add({"at": 1.0, "messages": [{"role": "user", "content": f"prompt of {owner}"}]})
        self.uids[there.uid] = tokens

    def delete(self, owner: str, name: str) -> None:
        self.must(owner, "DELETE", f"/v1/deployments/{name}")

    def metrics(self, _: Request) -> Answer:
        """What the replicas have done for all deployments, also those that are gone."""
        variants = []
        for uid, tokens in self.uids.items():
            counts = ModelCounts(num_new_tokens=tokens, num_rounds=tokens, tried_at=[tokens], accepted_at=[1])
            counts.finished["stop"] = tokens
            variants.append(VariantMetrics(uid, f"{SHARED}@1", counts, num_running=tokens))
        loaded = [LoadedModel(uid, f"{SHARED}@1", "small@1", tokens, tokens) for uid, tokens in self.uids.items()]
        body = GROUP_METRICS.dump_json(GroupMetrics(variants, loaded, dict(self.uids), 1000, 1))
        return Answer(headers={"content-type": "application/json"}, body=body)

    def answer(self, request: Request) -> Answer:
        """Only for a deployment that is there, and in its own words."""
        uid = request.headers.get(UID_HEADER, "")
        there = {each.uid: each.owner for each in self.api.store.deployments.all()}
        return Answer({"answered_for": there[uid]}) if uid in there else refusal(404, "model_not_found")

    def belongings(self, owner: str) -> str:
        """Everything that an owner has, as one text: nobody else may change it."""
        store = self.api.store
        deployments = store.deployments.all(owner=owner)
        found: list[Any] = [job.model_dump(mode="json") for job in store.jobs.page(owner=owner)[0]]
        for each in deployments:
            found += [each.model_dump(mode="json"), prompts.newest(self.api.home, each.uid, 50)]
            found += [made.model_dump(mode="json") for made in store.deployments.revisions(each.name)]
            found += [event.model_dump(mode="json") for event in store.drifts.events(each.name)[0]]
        found += [file.model_dump(mode="json") for file in store.files.page(owner=owner)[0]]
        found += [store.deployments.pinned_champion(owner, SHARED), sorted(self._files(owner))]
        return json.dumps(found, sort_keys=True)

    def _files(self, owner: str) -> Iterator[str]:
        for job_id in (self.made[owner].queued, self.made[owner].finished):
            root = RunDir.of_job(job_id, self.api.home).root
            yield from (f"{path} {path.stat().st_size}" for path in root.rglob("*") if path.is_file())


@contextlib.contextmanager
def world(root: Path) -> Iterator[World]:
    """A service with two owners, Ann and Bob, who have nothing yet."""
    with scripted_service() as proxy, live_api(root, serve_port=httpx.URL(proxy.url).port, dispatches=False) as api:
        made = World(api, proxy)
        for name in ("ann", "bob"):
            made.add_owner(name)
        proxy.on("GET", f"{PREFIX}/internal/metrics", made.metrics)
        for path in ("/v1/chat/completions", "/v1/completions"):
            proxy.on("POST", f"{PREFIX}{path}", made.answer)
        proxy.on("GET", f"{PREFIX}/v1/models/{SHARED}", made.answer)
        yield made


_SAME: tuple[tuple[str, str], ...] = (
    (r"(adapt|import|measure|export)_[0-9A-Z]{26}", "JOB"),
    (r"(file|page)-[0-9A-Z]{26}", "FILE"),
    (r"req_[0-9A-Za-z]+", "REQUEST"),
    (r"evt_\d+", "EVENT"),
    (r"\b[0-9a-f]{64}\b", "HASH"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\dZ?", "TIME"),
    (r"\b1[789]\d{8}\b", "TIME"),
    (rf"{SHARED}@\d+", f"{SHARED}@N"),
    (r'"(version|latest|champion)":\d+', r'"\1":N'),
    (r"[Vv]ersion \d+", "version N"),
    (r'<th scope="row">\d+</th>', '<th scope="row">N</th>'),  # a version in the table of packs
    (r'<option value="\d+"( selected)?>\d+', r"<option>N"),  # likewise, to choose
    (rf"/packs/{SHARED}/\d+\.tar", f"/packs/{SHARED}/N.tar"),
    (r"/export\?version=\d+", "/export?version=N"),
    (r'name="version" value="\d+"', 'name="version" value="N"'),
    (r'\b(x|x1|x2|width)=(\\?)"[\d.]+\\?"', r"\1=N"),  # how long something took, in charts and words
    (r"\b(\d+d\d\dh|\d+h\d\dm|\d+m\d\ds|\d+(\.\d)? ?s)\b", "DURATION"),
    (r'"deployment.event","id":\d+', '"deployment.event","id":N'),
    (r'"(first|last)_id":\d+', r'"\1_id":N'),
)


def comparable(text: str) -> str:
    """A text without what differs from one run to the next: ids, times, numbers of versions and events."""
    for pattern, word in _SAME:
        text = re.sub(pattern, word, text)
    return text
