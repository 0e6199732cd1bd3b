"""A deployment from before there were uids: what was kept under its name is moved when the service starts."""

from __future__ import annotations

from fastapi.testclient import TestClient
from sqlalchemy import update

from api.app import create_app
from api.settings import Settings
from eda_service.ids import new_deployment_uid
from eda_service.jobstore import JobStore
from eda_service.jobstore.models import DeploymentRow
from eda_service.storage.samples import prompts

ROW = {"at": 1.0, "messages": [{"role": "user", "content": "kept before"}]}


def test_kept_prompts_are_moved_at_the_start_and_go_with_the_deployment(settings: Settings) -> None:
    home = settings.home
    with TestClient(create_app(settings)) as client:
        for name in ("older", "newer"):
            assert client.post("/v1/deployments", json={"name": name, "model": "org/model"}).status_code == 201
            prompts.PromptFile(prompts.open_directory(home, name) / "r1.jsonl", 9).add(ROW)
    store = JobStore(settings.store_url)
    uid = new_deployment_uid(store.deployments.get("older").created_at + 60)  # as the migration gave it one
    with store.database.write.begin() as session:
        session.execute(update(DeploymentRow).where(DeploymentRow.name == "older").values(uid=uid))
    frozen = prompts.freeze(home, "older", [ROW], "drift-1")
    newer = store.deployments.get("newer").uid
    store.close()
    with TestClient(create_app(settings)) as client:
        assert prompts.newest(home, uid, 9) == [ROW]
        assert prompts.newest(home, newer, 9) == []  # what lies under its name is another's, who had the name before
        assert frozen.exists()
        assert client.delete("/v1/deployments/older").status_code == 200
        assert not frozen.exists()
        assert not prompts.directory(home, uid).exists()
