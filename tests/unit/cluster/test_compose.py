"""`cluster/compose.yaml` against what it names: files, a Dockerfile, a command of ours, addresses on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from eda_service.cli.main import app

CLUSTER = Path(__file__).resolve().parents[3] / "cluster"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE = read(CLUSTER / "compose.yaml")
SERVICES = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_mount_is_a_file_of_ours_or_a_named_volume(name: str) -> None:
    for mount in SERVICES[name]["volumes"]:
        source, inside, *_ = mount.split(":")
        assert inside.startswith("/")
        assert (CLUSTER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]


def test_the_image_is_built_from_its_dockerfile_and_keeps_its_state() -> None:
    service = SERVICES["eda"]
    context = (CLUSTER / service["build"]["context"]).resolve()
    dockerfile = (context / service["build"]["dockerfile"]).read_text(encoding="utf-8")
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    assert all((context / each).exists() for names in copied for each in names)
    assert [name for name in service["build"]["args"] if f"ARG {name}" not in dockerfile] == []
    assert f"EDA_HOME={service['volumes'][0].split(':')[1]}" in dockerfile
    assert service["healthcheck"]["test"][1] in dockerfile  # wget is installed


def test_the_command_is_ours() -> None:
    program, *words = SERVICES["eda"]["command"]
    assert program == "eda"
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


def test_all_of_it_is_on_loopback() -> None:
    assert {each["network_mode"] for each in SERVICES.values()} == {"host"}
    assert SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    (listens,) = [each for each in SERVICES["prometheus"]["command"] if "listen-address" in each]
    (source,) = read(CLUSTER / "monitoring" / "grafana" / "datasources.yml")["datasources"]
    assert source["url"] == f"http://{listens.partition('=')[2]}"
    (scrape,) = read(CLUSTER / "monitoring" / "prometheus.yml")["scrape_configs"]
    assert f"http://{scrape['static_configs'][0]['targets'][0]}/health" in SERVICES["eda"]["healthcheck"]["test"]


def test_grafana_finds_the_dashboard() -> None:
    (provider,) = read(CLUSTER / "monitoring" / "grafana" / "dashboards.yml")["providers"]
    mounts = dict(each.split(":")[:2] for each in SERVICES["grafana"]["volumes"])
    assert mounts["./monitoring/dashboard.json"].startswith(provider["options"]["path"] + "/")
    dashboard = json.loads((CLUSTER / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
    assert [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "datasource"] == ["prometheus"]
