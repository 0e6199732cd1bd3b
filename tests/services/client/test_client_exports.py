"""`client.exports` of both clients, against the real service."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from both_clients import MakeClient
from exported_packs import COMMAND, FILES, finish_export, put_exportable
from live_api import LiveApi

from eda_service.client import ApiError
from eda_service.errors import InputError


def test_a_pack_is_exported_and_downloaded(make_client: MakeClient, live: LiveApi, tmp_path: Path) -> None:
    client = make_client(live.url)
    pack = put_exportable(live.home, "exported")
    offers = client.exports.offers(pack)
    assert (offers.pack, len(offers.data)) == (pack, 6)
    made = client.exports.create({"pack": pack, "to": "sglang", "form": "plugin", "force": True})
    assert (made.kind, made.status) == ("export", "queued")
    place = tmp_path / "export.tar"
    with pytest.raises(ApiError) as early:
        client.exports.download(made.id, place)
    assert early.value.status == 409
    assert list(tmp_path.iterdir()) == []
    finish_export(live.store, live.home, live.store.jobs.get(made.id))
    found = client.exports.get(made.id)
    assert (found.serve_command, found.to, found.form) == (COMMAND, "sglang", "plugin")
    assert {each.path for each in found.files} == set(FILES)
    assert client.exports.download(made.id, place) == place
    with tarfile.open(place) as archive:
        assert sorted(archive.getnames()) == sorted(f"exported-{pack[-1]}-sglang-plugin/{name}" for name in FILES)
    assert list(tmp_path.iterdir()) == [place]
    with pytest.raises(InputError, match="cannot be written"):
        client.exports.download(made.id, tmp_path / "nowhere" / "export.tar")
    with pytest.raises(InputError, match="names no pack"):
        client.exports.offers("a/b")
