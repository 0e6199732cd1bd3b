"""Ids and names of a running service for completion: one request, about a tenth of a second, and silence otherwise.

With the start of Python and of this package it stays below a fifth of a second, after which a person notices. It
imports the standard library alone: the client takes longer to import than a person waits for a key.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eda_service.cli.defaults import DefaultsFile, read_key, written_url
from eda_service.errors import EdaError

_TIMEOUT_S = 0.12
"""For the whole of it: the look-up of a name, the connection, and an answer that may come in pieces."""
_MAX_BYTES = 1 << 20
_DEFAULT_URL = "http://127.0.0.1:8700"

Offer = tuple[str, str]


def _packs(row: Mapping[str, Any]) -> list[Offer]:
    name, champion = row["name"], row.get("champion")
    numbers = [each["version"] for each in row["versions"]]
    versions = [(f"{name}@{number}", "champion" if number == champion else "") for number in numbers]
    return [(name, f"newest is {row['latest']}"), *versions]


_KINDS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], list[Offer]]]] = {
    "job": ("/v1/jobs?limit=50", lambda row: [(row["id"], f"{row['status']} {row.get('model') or ''}")]),
    "adaptation": ("/v1/adaptations?limit=50", lambda row: [(row["id"], f"{row['status']} {row['served_name']}")]),
    "deployment": ("/v1/deployments?limit=50", lambda row: [(row["name"], str(row.get("state") or ""))]),
    "pack": ("/v1/packs?limit=50", _packs),
    "file": ("/v1/files?limit=50", lambda row: [(row["id"], str(row.get("filename") or ""))]),
    "draft": ("/v1/drafts?limit=50", lambda row: [(row["id"], str(row.get("model") or ""))]),
}
"""Where each is listed, and how a row of the list is offered, with a few words."""
_SILENT = (OSError, ValueError, KeyError, TypeError, http.client.HTTPException, EdaError)


def offered(kind: str, *, url: str | None, environment: Mapping[str, str]) -> list[Offer]:
    """Values of a kind, newest first as the service lists them, with a few words each; none when nobody answers."""
    path, said = _KINDS[kind]
    try:
        defaults = DefaultsFile.read(environment)
        base = url or environment.get("EDA_URL") or defaults.url or written_url(_home(environment, defaults))
        key = environment.get("EDA_API_KEY") or read_key(defaults)
    except _SILENT:  # the line of a shell is no place to say it; the commands do
        return []
    offers: list[Offer] = []

    def ask() -> None:
        with contextlib.suppress(*_SILENT):
            rows = _ask(base or _DEFAULT_URL, path, key)["data"]
            offers.extend([offer for row in rows for offer in said(row)])

    # What a socket may wait for counts each of its steps anew, and the look-up of a name not at all: a thread that
    # the end of the process does not wait for has one limit for everything.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_TIMEOUT_S)
    return list(offers)


def _home(environment: Mapping[str, str], defaults: DefaultsFile) -> Path:
    return Path(environment.get("EDA_HOME") or defaults.home or "~/.eda").expanduser()


def _ask(base: str, path: str, key: str | None) -> Any:
    parts = urlsplit(base)
    made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = made(parts.netloc, timeout=_TIMEOUT_S)
    try:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        return json.loads(response.read(_MAX_BYTES)) if response.status == http.client.OK else {"data": []}
    finally:
        connection.close()
