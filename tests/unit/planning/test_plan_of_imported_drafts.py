"""What a plan counts of drafts that bring parts of their own, and of the gate, against real modules and by hand."""

from __future__ import annotations

import pytest

from eda_service.config.job import AdaptConfig, Method, TargetSpec, TrainConfig
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.drafts.freezing import count_parameters, prepare
from eda_service.drafts.kinds import make_draft
from eda_service.planning.constants import CORE
from eda_service.planning.estimate import draft_parameters, scored_tokens
from eda_service.planning.plan import make_plan
from eda_service.planning.stage_plan import StagePlan
from eda_service.planning.workload import Lengths
from eda_service.storage.runs.state import Prepared
from eda_service.targets.files.shape import ModelShape

SHAPE = ModelShape(
    hidden_size=16,
    expert_width=24,
    num_layers=4,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=100,
    num_parameters=5_000,
)
LENGTHS = Lengths(prompt=10.0, answer=8.0)


def draft(**changes: object) -> Eagle3Config:
    fields = {
        "layers": (1, 2, 3),
        "hidden_size": 16,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 8,
        "expert_width": 24,
        "vocab_size": 100,
        "draft_vocab_size": 40,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-5,
    }
    return Eagle3Config.model_validate(fields | changes)


def stage(name: str, shape: Eagle3Config, *, min_gain: float | None = None, **train: object) -> StagePlan:
    config = AdaptConfig(target=TargetSpec(model="m"), train=TrainConfig.model_validate(train), min_gain=min_gain)
    return make_plan(config, SHAPE, CORE, LENGTHS, None, shape).stage(name)


@pytest.mark.parametrize("method", [Method.EDA, Method.FULL_FT, Method.RETRAIN])
@pytest.mark.parametrize("own_embedding", [False, True])
@pytest.mark.parametrize("rows", [0, 7])
def test_counts_are_those_of_the_module_that_trains(method: Method, own_embedding: bool, rows: int) -> None:
    train = TrainConfig(method=method, extend_draft_vocab=rows)
    shape = draft(own_embedding=own_embedding)
    trained = prepare(make_draft(shape), train, seed=0)
    assert draft_parameters(train, shape) == count_parameters(trained)
    assert scored_tokens(train, shape) == 40 + rows


def test_a_table_of_its_own_is_in_the_memory_of_training_and_twice_in_that_of_evaluation() -> None:
    table = 2 * 100 * 16  # bfloat16
    for name, times in (("train", 1), ("evaluate", 2)):
        with_table, without = stage(name, draft(own_embedding=True)), stage(name, draft())
        assert with_table.memory_bytes - without.memory_bytes == pytest.approx(times * table)


def test_added_rows_are_in_the_memory_of_training() -> None:
    longer, plain = (stage("train", draft(), extend_draft_vocab=rows, zero_stage=0) for rows in (7, 0))
    # 7 rows of 16: bfloat16 weight, gradient of 4 bytes, optimizer of 12; and their logits, as those of the others
    rows = 7 * 16 * (2 + 4 + 12)
    assert longer.memory_bytes - plain.memory_bytes > rows
    assert longer.disk_bytes - plain.disk_bytes == 2 * 14 * 7 * 16
    assert longer.seconds > plain.seconds


def test_the_gate_loads_a_second_target_and_decodes_on_both() -> None:
    gated, plain = (stage("generate", draft(own_embedding=True), min_gain=gain) for gain in (1.1, None))
    evaluated = stage("evaluate", draft())
    config = AdaptConfig(target=TargetSpec(model="m"))
    modes = 1 + 2 * len(config.evaluation.temperatures)
    assert gated.seconds - plain.seconds > SHAPE.weight_bytes / CORE.load_bytes_per_s
    assert (
        gated.seconds - plain.seconds < evaluated.seconds * 2 / modes + 2 * SHAPE.weight_bytes / CORE.load_bytes_per_s
    )
    assert gated.start_s == plain.start_s  # it is work, which a calibration scales
    # two targets, the draft's 3 x 16 x 16 (fc) ... and its table, keys and values of 8 answers of 10 + 96 tokens
    base = sum(parameter.numel() for parameter in make_draft(draft(own_embedding=True)).parameters())
    cache = 8 * (10 + 96) * 2 * 2 * 4 * 1 * 8
    assert gated.memory_bytes == pytest.approx(max(plain.memory_bytes, 2 * 2 * 5_000 + 2 * base + cache))


def test_what_the_gate_took_is_written_where_there_was_one() -> None:
    assert Prepared(gate_seconds=2.5).model_dump()["gate_seconds"] == 2.5
    assert "gate_seconds" not in Prepared().model_dump()  # versions of before read what they know
    assert Prepared.model_validate(Prepared(gate_seconds=2.5).model_dump()).gate_seconds == 2.5


def test_the_gate_decides_the_memory_where_it_is_more() -> None:
    large = ModelShape(16, 24, 4, 2, 1, 8, 100, num_parameters=1e9)
    config = AdaptConfig(target=TargetSpec(model="m"), min_gain=1.2)
    needed = make_plan(config, large, CORE, LENGTHS, None, draft()).stage("generate").memory_bytes
    assert 4e9 < needed < 4.01e9  # two targets of 2 GB


def test_an_actor_holds_what_makes_the_first_state() -> None:
    started, read = (stage("generate", draft(), train_fc=fc) for fc in (False, True))
    assert started.memory_bytes - read.memory_bytes == pytest.approx(2 * 3 * 16 * 16)  # fc over three layers
