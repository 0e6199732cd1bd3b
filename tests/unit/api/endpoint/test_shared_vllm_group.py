"""Models that share a vLLM, over real exports of a tiny target and a source that notes what it is told.

What vLLM makes of it is tested in `tests/vllm`; here is what it is started with, told and spared.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from tiny_models import draft_config, register_draft, write_adapter, write_target

from api.endpoint.engines import vllm_group, vllm_shared_group
from api.endpoint.engines.base_group import beside_base
from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.engines.vllm_group import VllmGroup
from api.endpoint.engines.vllm_runner import Loaded, LoraAdapter
from api.endpoint.engines.vllm_shared_group import SharedVllmGroup
from api.endpoint.engines.vllm_start import EngineStartError, StartPlan
from api.endpoint.served_models import ServedModels
from eda_service.config.deployment import EngineSpec, VllmConfig
from eda_service.config.job import EngineKind, TargetSpec, TrainConfig
from eda_service.drafts.kinds import make_draft
from eda_service.errors import InputError, ResourceError, TargetIncompatibleError
from eda_service.export.files.directory import read_eda_config
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.targets.loader import load_target

NARROW, WIDE = TrainConfig(private_width_fraction=0.5), TrainConfig(private_width_fraction=1.0)
ENGINE = EngineSpec(kind=EngineKind.VLLM, vllm=VllmConfig(max_adapters=2, max_adapter_rank=8))


@dataclass
class Source:
    """A vLLM that is told things; it refuses packs that are wider than its places, as the real one does."""

    plan: StartPlan
    told: list[tuple[str, ...]] = field(default_factory=list)
    adapters: list[LoraAdapter] = field(default_factory=list)
    is_dead: bool = False
    has_ended: bool = False
    refuses: str | None = None

    async def add_adapter(self, adapter: LoraAdapter) -> None:
        self.adapters.append(adapter)

    async def call(self, method: str, *arguments: str) -> None:
        assert self.plan.draft_dir is not None
        places = read_eda_config(self.plan.draft_dir).places
        assert places is not None, "the draft that runs holds no packs"
        if method == self.refuses:
            raise RuntimeError("no such pack")
        if method == "put_pack":
            eda = read_eda_config(Path(arguments[1]))
            assert eda.private is not None
            if eda.private.private_width > places.width:
                raise RuntimeError(f"the places here are {places.width} wide")
            arguments = (arguments[0], eda.source)
        self.told.append((method, *arguments))

    def generate(self, *_: Any) -> Any:
        raise AssertionError("nothing here asks for it")

    async def shutdown(self) -> None:
        self.has_ended = True


@dataclass
class World:
    """A target with two adapters, and packs by name."""

    model: str
    adapters: dict[str, str]
    packs: dict[str, str]
    started: list[Source]
    fails: list[Exception]

    def served(self, name: str, pack: str | None, adapter: str | None = "same") -> ServedModel:
        spec = TargetSpec(model=self.model, adapter=self.adapters[name if adapter == "same" else adapter or name])
        target = spec.model_dump(mode="json") | ({"adapter": None} if adapter is None else {})
        pack = None if pack is None else self.packs[pack]
        return ServedModel(name=name, uid=f"dep_{name}", target=target, base_draft="tiny@1", pack=pack, engine=ENGINE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    home = tmp_path_factory.mktemp("home")
    model = write_target(tmp_path_factory.mktemp("target"), "llama")
    base = load_target(TargetSpec(model=str(model), dtype="float32"))
    torch.manual_seed(0)
    base_dir = register_draft(home, make_draft(draft_config(base)), base)
    adapters, packs = {}, {}
    for seed, name in enumerate(("math", "code")):
        adapters[name] = str(write_adapter(model, tmp_path_factory.mktemp("adapters") / name, seed=seed, r=4))
    adapters["third"] = adapters["code"]
    for name, of, train in (("math", "math", NARROW), ("code", "code", NARROW), ("wide", "math", WIDE)):
        tuned = load_target(TargetSpec(model=str(model), adapter=adapters[of], dtype="float32"))
        packs[name] = publish_adapted(home, base_dir, tuned, train, name=name)
    return home, World(str(model), adapters, packs, [], [])


@pytest.fixture
def world(files: tuple[Path, World], monkeypatch: pytest.MonkeyPatch) -> World:
    home, made = files
    made.started, made.fails = [], []

    async def start(plan: StartPlan) -> Loaded:
        if made.fails:
            raise made.fails.pop()
        made.started.append(Source(plan))
        return Loaded(made.started[-1], 3, plan.stop_token_ids, plan.vocab_size, 64, on_cpu=True)

    monkeypatch.setenv("EDA_HOME", str(home))
    for module in (vllm_shared_group, vllm_group):
        monkeypatch.setattr(module, "start_vllm", start)
        monkeypatch.setattr(module, "require_vllm", lambda *_, **__: None)
    return made


def group_of(model: ServedModel) -> SharedVllmGroup:
    return SharedVllmGroup(model, beside_base(TargetSpec.model_validate(model.target)).base, max_waiting=1)


async def put(group: SharedVllmGroup, model: ServedModel) -> ServedPair:
    return await group.put(model, beside_base(TargetSpec.model_validate(model.target)).adapter_dir)


def run(check: Coroutine[Any, Any, None]) -> None:
    asyncio.run(check)


def test_the_second_model_is_put_into_the_vllm_of_the_first(world: World) -> None:
    async def check() -> None:
        math, code = world.served("math", "math"), world.served("code", "code")
        group = group_of(math)
        pairs = [await put(group, math), await put(group, code)]
        (source,) = world.started
        assert source.plan.takes_adapters
        assert source.plan.target_dir == Path(world.model)  # nothing is merged
        assert source.plan.draft_dir is not None
        eda = read_eda_config(source.plan.draft_dir)
        assert [(each.adapter, each.source) for each in eda.packs or ()] == [("dep_math", "math@1")]
        assert eda.places is not None
        assert eda.places.count == 2
        assert source.told == [("put_pack", "dep_code", "code@1")]
        assert [(each.name, each.number, str(each.directory)) for each in source.adapters] == [
            ("dep_math", 1, world.adapters["math"]),
            ("dep_code", 2, world.adapters["code"]),
        ]
        assert group.keys == ["dep_code", "dep_math"]
        assert [(pair.variant, pair.pack) for pair in pairs] == [("dep_math", "math@1"), ("dep_code", "code@1")]
        assert pairs[0].fingerprint != pairs[1].fingerprint
        memory = await group.memory()
        assert [each.name for each in memory] == ["code", "math"]
        assert all(each.adapter_bytes > 0 and each.pack_bytes > 0 for each in memory)

    run(check())


def test_another_pack_is_put_in_place_and_a_model_that_goes_gives_its_place_back(world: World) -> None:
    async def check() -> None:
        math, code = world.served("math", "math"), world.served("code", "code")
        group = group_of(math)
        await put(group, math)
        await put(group, code)
        (source,) = world.started
        source.told.clear()
        await put(group, world.served("code", None))
        await put(group, code)
        assert source.told == [("remove_pack", "dep_code"), ("put_pack", "dep_code", "code@1")]
        assert len(source.adapters) == 2  # the adapter is the same
        third = world.served("third", "code").model_copy(update={"name": "mine"})
        with pytest.raises(InputError, match="mine would be one adapter too many: this vLLM has room for 2") as caught:
            await put(group, third)
        assert not re.search("math|code", caught.value.message)  # they may be another owner's
        await group.remove("dep_code")
        await put(group, world.served("third", "code"))
        assert source.told[2:] == [("remove_pack", "dep_code"), ("put_pack", "dep_third", "code@1")]
        await group.remove("dep_math")
        assert not source.has_ended
        await group.remove("dep_third")
        await asyncio.sleep(0)
        assert source.has_ended
        assert len(world.started) == 1

    run(check())


def test_one_that_found_no_room_is_served_once_another_has_gone(world: World) -> None:
    async def check() -> None:
        math, code, third = world.served("math", "math"), world.served("code", "code"), world.served("third", "code")
        models = ServedModels()
        await models.make([math, code, third])
        assert [pair.name for pair in models.pairs] == ["math", "code"]
        with pytest.raises(ResourceError, match="third would be one adapter too many"):
            models.find("third", None)
        await models.make([math, third])
        assert [pair.name for pair in models.pairs] == ["math", "third"]
        assert models.find("third", None).runner is models.find("math", None).runner
        assert len(world.started) == 1
        models.retire()

    run(check())


def test_a_model_whose_pack_is_for_another_target_leaves_nothing_in_vllm(world: World) -> None:
    async def check() -> None:
        code = world.served("code", "code")
        group = group_of(code)
        await put(group, code)
        with pytest.raises(TargetIncompatibleError):
            await put(group, world.served("math", "code"))
        (source,) = world.started
        assert [each.name for each in source.adapters] == ["dep_code"]
        assert source.told == []

    run(check())


def test_a_pack_that_vllm_does_not_remove_is_gone_when_it_starts_again(world: World) -> None:
    async def check() -> None:
        math, code = world.served("math", "math"), world.served("code", "code")
        group = group_of(math)
        await put(group, math)
        await put(group, code)
        world.started[0].refuses = "remove_pack"
        await put(group, world.served("code", None))
        first, second = world.started
        assert first.has_ended
        assert second.plan.draft_dir is not None
        assert [each.adapter for each in read_eda_config(second.plan.draft_dir).packs or ()] == ["dep_math"]
        second.refuses = "remove_pack"
        await group.remove("dep_math")
        assert group.keys == ["dep_code"]
        assert not second.has_ended

    run(check())


def test_a_pack_for_which_the_draft_has_no_room_starts_vllm_again_with_all(world: World) -> None:
    async def check() -> None:
        code = world.served("code", "code")
        group = group_of(code)
        await put(group, code)
        await put(group, world.served("math", "wide"))
        first, second = world.started
        assert first.has_ended
        assert second.plan.draft_dir is not None
        eda = read_eda_config(second.plan.draft_dir)
        assert {(each.adapter, each.source) for each in eda.packs or ()} == {
            ("dep_code", "code@1"),
            ("dep_math", "wide@1"),
        }
        assert {each.name for each in second.adapters} == {"dep_code", "dep_math"}
        assert second.plan.what == "tiny@1 and 2 packs over it"  # an error of the start names nobody's pack
        assert group.runner.loaded is not None
        assert set(group.runner.loaded.adapters) == {"dep_code", "dep_math"}

    run(check())


def test_a_vllm_that_does_not_start_again_is_started_as_it_was(world: World) -> None:
    async def check() -> None:
        code = world.served("code", "code")
        group = group_of(code)
        await put(group, code)
        world.fails.append(EngineStartError("no memory"))
        with pytest.raises(EngineStartError, match="no memory"):
            await put(group, world.served("math", "wide"))
        assert group.keys == ["dep_code"]
        assert group.runner.loaded is not None
        assert set(group.runner.loaded.adapters) == {"dep_code"}
        assert len(world.started) == 2

    run(check())


def test_where_that_does_not_start_either_it_is_a_failure_and_the_next_one_starts_all(world: World) -> None:
    async def check() -> None:
        code, wide = world.served("code", "code"), world.served("math", "wide")
        group = group_of(code)
        await put(group, code)
        world.fails += [EngineStartError("still none"), OSError("no memory")]
        with pytest.raises(OSError, match="no memory"):
            await put(group, wide)
        assert group.runner.failure is not None
        assert group.keys == ["dep_code"]
        await put(group, wide)
        first, second = world.started
        assert first.has_ended
        assert {each.name for each in second.adapters} == {"dep_code", "dep_math"}
        assert first.told == second.told == []
        assert group.runner.failure is None

    run(check())


def test_a_vllm_of_one_deployment_that_cannot_go_back_is_a_failure(world: World) -> None:
    async def check() -> None:
        alone = EngineSpec(kind=EngineKind.VLLM, vllm=VllmConfig(swap="restart"))
        code = world.served("code", "code").model_copy(update={"engine": alone})
        group = VllmGroup(code, max_waiting=1)
        await group.put(code, None)
        world.fails += [EngineStartError("still none"), OSError("no memory")]
        with pytest.raises(OSError, match="no memory"):
            await group.put(code.model_copy(update={"pack": None}), None)
        assert group.runner.failure is not None
        assert (await group.put(code, None)).pack == "code@1"
        assert group.runner.failure is None
        assert [source.has_ended for source in world.started] == [True, False]

    run(check())


def test_the_base_itself_shares_without_a_pack_and_is_refused_with_one(world: World) -> None:
    async def check() -> None:
        base = world.served("math", None, adapter=None)
        group = group_of(base)
        await put(group, base)
        (source,) = world.started
        assert source.plan.draft_dir is not None
        assert read_eda_config(source.plan.draft_dir).source == "tiny@1"
        assert source.adapters == []
        with pytest.raises(TargetIncompatibleError, match="chooses a pack by a request's adapter"):
            await put(group, base.model_copy(update={"pack": world.packs["math"]}))
        # The first pack needs a draft with places.
        await put(group, world.served("code", "code"))
        assert len(world.started) == 2

    run(check())


def test_an_adapter_of_a_larger_rank_is_refused(world: World, tmp_path: Path) -> None:
    async def check() -> None:
        code = world.served("code", "code")
        group = group_of(code)
        await put(group, code)
        adapter = write_adapter(Path(world.model), tmp_path / "large", seed=3, r=16)
        large = code.model_copy(update={"uid": "dep_l", "target": {**code.target, "adapter": str(adapter)}})
        with pytest.raises(InputError, match="has rank 16, and this vLLM takes ranks up to 8"):
            await put(group, large.model_copy(update={"pack": None}))

    run(check())


@pytest.mark.parametrize("wrong", [{"form": "dense"}, {"swap": "beside"}])
def test_settings_that_a_shared_vllm_has_no_use_for_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a vLLM that several deployments share"):
        VllmConfig(max_adapters=2, **wrong)
    assert not VllmConfig(**wrong).is_shared
