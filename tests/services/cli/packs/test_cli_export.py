"""`eda export`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapted_packs import publish_adapted
from command_line import Cli
from tiny_models import write_adapter

from eda_service.config.job import TargetSpec, TrainConfig
from eda_service.targets.loader import Target, load_target


@pytest.fixture
def shell(home: Path) -> Cli:
    """`eda` with the test's home."""
    return Cli(home)


@pytest.fixture
def pack(home: Path, base_draft_dir: Path, tiny_target: Target) -> str:
    return publish_adapted(home, base_draft_dir, tiny_target, TrainConfig(), vocab_W=torch.arange(0, 112, 2))


def test_a_plugin_export_says_how_to_serve_it(shell: Cli, pack: str, tiny_target: Target, tmp_path: Path) -> None:
    model, out = tiny_target.spec.model, tmp_path / "out"
    done = shell("export", pack, "--to", "vllm", "--out", str(out), "--target", model)
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"vllm serve {model} --speculative-config '{{")
    assert json.loads(line.split("'")[1]) == {"method": "eagle", "model": str(out), "num_speculative_tokens": 3}
    assert "adapted@1 as plugin for vllm" in done.stderr
    assert "acceptance does not change" in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 4  # and no bar, since nobody looks
    assert lines[2].startswith("vLLM's environment needs this package: `pip install --no-deps .` in a checkout of it; ")
    assert lines[2].endswith("An unmodified vLLM loads --form dense")
    cpu = line.replace("vllm serve", "python -m vllm.entrypoints.openai.api_server --model")
    assert lines[3] == f"with vLLM's CPU build, whose vllm command does not start: {cpu}"


def test_several_packs_say_whose_requests_draft_with_which(
    shell: Cli, home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    model, out = tiny_target.spec.model, tmp_path / "out"
    adapter = write_adapter(Path(model), tmp_path / "lora", seed=0)
    tuned = load_target(TargetSpec(model=model, adapter=str(adapter), dtype="float32"))
    made = publish_adapted(home, base_draft_dir, tuned, TrainConfig(), name="legal")
    words = ["tiny@1", "--to", "vllm", "--out", str(out), "--target", model, "--pack", f"law={made}"]
    done = shell("export", *words, "--lora", f"law={adapter}", "--places", "2")
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert line.endswith(f"--enable-lora --max-loras 2 --max-lora-rank 8 --lora-modules law={adapter}")
    assert "requests of the adapter law draft with legal@1" in done.stderr
    assert "all other requests draft with tiny@1" in done.stderr


def test_a_dense_export_prints_the_change(shell: Cli, pack: str, tiny_target: Target, tmp_path: Path) -> None:
    model, out = tiny_target.spec.model, tmp_path / "out"
    words = ["--to", "vllm", "--form", "dense", "--out", str(out), "--target", model, "--num-prompts", "8"]
    done = shell("export", pack, *words)
    assert done.exit_code == 0, done.output
    calibration = json.loads((out / "config.json").read_text())["eda_config"]["calibration"]
    before, after = calibration["acceptance_length"], calibration["exported_acceptance_length"]
    assert f"acceptance length {before:.3f} -> {after:.3f} ({100 * (after / before - 1):+.1f} %)" in done.stderr
    assert f"on {calibration['num_measured_prompts']} prompts of the general prompts" in done.stderr
    assert "needs this package" not in done.stderr
    assert "python -m vllm.entrypoints.openai.api_server --model" in done.stderr


def test_json_is_the_whole_record(shell: Cli, tiny_target: Target, base_draft_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = shell("export", "tiny@1", "--to", "hf", "--out", str(out), "--target", tiny_target.spec.model, "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["eda_config"] == json.loads((out / "config.json").read_text())["eda_config"]
    assert made["serve_command"] == f"hf upload OWNER/NAME {out}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing", "--to", "vllm"], "no pack and no base draft 'nothing'"),
        (["tiny@1", "--to", "vllm"], "does not say which target it belongs to"),
        (["tiny@1", "--to", "vllm", "--adapter", "a"], "--adapter names an adapter on --target"),
        (["tiny@1", "--to", "vllm", "--target", "/no/such"], "/no/such"),
        (["tiny@1", "--to", "vllm", "--target", ""], "target.model is empty; give it a value"),
        (["tiny@1", "--to", "tensorrt"], "tensorrt"),
        (["tiny@1", "--to", "vllm", "--form", "sparse"], "sparse"),
        (["tiny@1", "--to", "sglang", "--pack", "a=b"], "give --to vllm --form plugin"),
        (
            ["tiny@1", "--to", "vllm", "--pack", "a=b", "--merged-target", "m"],
            "--merged-target does not go with --pack",
        ),
        (["tiny@1", "--to", "vllm", "--pack", "b@1"], "--pack 'b@1' is not ADAPTER=PACK"),
        (
            ["tiny@1", "--to", "vllm", "--pack", "a=b@1", "--lora", "c=d"],
            "--lora names c, for which there is no --pack",
        ),
        (["tiny@1", "--to", "vllm", "--places", "3"], "about the packs of --pack, which is missing"),
    ],
)
def test_bad_input_is_exit_code_2(
    shell: Cli, base_draft_dir: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = shell("export", *words, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()
