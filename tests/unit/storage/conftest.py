"""Storage by URL in both forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from eda_service.storage.objects import ObjectStore, open_storage


@pytest.fixture(params=["directory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """`EDA_STORAGE` of this test."""
    url = str(tmp_path / "shared")
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        url = server.new_bucket()
    monkeypatch.setenv("EDA_STORAGE", url)
    return open_storage(url)
