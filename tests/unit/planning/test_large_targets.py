"""Targets that vLLM runs: who runs one, how it is parted, what each device and machine holds; all counted by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_models import write_target

from eda_service.capacity import Capacity
from eda_service.config.job import AdaptConfig, EngineKind, TargetSpec
from eda_service.config.overrides import merge
from eda_service.config.presets import preset
from eda_service.config.tasks import ImportConfig, MeasureConfig
from eda_service.config.vllm import VllmSpec
from eda_service.drafts.draft_config import Eagle1Config, Eagle3Config
from eda_service.errors import TargetIncompatibleError
from eda_service.pipeline import target_engine
from eda_service.planning.constants import CORE, DEVICES, Device
from eda_service.planning.engine_need import (
    check_room,
    check_split,
    choose_engine,
    engine_for,
    smallest_size,
    split_problem,
)
from eda_service.planning.placement import Placement, Strategy, needed_at_once, placements
from eda_service.planning.plan import Plan, decode_s, make_plan
from eda_service.planning.shapes import SHAPES
from eda_service.planning.workload import Decoding, Lengths
from eda_service.records import Stage
from eda_service.targets.files.shape import ModelShape, shape_of_config

LENGTHS = Lengths(prompt=200.0, answer=160.0)
H100, L40S = DEVICES["h100"], DEVICES["l40s"]


def job(name: str, **changes: Any) -> AdaptConfig:
    return AdaptConfig.model_validate(merge(merge({"target": {"model": name}}, preset(name)), changes))


def plan(name: str, device: Device = H100, draft: Eagle3Config | None = None, **changes: Any) -> Plan:
    return make_plan(job(name, **changes), SHAPES[name], device, LENGTHS, None, draft)


def vllm(size: int, **settings: Any) -> dict[str, Any]:
    return {"engine": "vllm", "vllm": {"tensor_parallel_size": size, **settings}}


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("135m", 3, None),
        ("135m", 2, "9 attention heads"),
        ("135m", 9, "width is 1536"),
        ("70b", 8, None),
        ("70b", 16, None),  # eight key/value heads, each on two ranks
        ("70b", 6, "64 attention heads"),
        ("235b", 16, None),
        ("14b", 5, "8 key/value heads"),  # 40 heads into five are eight, and eight into five are none
    ],
)
def test_heads_go_into_ranks_or_the_job_is_refused(name: str, size: int, problem: str | None) -> None:
    found = split_problem(SHAPES[name], size)
    assert found == problem or (problem is not None and found is not None and problem in found)
    spec = TargetSpec.model_validate({"model": "m", **vllm(size, gpus_per_node=64)})
    if problem is None:
        check_split(spec, SHAPES[name])
    else:
        with pytest.raises(TargetIncompatibleError, match=problem) as refused:
            check_split(spec, SHAPES[name])
        assert refused.value.param == "target.vllm.tensor_parallel_size"


def test_the_refusal_says_which_numbers_there_are() -> None:
    spec = TargetSpec.model_validate({"model": "m", **vllm(2)})
    with pytest.raises(TargetIncompatibleError, match=r"set it to one of 1, 3$"):
        check_split(spec, SHAPES["135m"])
    check_split(spec.model_copy(update={"engine": EngineKind.EDA}), SHAPES["135m"])  # which parts nothing


def test_an_engine_takes_whole_machines() -> None:
    assert VllmSpec(tensor_parallel_size=8).nodes == VllmSpec(tensor_parallel_size=3).nodes == 1
    assert VllmSpec(tensor_parallel_size=16).nodes == 2
    assert VllmSpec(tensor_parallel_size=8, gpus_per_node=2).nodes == 4
    with pytest.raises(ValidationError, match="set tensor_parallel_size to 8 or 16"):
        VllmSpec(tensor_parallel_size=12)


def test_memory_of_each_gpu_and_of_the_machine() -> None:
    made = plan("70b")
    assert made.engine is not None
    assert made.engine.weight_bytes == 70.6e9 * 2 / 4
    # 128 requests of 512 + 160 tokens; keys and values of 80 layers and 2 of the 8 heads of width 128, in bfloat16
    assert made.engine.cache_bytes == 128 * 672 * (2 * 2 * 80 * 2 * 128)
    generate, evaluate = made.stage("generate"), made.stage("evaluate")
    assert generate.memory_bytes == evaluate.memory_bytes == pytest.approx(0.9 * 80e9)  # vLLM takes what it may
    ends = 2 * 2 * 128_256 * 8192
    # 512 samples of 200 + 160 tokens, twice
    assert generate.host_bytes == ends + 2 * 512 * 360 * 8192 * 2
    # 80 held-out answers of at most 96 tokens, and two drafts: attention, FFN, a private one of half its width, fc
    drafts = evaluate.host_bytes - ends - 2 * 80 * 296 * 8192 * 2
    parameters = 8192 * (2 * 8192 + 2 * 1024) + 3 * 8192 * (28_672 + 14_336) + 2 * 8192 * 8192
    assert drafts == pytest.approx(2 * 2 * parameters, rel=1e-3)
    assert made.stage("train").host_bytes == 0


def test_keys_and_values_are_copied_where_there_are_more_ranks_than_heads() -> None:
    made = plan("235b")
    assert made.engine is not None
    assert made.engine.cache_bytes == 128 * 672 * (2 * 2 * 94 * 1 * 128)


def test_layers_that_a_draft_reads_lie_beside_the_state_under_the_head() -> None:
    draft = Eagle3Config(
        layers=(2, 16, 29),
        hidden_size=4096,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        expert_width=14_336,
        vocab_size=128_256,
        draft_vocab_size=32_000,
        rope_theta=1e4,
        rms_norm_eps=1e-5,
    )
    more = plan("8b", draft=draft).stage("generate").host_bytes - plan("8b").stage("generate").host_bytes
    assert more == 2 * 512 * 360 * 3 * 4096 * 2


def test_training_holds_no_target_whoever_runs_it() -> None:
    trained = [plan("8b", target={"engine": engine}).stage("train") for engine in ("eda", "vllm")]
    assert trained[0] == trained[1]
    assert trained[0].memory_bytes < 2 * 8.03e9


def test_a_micro_batch_bounds_what_the_backward_pass_keeps() -> None:
    whole, one = (plan("8b", train={"micro_batch_size": size}).stage("train").memory_bytes for size in (None, 1))
    # 16 sequences of 360 tokens, or one; of each position 16 bytes a hidden unit and three float32 logits a token
    assert whole - one == pytest.approx(15 * 360 * (16 * 4096 + 3 * 4 * 128_256))


@pytest.mark.parametrize(
    ("name", "device", "size"),
    [
        ("8b", "h100", 1),
        ("70b", "h100", 4),  # 141 GB: 70.6 of 72 on each of two leaves no room for keys and values
        ("70b", "h200", 2),
        ("235b", "h100", 8),
        ("235b", "l40s", 16),  # 29 of 43 GB; over eight it would be 59
    ],
)
def test_the_fewest_gpus_that_hold_a_target(name: str, device: str, size: int) -> None:
    assert smallest_size(job(name), SHAPES[name], DEVICES[device]) == size


def test_no_number_of_gpus_is_enough() -> None:
    huge = replace(SHAPES["70b"], num_parameters=1e13)
    assert smallest_size(job("70b"), huge, H100) is None
    (lacking, _) = make_plan(job("70b"), huge, H100, LENGTHS).lacking
    assert "take larger GPUs" in lacking


def test_a_target_that_fits_no_gpu_goes_to_vllm_and_the_plan_says_what_to_set() -> None:
    given = job("70b", target={"engine": None, "vllm": {"tensor_parallel_size": 1}})
    made = make_plan(given, SHAPES["70b"], H100, LENGTHS)
    # 1.25 times 141.2 GB
    assert "takes 176 GB and one h100 has 80 GB, so vLLM runs it; planned over 4" in made.warnings[0]
    assert made.warnings[0].endswith("set target.vllm.tensor_parallel_size to 4")
    assert made.lacking == ()
    assert made.stage("generate").placement.gpus == 4
    sized = make_plan(job("70b", target={"engine": None}), SHAPES["70b"], H100, LENGTHS)  # which says 4 itself
    assert sized.warnings[0].endswith("so vLLM runs it")
    small = make_plan(job("8b", target={"engine": None}), SHAPES["8b"], H100, LENGTHS)
    assert (small.engine, small.warnings) == (None, ())


def test_too_few_gpus_are_said_with_the_number_that_does() -> None:
    lacking = plan("70b", target=vllm(2)).lacking
    assert lacking[0].startswith("generate needs 70.6 GB of weights, 14.1 GB of keys and values and 3.0 GB")
    assert "of which vLLM may take 72.0 GB" in lacking[0]
    assert all(each.endswith("set target.vllm.tensor_parallel_size to 4") for each in lacking)
    own = plan("70b", target={"engine": "eda"}).lacking
    assert "set target.engine to vllm and target.vllm.tensor_parallel_size to 4" in own[0]


def test_a_job_that_goes_to_vllm_by_its_size_over_too_few_gpus_ends_before_it_costs_anything() -> None:
    check_room(job("70b"), SHAPES["70b"], 80e9)
    with pytest.raises(TargetIncompatibleError, match="tensor_parallel_size to 4"):
        check_room(job("70b", target=vllm(1)), SHAPES["70b"], 80e9)


@pytest.mark.parametrize("over", [0, 1])
def test_plan_and_job_choose_by_one_rule(
    over: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_target(tmp_path_factory.mktemp("choice") / "t", "qwen3")
    # 2 x 112 x 32 ends, per layer q 32x64, k and v 32x32, o 64x32, FFN 3 x 32 x 48 and norms; final norm
    parameters = 2 * 112 * 32 + 2 * (2 * 2048 + 2 * 1024 + 3 * 1536 + 2 * 32 + 2 * 16) + 32
    memory = parameters * 4 * 5 // 4 - over  # float32, and a quarter more to load it
    expected = EngineKind.VLLM if over else EngineKind.EDA
    monkeypatch.setattr(target_engine, "memory_bytes", lambda _: memory)
    spec = TargetSpec(model=str(directory), dtype="float32")
    assert target_engine.chosen_engine(spec, torch.device("cpu")) is expected
    shape = replace(SHAPES["135m"], num_parameters=parameters)
    config = AdaptConfig(target=spec)
    assert choose_engine(config, shape, CORE, memory).config.target.engine is expected
    assert choose_engine(config, shape, replace(H100, memory_bytes=memory)).config.target.engine is expected
    assert engine_for(parameters * 4, memory) is expected


def test_ranks_share_the_work_with_a_loss() -> None:
    def work_s(size: int, **settings: Any) -> float:
        stage = plan("70b", target=vllm(size, **settings)).stage("generate")
        return stage.seconds - stage.start_s

    assert work_s(1) / work_s(4) == pytest.approx(4 * 0.8)
    assert work_s(1) / work_s(16) == pytest.approx(16 * 0.5)  # over two machines


def test_devices_are_those_of_all_engines() -> None:
    assert plan("70b").stage("generate").devices == 8
    assert plan("70b").stage("evaluate").devices == 4
    # of CPUs the threads of all ranks
    on_cpu = plan("8b", CORE, target=vllm(2), train={"use_gpu": False}, selfgen={"threads_per_actor": 3})
    assert on_cpu.stage("generate").devices == 6
    assert on_cpu.stage("generate").memory_bytes == 8.03e9 * 2 / 2 + 2**30  # a rank's weights, and its cache


def test_only_the_experts_that_a_token_is_sent_to_are_multiplied() -> None:
    shape, context = SHAPES["235b"], 0.0
    one = decode_s(H100, 1.0, shape, Decoding(1.0, 1.0, 0.0), context)
    flops, bandwidth = H100.decode_flops_per_s, H100.bandwidth_bytes_per_s
    assert one == pytest.approx(2 * 22e9 / bandwidth + 2 * 22e9 / flops)
    many = decode_s(H100, 1.0, shape, Decoding(1.0, 64.0, 0.0), context)  # which may be sent to all of them
    assert many == pytest.approx(2 * 235e9 / bandwidth + 64 * 2 * 22e9 / flops)


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        # Qwen3-235B-A22B and Mixtral-8x7B, as their authors count them
        (
            {
                **{"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 94, "vocab_size": 151_936},
                **{"num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128},
                **{"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1536},
            },
            235e9,
            22e9,
        ),
        (
            {
                **{"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "vocab_size": 32_000},
                **{"num_attention_heads": 32, "num_key_value_heads": 8},
                **{"num_local_experts": 8, "num_experts_per_tok": 2},
            },
            46.7e9,
            12.9e9,
        ),
    ],
)
def test_a_mixture_of_experts_says_how_much_of_it_is_multiplied(
    config: dict[str, int], total: float, active: float
) -> None:
    shape = shape_of_config(config)
    assert shape.num_parameters == pytest.approx(total, rel=0.01)
    assert shape.multiplied_parameters == pytest.approx(active, rel=0.02)


def test_every_stage_asks_for_the_gpus_of_its_engine() -> None:
    found = placements(job("70b"))
    assert found[Stage.VALIDATE] == Placement(Strategy.TASK, 1, 0.5, 0, 2)  # headers are read
    assert found[Stage.GENERATE] == Placement(Strategy.POOL, 2, 2.0, 4, 8)
    assert found[Stage.TRAIN] == Placement(Strategy.PACK, 8, 0.5, 1, 1)
    assert found[Stage.EVALUATE] == Placement(Strategy.TASK, 1, 2.0, 4, 8)
    need = needed_at_once(job("70b", train={"num_workers": 1}))
    assert (need.cpus, need.gpus) == (pytest.approx(2.1), 4)  # one engine, and the job's own process
    assert needed_at_once(job("70b")).gpus == 8  # the training group


def test_an_engine_over_machines_is_a_group_of_one_gpu_a_rank() -> None:
    placed = placements(job("235b", target=vllm(16)))[Stage.GENERATE]
    assert (placed.gpus, placed.nodes) == (16, 2)
    assert placed.bundles == [{"CPU": 0.5, "GPU": 1.0}] * 16


def test_ranks_on_cpus_are_processes_of_one_machine() -> None:
    config = job("8b", target=vllm(16), train={"use_gpu": False}, selfgen={"threads_per_actor": 2})
    assert placements(config)[Stage.GENERATE] == Placement(Strategy.POOL, 1, 8.0, 0, 32)


def test_who_runs_the_target_counts_where_validate_chose_it() -> None:
    config = job("70b", target={"engine": None})
    assert placements(config)[Stage.GENERATE].gpus == 1
    assert placements(config, EngineKind.VLLM)[Stage.GENERATE].gpus == 4
    assert placements(job("70b"), EngineKind.EDA)[Stage.GENERATE].gpus == 1


def test_a_measurement_holds_an_engine_and_an_import_a_target() -> None:
    target = TargetSpec.model_validate({"model": "m", **vllm(4)})
    assert needed_at_once(MeasureConfig(target=target, draft="d@1", use_gpu=True)) == Capacity(cpus=2.1, gpus=4)
    assert needed_at_once(ImportConfig(target=target, source="s", use_gpu=True)) == Capacity(cpus=0.6, gpus=1)


def test_a_shape_without_experts_multiplies_all_of_it() -> None:
    shape = ModelShape(10, 80, 2, 2, 1, 10, 100, 1e4)
    assert shape.multiplied_parameters == shape.read_parameters(1.0) == shape.read_parameters(64.0) == 1e4


def test_ranks_that_do_not_part_the_draft_are_refused_too() -> None:
    """Twenty-four heads go into two ranks and nine do not; both go into three."""
    shape = ModelShape(768, 1536, 4, 24, 6, 32, 1000, 1e7)
    draft = Eagle1Config(
        hidden_size=768,
        num_heads=9,
        num_kv_heads=3,
        head_dim=32,
        expert_width=1536,
        vocab_size=1000,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
    )
    spec = TargetSpec(model="x", engine=EngineKind.VLLM, vllm=VllmSpec(tensor_parallel_size=2))
    check_split(spec, shape)
    with pytest.raises(TargetIncompatibleError, match="the base draft has 9 attention heads, which 2 ranks") as caught:
        check_split(spec, shape, draft)
    assert caught.value.message.endswith("set it to one of 1, 3")
    check_split(spec.model_copy(update={"vllm": VllmSpec(tensor_parallel_size=3)}), shape, draft)
