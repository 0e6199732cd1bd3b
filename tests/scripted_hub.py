"""A scripted server in the place of the model hub, on loopback; it answers as the hub does, error codes in headers."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import constants
from scripted_service import Answer, Request, ScriptedService, scripted_service

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 112,
}
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ScriptedHub:
    """What it has is told by the test; everything else is not there.

    Args:
        service: The server.
    """

    def __init__(self, service: ScriptedService) -> None:
        self._service, self.url = service, service.url

    def has(
        self,
        name: str,
        *files: str,
        kind: str = "models",
        config: dict[str, Any] | None = None,
        revision: str | None = None,
        gated: bool = False,
    ) -> None:
        """From now on there is a repository; without files it is a sound model."""
        listed = files or ("config.json", "model.safetensors")
        model_info = {"id": name, "sha": _COMMIT, "gated": "manual" if gated else False}
        body = {**model_info, "siblings": [{"rfilename": file} for file in listed]}
        path = f"/api/{kind}/{name}" + ("" if revision is None else f"/revision/{revision}")
        self._service.on("GET", path, Answer(body))
        self._service.on("GET", f"/{name}/resolve/{_COMMIT}/config.json", Answer(LLAMA if config is None else config))
        if gated:
            self._service.on("GET", f"/api/{kind}/{name}/auth-check", refused(403, "GatedRepo"))

    def serves(self, name: str, files: dict[str, bytes], *, claims: dict[str, int] | None = None) -> None:
        """From now on there is a model whose files can be fetched.

        Args:
            name: Its id.
            files: By name.
            claims: Sizes that the listing says, where they are others.
        """
        sizes = {file: len(data) for file, data in files.items()} | (claims or {})
        listed = [{"rfilename": file, "size": size} for file, size in sizes.items()]
        for path in ("", f"/revision/{_COMMIT}", "/revision/main"):
            self._service.on(
                "GET", f"/api/models/{name}{path}", Answer({"id": name, "sha": _COMMIT, "siblings": listed})
            )
        tree = [{"type": "file", "path": file, "oid": file, "size": size} for file, size in sizes.items()]
        self._service.on("GET", f"/api/models/{name}/tree/{_COMMIT}", Answer(tree))
        for file, data in files.items():
            headers = {"etag": f'"{file}"', "x-repo-commit": _COMMIT}
            for method in ("HEAD", "GET"):
                self._service.on(method, f"/{name}/resolve/{_COMMIT}/{file}", Answer(body=data, headers=headers))

    def takes(self, name: str) -> dict[str, bytes]:
        """From now on a repository can be made and written; returns its files, which come with a commit.

        Weights are sent as large files, beside the commit; everything else is in it.
        """
        files: dict[str, bytes] = {}
        large: dict[str, bytes] = {}

        def modes(request: Request) -> Answer:
            paths = [each["path"] for each in request.body["files"]]
            how = [
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for path in paths
            ]
            return Answer({"files": how})

        def batch(request: Request) -> Answer:
            def wanted(each: dict[str, Any]) -> dict[str, Any]:
                self._service.on("PUT", f"/large/{each['oid']}", uploaded)
                return {**each, "actions": {"upload": {"href": f"{self.url}/large/{each['oid']}"}}}

            return Answer({"transfer": "basic", "objects": [wanted(each) for each in request.body["objects"]]})

        def uploaded(request: Request) -> Answer:
            data = request.body if isinstance(request.body, bytes) else json.dumps(request.body).encode()
            large[request.path.rsplit("/", 1)[1]] = data
            return Answer({})

        def commit(request: Request) -> Answer:
            for line in map(json.loads, request.body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = large[value["oid"]]
            return Answer({"commitUrl": f"{self.url}/{name}/commit/{_COMMIT}", "commitOid": _COMMIT})

        self._service.on("POST", "/api/repos/create", Answer({"url": f"{self.url}/{name}"}))
        self._service.on("POST", "/api/validate-yaml", Answer({}))
        self._service.on("POST", f"/api/models/{name}/preupload/main", modes)
        self._service.on("POST", f"/{name}.git/info/lfs/objects/batch", batch)
        self._service.on("POST", f"/api/models/{name}/commit/main", commit)
        return files

    def asked(self, method: str, path: str) -> list[Request]:
        """What it was sent."""
        return self._service.seen(method, path)

    def fetched(self) -> set[str]:
        """Names of the files that were asked for."""
        return {each.path.split(f"/{_COMMIT}/")[1] for each in self._service.requests if "/resolve/" in each.path}

    def lacks_revision(self, name: str, revision: str) -> None:
        """From now on it says that a repository has no such branch."""
        self._service.on("GET", f"/api/models/{name}/revision/{revision}", refused(404, "RevisionNotFound"))

    def fails(self, name: str, answer: Answer) -> None:
        """From now on it answers so for a model."""
        self._service.on("GET", f"/api/models/{name}", answer)

    def num_asked(self) -> int:
        """Requests so far."""
        return len(self._service.requests)


def refused(status: int, code: str) -> Answer:
    """An error as the hub gives it."""
    return Answer({"error": code}, status=status, headers={"x-error-code": code})


@contextlib.contextmanager
def scripted_hub(monkeypatch: pytest.MonkeyPatch, cache: Any) -> Iterator[ScriptedHub]:
    """A hub of its own, which this process asks instead of the public one, and an empty cache."""
    with scripted_service() as service:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", service.url)
        files = service.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield ScriptedHub(service)
