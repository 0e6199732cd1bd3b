"""The plan against hand-made counts, against the files its constants come from, and against memory one can add up."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.overrides import merge
from eda_service.config.presets import preset
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import CORE, DEVICES, Device
from eda_service.planning.measured import Measured
from eda_service.planning.plan import Plan, decode_s, make_plan
from eda_service.planning.shapes import SHAPES, draft_of, shape_of
from eda_service.planning.workload import Decoding, Lengths, decoding, workload

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
LENGTHS = Lengths(prompt=100.0, answer=80.0)


def job(**changes: object) -> AdaptConfig:
    fields = merge({"target": {"model": "7b"}, **preset("paper_7b")}, {"train": {"use_gpu": True}})
    return AdaptConfig.model_validate(merge(fields, dict(changes)))


def plan(**changes: object) -> Plan:
    return make_plan(job(**changes), SHAPES["7b"], DEVICES["h100"], LENGTHS)


def test_a_core_is_what_decode_growth_measured() -> None:
    rows = json.loads((RESULTS / "decode-growth.json").read_text())["over_batch"]
    slope_ms, fixed_ms = np.polyfit([row["batch"] for row in rows], [row["autoregressive_ms"] for row in rows], deg=1)
    shape = SHAPES["135m"]
    for batch in (1, 16, 64):
        planned_s = decode_s(CORE, 2.0, shape, Decoding(1.0, float(batch), 0.0), context=0.0)
        assert planned_s == pytest.approx((fixed_ms + slope_ms * batch) / 1000, rel=0.02)


def test_a_drained_batch_takes_as_many_rounds_as_its_longest_answer() -> None:
    assert decoding(16, 16, LENGTHS, 128.0).rounds == 128.0
    # 64 answers of 80 tokens in a batch of 16: 320 rounds full, and 48 until the longest is done
    assert decoding(64, 16, LENGTHS, 128.0) == Decoding(rounds=368.0, tokens=5120.0, prompt_tokens=6400.0)
    assert decoding(0, 16, LENGTHS, 128.0).rounds == 0.0


def test_the_work_of_the_papers_preset() -> None:
    config = job(selfgen={"num_actors": 8})
    work = workload(config, SHAPES["7b"], LENGTHS)
    assert work.num_samples == 68_000 - 80
    assert work.num_steps == -(-(33_960 - 64) // 16) * 20
    assert work.shards_per_actor == -(-1062 // 8)  # 67,920 prompts in shards of 64
    assert work.feature_bytes == 67_920 * 180 * 3584 * 2
    assert work.trainable == pytest.approx(127.5e6, rel=0.001)  # Table 4


def test_stages_add_up_and_twice_the_devices_halve_the_work() -> None:
    one = plan(selfgen={"num_actors": 4}, train={"num_workers": 4})
    two = plan(selfgen={"num_actors": 8}, train={"num_workers": 8})
    assert one.seconds == pytest.approx(sum(stage.seconds for stage in one.stages))
    assert one.device_hours == pytest.approx(sum(stage.devices * stage.seconds for stage in one.stages) / 3600)
    work = [made.stage("generate").seconds - made.stage("generate").start_s for made in (one, two)]
    assert work[0] == pytest.approx(2 * work[1], rel=0.05)  # but for the reference, which one actor does
    assert two.stage("train").seconds < one.stage("train").seconds
    assert two.stage("evaluate").seconds == one.stage("evaluate").seconds


def test_zero_stages_split_what_they_say() -> None:
    memory = [plan(train={"num_workers": 4, "zero_stage": stage}).stage("train").memory_bytes for stage in (0, 1, 2, 3)]
    trainable = workload(job(), SHAPES["7b"], LENGTHS).trainable
    saved = [before - after for before, after in itertools.pairwise(memory)]
    # optimizer 12 bytes a parameter, gradients 4, weights 2; each worker keeps a quarter
    assert saved == pytest.approx([0.75 * each * trainable for each in (12, 4, 2)])


def test_one_worker_exchanges_nothing() -> None:
    assert plan(train={"num_workers": 1}).exchange_bytes == 0.0
    many = plan(train={"num_workers": 8})
    steps = workload(job(), SHAPES["7b"], LENGTHS).num_steps
    trainable = workload(job(), SHAPES["7b"], LENGTHS).trainable
    assert many.exchange_bytes == pytest.approx(8 * 2 * 2 * trainable * 7 / 8 * steps)


def test_a_target_that_fits_no_device_is_said() -> None:
    made = make_plan(job(target={"engine": "eda"}), SHAPES["70b"], DEVICES["h100"], LENGTHS)
    assert "generate needs" in made.warnings[0]
    assert "h100, which has 80 GB" in made.warnings[0]
    assert plan().warnings == ()


def test_calibration_scales_the_work_and_replaces_starts() -> None:
    plain = plan().stage("train")
    scaled = make_plan(job(), SHAPES["7b"], DEVICES["h100"], LENGTHS, Calibration(train=2.0, train_start_s=7.0))
    assert scaled.stage("train").seconds == pytest.approx(2 * (plain.seconds - plain.start_s) + 7.0)
    assert scaled.stage("generate") == plan().stage("generate")


def test_the_calibration_of_a_job_plans_that_job_as_it_was() -> None:
    config = AdaptConfig.model_validate({"target": {"model": "135m"}, **preset("demo")})
    took = {"validate": 6.0, "generate": 90.0, "select": 0.1, "train": 110.0, "evaluate": 70.0}
    shape = SHAPES["135m"]
    measured = Measured(config, shape, draft_of(shape), LENGTHS, took, 60.0, train_work_s=80.0, disk_bytes=0)
    made = measured.plan(CORE, measured.calibration(CORE))
    for name in ("validate", "generate", "train", "evaluate"):
        assert made.stage(name).seconds == pytest.approx(took[name])
    assert made.stage("train").start_s == pytest.approx(30.0)


def test_a_faster_device_is_never_slower() -> None:
    slow = DEVICES["a100"]
    fast: Device = replace(slow, bandwidth_bytes_per_s=2 * slow.bandwidth_bytes_per_s)
    times = [make_plan(job(), SHAPES["7b"], device, LENGTHS).stage("generate").seconds for device in (slow, fast)]
    assert times[1] < times[0]


def test_the_shape_of_a_target_that_is_here(tmp_path: Path) -> None:
    from tiny_models import write_target

    shape = shape_of(str(write_target(tmp_path / "t", "qwen3")))
    assert (shape.hidden_size, shape.num_layers, shape.num_kv_heads, shape.head_dim) == (32, 2, 2, 16)
    # 2 x 112 x 32 ends, per layer q 32x64, k and v 32x32, o 64x32, FFN 3 x 32 x 48 and norms; final norm
    assert shape.num_parameters == 2 * 112 * 32 + 2 * (2 * 2048 + 2 * 1024 + 3 * 1536 + 2 * 32 + 2 * 16) + 32


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # tied to its embedding, and a head of its own
def test_the_ends_are_as_large_as_their_export(family: str, tmp_path: Path) -> None:
    from tiny_models import write_target

    from eda_service.targets.ends_file import export_io
    from eda_service.targets.loader import load_target

    target_dir = write_target(tmp_path / "t", family)
    export_io(load_target(TargetSpec(model=str(target_dir))), tmp_path / "io.safetensors")
    written = (tmp_path / "io.safetensors").stat().st_size
    assert shape_of(str(target_dir)).io_bytes == pytest.approx(written, abs=300)  # the header
