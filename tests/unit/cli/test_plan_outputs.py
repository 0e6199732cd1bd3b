"""`eda plan --cluster`, and the outputs of it that the documentation prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eda_service.cli.main import app
from eda_service.cli.plan.plan_cluster import NamedCluster, parse_cluster
from eda_service.errors import InputError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "large-targets.md"
PRINTED = re.findall(r"```bash\n(eda plan [^\n]*)\n```\n\n```text\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def run(command: str) -> str:
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_page_prints_a_dry_run_of_each_size() -> None:
    commands = [command for command, _ in PRINTED]
    for preset, cluster in (("8b", "1x1xh100"), ("70b", "1x8xh100"), ("70b", "1x4xh100"), ("235b", "2x8xh100")):
        assert [each for each in commands if f"--preset {preset} --cluster {cluster}" in each], (preset, cluster)


@pytest.mark.parametrize(("command", "printed"), PRINTED, ids=lambda text: text[:60] if "eda" in text else "")
def test_what_the_page_prints_is_what_the_command_says(command: str, printed: str) -> None:
    assert run(command) == printed


def test_what_a_cluster_lacks_is_said_and_it_does_not_fit() -> None:
    lines = run("eda plan --model 70b --preset 70b --cluster 8x1xl40s").splitlines()
    assert "cluster  8 nodes of 1 l40s: does not fit" in lines
    assert [
        line for line in lines if "vLLM asks for 4 GPUs of one node and no node of the cluster has more than 1" in line
    ]
    assert [line for line in lines if "set target.vllm.tensor_parallel_size to 8" in line]


def test_ranks_that_the_heads_do_not_go_into_are_refused() -> None:
    done = CliRunner().invoke(
        app, ["plan", "--model", "70b", "--preset", "70b", "--set", "target.vllm.tensor_parallel_size=6"]
    )
    assert done.exit_code != 0
    assert "64 attention heads" in done.output


def test_gpus_of_a_job_are_parted_among_engines() -> None:
    stage = next(line for line in run("eda plan --model 70b --preset 70b --gpus 16").splitlines() if "generate" in line)
    assert stage.split()[1] == "16"  # four engines of four


@pytest.mark.parametrize("text", ["8xh100", "2x8xcore", "0x8xh100", "2x8xt4", "2 x 8 x h100"])
def test_a_cluster_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write for example 2x8xh100") as refused:
        parse_cluster(text)
    assert refused.value.param == "cluster"


def test_a_cluster_by_its_name() -> None:
    cluster = parse_cluster("2x8xH100")
    assert cluster == NamedCluster(2, 8, "h100")
    assert (cluster.machines.total.gpus, cluster.machines.node_gpus) == (16, 8)
    assert str(cluster) == "2 nodes of 8 h100"
