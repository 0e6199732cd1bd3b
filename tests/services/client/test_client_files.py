"""`client.files` of both clients, against the real service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from both_clients import MakeClient
from live_api import LiveApi
from scripted_service import Answer, ScriptedService, refusal

from eda_service.client import ApiError
from eda_service.errors import InputError


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows é.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{tmp_path.name} {n}"}) + "\n" for n in range(30)))
    return path


def test_files_come_go_and_are_read_again(make_client: MakeClient, live: LiveApi, rows: Path) -> None:
    client = make_client(live.url)
    file = client.files.upload(rows)
    assert (file.filename, file.bytes, file.num_prompts) == (rows.name, rows.stat().st_size, 30)
    assert client.files.upload(rows).id == file.id
    assert client.files.get(file.id) == file
    assert file.id in [each.id for each in client.files.iterate(page_size=1)]
    assert client.files.page(limit=1).data[0].id == file.id
    assert client.files.content(file.id) == rows.read_bytes()
    client.files.delete(file.id)
    with pytest.raises(ApiError) as gone:
        client.files.get(file.id)
    assert gone.value.status == 404
    with pytest.raises(InputError, match="is no file id"):
        client.files.get("../jobs")


def test_a_file_is_sent_whole_again_after_a_refusal(
    make_client: MakeClient, scripted: ScriptedService, rows: Path
) -> None:
    body = {"id": "file-" + "0" * 26, "object": "file", "bytes": 3, "created_at": 1, "filename": "x"}
    scripted.on("POST", "/v1/files", refusal(503, "overloaded", retry_after="0"), Answer(body))
    assert make_client(scripted.url).files.upload(rows, filename="other").id == body["id"]
    first, second = scripted.seen("POST", "/v1/files")
    for sent in (first, second):
        assert rows.read_bytes() in sent.body
        assert b'filename="other"' in sent.body
