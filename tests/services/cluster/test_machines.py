"""Clusters without Kubernetes, by Ray's own schema, and the images, by hadolint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.unit.cluster.manifests import ROOT

FILES = sorted((ROOT / "autoscaler").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(request.param.read_text(encoding="utf-8"))
    return found


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_ray_would_refuse_a_misspelt_field(config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="idle_timeout_minute'"):
        validate_config(prepare_config({**config, "idle_timeout_minute": 5}))


def test_nodes_ask_for_a_token_and_keep_the_dashboard_to_themselves(config: dict[str, Any]) -> None:
    options = config["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in options
    assert "--security-opt=no-new-privileges" in options
    (head,) = config["head_start_ray_commands"]
    assert "--dashboard-host=127.0.0.1" in head
    assert "ray stop" not in str(config)  # of a container that is new there is nothing to stop


def test_the_images_pass_the_linter() -> None:
    files = sorted(map(str, ROOT.glob("Dockerfile*")))
    assert len(files) == 2
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_do_not_run_as_root() -> None:
    for path in ROOT.glob("Dockerfile*"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000"
