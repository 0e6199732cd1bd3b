"""Uploaded prompt files: by OpenAI's own client, in bounds, each owner's own, and what jobs make of them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from job_files import finish_job
from live_api import LiveApi, live_api
from openai import OpenAI

from api.app import create_app
from api.auth import LOCAL, Caller
from api.files import files as service
from api.files.files import Files
from api.middleware import MAX_BODY_BYTES
from api.settings import Settings
from eda_service.config.job import DatasetSpec
from eda_service.errors import QuotaExceededError
from eda_service.jobstore import JobStore, StoredFile
from eda_service.selfgen.prompts import load_prompts
from eda_service.storage.inputs import input_files

BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1", "force": True}
PURPOSE = {"purpose": "fine-tune"}


def lines(count: int, word: str = "question") -> bytes:
    return "".join(json.dumps({"prompt": f"{word} {n}"}) + "\n" for n in range(count)).encode()


def upload(client: TestClient, data: bytes, name: str = "rows.jsonl", **more: Any) -> Any:
    return client.post("/v1/files", files={"file": (name, data)}, data=PURPOSE, **more)


def kept(settings: Settings) -> list[Path]:
    return sorted((settings.home / "files").glob("*"))


def adapt(client: TestClient, source: str, **changes: Any) -> Any:
    return client.post("/v1/adaptations", json={**BODY, "dataset": {"source": source, "num_prompts": 90}, **changes})


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LiveApi]:
    with live_api(tmp_path, dispatches=False) as running:
        yield running


def test_openais_client_uploads_trains_and_deletes(api: LiveApi, tmp_path: Path) -> None:
    path = tmp_path / "my prompts é.jsonl"
    path.write_bytes(lines(300) + lines(3, "question"))
    with OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        file = client.files.create(file=path, purpose="fine-tune")
        assert (file.object, file.bytes, file.filename) == ("file", path.stat().st_size, path.name)
        assert (file.purpose, file.status) == ("fine-tune", "processed")
        assert client.files.create(file=path, purpose="fine-tune").id == file.id
        other = client.files.create(file=("held.jsonl", lines(40, "held")), purpose="fine-tune")
        assert client.files.retrieve(file.id) == file
        assert [each.id for each in client.files.list()] == [other.id, file.id]
        assert [each.id for each in client.files.list(limit=1, order="asc")] == [file.id, other.id]
        assert client.files.content(file.id).read() == path.read_bytes()
        job = client.fine_tuning.jobs.create(
            model="org/model", training_file=file.id, validation_file=other.id, extra_body={"base_draft": "small@1"}
        )
        assert (job.training_file, job.validation_file) == (file.id, other.id)
        config = api.store.jobs.get(job.id).adapt_config()
        assert config.dataset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(openai.ConflictError, match=f"is used by job {job.id}"):
            client.files.delete(file.id)
        client.fine_tuning.jobs.cancel(job.id)
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        assert [each.id for each in client.files.list()] == [other.id]
        with pytest.raises(openai.BadRequestError, match="fine-tune"):
            client.files.create(file=path, purpose="assistants")


def test_the_job_has_a_copy_that_deleting_leaves(
    client: TestClient, store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDA_HOME", str(settings.home))
    file = upload(client, gzip.compress(lines(100))).json()
    assert (file["num_prompts"], file["num_skipped"]) == (100, 0)
    made = adapt(client, file["id"])
    assert made.status_code == 201, made.text
    job = made.json()
    page = {"accept": "text/html"}
    assert f"rows.jsonl ({file['id']})" in client.get(f"/ui/jobs/{job['id']}", headers=page).text
    assert job["dataset"]["sha256"] == hashlib.sha256(lines(100)).hexdigest()
    finish_job(store, settings.home, store.jobs.get(job["id"]))
    assert f"rows.jsonl ({file['id']})" in client.get(f"/v1/adaptations/{job['id']}/report.html").text
    assert client.delete(f"/v1/files/{file['id']}").json() == {"id": file["id"], "object": "file", "deleted": True}
    assert kept(settings) == []
    assert f"<dd>{file['id']}</dd>" in client.get(f"/ui/jobs/{job['id']}", headers=page).text
    prompts = load_prompts(DatasetSpec.model_validate(job["dataset"]), seed=0)
    assert {prompt.messages[0]["content"] for prompt in prompts} <= {f"question {n}" for n in range(100)}
    again = adapt(client, file["id"])
    assert (again.status_code, again.json()["error"]["code"]) == (400, "dataset_invalid")
    assert "names no uploaded file of yours" in again.json()["error"]["message"]


def test_the_number_of_prompts_is_lowered_to_what_the_file_has(client: TestClient) -> None:
    file = upload(client, lines(40)).json()["id"]
    dataset = client.post("/v1/adaptations", json={**BODY, "dataset": {"source": file}}).json()["dataset"]
    assert dataset["num_prompts"] == 40
    measured = client.post(
        "/v1/measurements", json={"model": "org/model", "draft": "small@1", "force": True, "dataset": {"source": file}}
    )
    assert measured.status_code == 202, measured.text


def test_no_hub_is_asked_for_an_uploaded_file(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with TestClient(create_app(settings.model_copy(update={"hub_at_submit": "ask"}))) as client:
        body = {"model": "smollm2-135m-math", "preset": "demo"}
        for source, status in ((upload(client, lines(300)).json()["id"], 200), ("org/rows", 400)):
            answer = client.post("/v1/adaptations/estimate", json={**body, "dataset": {"source": source}})
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"PAR1....", "Parquet"),
        (b'{"odd": 1}\n' * 20, "row"),
        (lines(20) + b"{broken\n" * 9, "at most 10%"),
    ],
)
def test_a_file_that_a_job_would_refuse_is_not_kept(
    client: TestClient, settings: Settings, data: bytes, said: str
) -> None:
    answer = upload(client, data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    assert said in answer.json()["error"]["message"]
    assert kept(settings) == []
    assert client.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({}, {"file": ("a", lines(9))}, "purpose"),
        ({"purpose": "batch"}, {"file": ("a", lines(9))}, "purpose"),
        (PURPOSE, {"other": ("a", lines(9))}, "other"),
        (PURPOSE, [("file", ("a", lines(9))), ("file", ("b", lines(9)))], "file"),
        ({**PURPOSE, "expires_after[seconds]": "9"}, {"file": ("a", lines(9))}, "expires_after[seconds]"),
    ],
)
def test_nothing_is_kept_of_a_form_that_is_not_whole(
    client: TestClient, settings: Settings, fields: dict[str, str], files: Any, param: str
) -> None:
    answer = client.post("/v1/files", data=fields, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert kept(settings) == []


def test_sizes_are_bounded_by_settings_and_other_routes_keep_theirs(settings: Settings) -> None:
    small = settings.model_copy(update={"max_file_bytes": 3 << 20, "max_file_bytes_per_owner": 4 << 20})
    with TestClient(create_app(small)) as client:
        row = (json.dumps({"prompt": "x" * 1000}) + "\n").encode()
        fits = b"".join(row.replace(b"x", b"%d" % n, 1) for n in range(2500))
        assert MAX_BODY_BYTES < len(fits) < small.max_file_bytes
        assert upload(client, fits).status_code == 200
        for data, code in ((fits + fits, "file_too_large"), (fits * 4, "request_too_large")):
            answer = upload(client, data)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, code)
            assert "EDA_MAX_FILE_BYTES" in answer.json()["error"]["message"]
        full = upload(client, fits, "other.jsonl")
        assert (full.status_code, full.json()["error"]["code"]) == (429, "quota_exceeded")
        assert "3,145,728" not in full.json()["error"]["message"]
        assert len(kept(small)) == 1
        assert client.post("/v1/adaptations", content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413


def test_uploads_that_arrive_at_once_hold_no_more_than_one_file_above_the_limit(
    settings: Settings, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight senders give a MiB each and wait for each other: what lies on the disk meanwhile is counted here."""
    small = settings.model_copy(update={"max_file_bytes": 2 << 20, "max_file_bytes_per_owner": 3 << 20})
    threads = set()

    class Watched(input_files.Copy):
        def __init__(self, *given: Any) -> None:
            threads.add(threading.current_thread())
            super().__init__(*given)

        def close(self) -> None:
            threads.add(threading.current_thread())
            super().close()

    monkeypatch.setattr(input_files, "Copy", Watched)
    files, num_waiting, most_bytes, go_on = Files(store.files, small), 0, 0, asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal num_waiting, most_bytes
        yield (json.dumps({"prompt": "x" * 1000}) + "\n").encode() * 1100
        num_waiting += 1
        most_bytes = max(most_bytes, sum(map(size_of, kept(small))))
        await go_on.wait()

    def size_of(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:  # that of an upload that was refused meanwhile
            return 0

    async def one(data: bytes) -> AsyncIterator[bytes]:
        yield data

    async def then() -> None:
        pass

    async def send(data: AsyncIterator[bytes]) -> StoredFile:
        return await files.receive("rows.jsonl", data, Caller("a", frozenset()), then=then)

    async def all_at_once() -> list[StoredFile | BaseException]:
        sent = [asyncio.create_task(send(chunks())) for _ in range(8)]
        while num_waiting + sum(each.done() for each in sent) < 8:
            await asyncio.sleep(0.01)
        go_on.set()
        return await asyncio.gather(*sent, return_exceptions=True)

    ends = asyncio.run(all_at_once())
    assert {type(each) for each in ends} == {QuotaExceededError, StoredFile}
    assert 0 < most_bytes <= (2 << 20) + (3 << 20)
    assert len(kept(small)) == 1
    assert threads
    assert threading.current_thread() not in threads  # the loop's
    assert asyncio.run(send(one(lines(10)))).num_prompts == 10  # there is room again


def test_a_file_whose_deletion_was_cut_short_is_there_to_be_deleted_again(
    settings: Settings, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether before its bytes were gone or after: none lie anywhere of which no row tells."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        file = upload(client, lines(9)).json()["id"]
        forget = service.forget_upload
        for cut_short in ((), (file, settings.home)):

            def killed(*_: Any, given: tuple[Any, ...] = cut_short) -> None:
                if given:
                    forget(*given)
                raise KeyboardInterrupt

            monkeypatch.setattr(service, "forget_upload", killed)
            with pytest.raises(KeyboardInterrupt):
                service.Files(store.files, settings).delete(file, LOCAL)
            assert client.get(f"/v1/files/{file}").status_code == 200
        monkeypatch.setattr(service, "forget_upload", forget)
        assert client.delete(f"/v1/files/{file}").status_code == 200
        assert (kept(settings), client.get("/v1/files").json()["data"]) == ([], [])


def test_another_owners_file_does_not_exist(client: TestClient, store: JobStore) -> None:
    mine, other = (
        {"authorization": f"Bearer {store.keys.create(owner, 'x', ['jobs:read', 'jobs:write'])[1]}"} for owner in "ab"
    )
    file = upload(client, lines(20), headers=mine).json()["id"]
    nowhere = "file-" + "0" * 26
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        hers, none = (client.request(method, f"/v1/files/{each}{path}", headers=other) for each in (file, nowhere))
        assert hers.status_code == none.status_code == 404
        assert hers.text.replace(file, nowhere) == none.text
    hers, none = (
        client.post("/v1/adaptations", json={**BODY, "dataset": {"source": each}}, headers=other)
        for each in (file, nowhere)
    )
    assert (hers.status_code, hers.text) == (none.status_code, none.text) == (400, none.text)
    assert client.get("/v1/files", headers=other).json()["data"] == []
    twin = upload(client, lines(20), headers=other).json()["id"]
    assert twin != file
    assert client.delete(f"/v1/files/{twin}", headers=other).status_code == 200
    assert client.get(f"/v1/files/{file}/content", headers=mine).content == lines(20)
    reader = {"authorization": f"Bearer {store.keys.create('a', 'x', ['jobs:read'])[1]}"}
    assert upload(client, lines(9), headers=reader).status_code == 403


def test_a_name_of_a_file_is_shown_and_names_no_path(client: TestClient, settings: Settings) -> None:
    file = upload(client, lines(9), "../../../etc/ä b.jsonl").json()
    assert file["filename"] == "ä b.jsonl"
    content = client.get(f"/v1/files/{file['id']}/content")
    assert content.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%A4%20b.jsonl"
    assert [path.name for path in kept(settings)] == [f"{file['id']}.jsonl"]
    (path,) = kept(settings)
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    assert client.get(f"/v1/files/{file['id']}/content").status_code == 404
    assert adapt(client, file["id"]).status_code == 400
