"""What a replica serves follows its config: models of one base share an engine, a swap keeps running answers, a model
that does not load harms nobody.

Everything real but Serve: tiny targets on disk, adapters saved by peft, a registered base draft, published packs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_adapter

from api.endpoint import served_models
from api.endpoint.engines import base_group
from api.endpoint.engines.group import ServedGroup
from api.endpoint.engines.pending_answers import DecodeRequest
from api.endpoint.served_models import ServedModels
from eda_service.config.deployment import EngineLimits
from eda_service.config.job import AdaptConfig, TargetSpec, TrainConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import load_base_draft, save_pack
from eda_service.drafts.freezing import prepare
from eda_service.errors import NotFoundError, ResourceError
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.records import PackManifest, Stage
from eda_service.storage.files import file_entry, write_json
from eda_service.storage.published.registry import publish_pack, stage_pack
from eda_service.targets.adapters.adapter import Adapter, read_adapter
from eda_service.targets.loader import load_target

PROMPT = [30, 40, 50]
PARAMS = SamplingParams(max_new_tokens=60, temperature=1.0, seed=7)


@pytest.fixture
def adapters(tmp_path: Path, target_dir: Callable[[str], Path]) -> list[Path]:
    return [write_adapter(target_dir("llama"), tmp_path / f"a{i}", seed=i, r=4, std=0.1) for i in range(2)]


@pytest.fixture
def models() -> Iterator[ServedModels]:
    made = ServedModels()
    yield made
    made.retire()


def spec_of(model_dir: Path, adapter: Path | None) -> TargetSpec:
    return TargetSpec(model=str(model_dir), adapter=None if adapter is None else str(adapter), dtype="float32")


def served(
    name: str, spec: TargetSpec, *, base_draft: str | None = "tiny@1", pack: str | None = None, uid: str = ""
) -> ServedModel:
    return ServedModel(name=name, uid=uid, target=spec.model_dump(mode="json"), base_draft=base_draft, pack=pack)


def publish(base_dir: Path, spec: TargetSpec, version: int) -> str:
    """A pack for a target, trained for no step but with weights of its own."""
    train = TrainConfig(train_fc=False)
    loaded = load_base_draft(base_dir, dtype=load_target(spec).dtype)
    draft = prepare(loaded.draft, train, seed=version)
    for parameter in draft.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.05)
    staging = stage_pack("p", version)
    save_pack(staging, draft, train, None)
    manifest = PackManifest(
        stage=Stage.PUBLISH,
        created_at=int(time.time()),
        seconds=0.0,
        config=AdaptConfig(target=spec).model_dump(mode="json"),
        seed=0,
        library_versions={},
        inputs={},
        files=tuple(file_entry(staging, path) for path in sorted(staging.iterdir())),
        pack=f"p@{version}",
        method="eda",
        base_draft="tiny@1",
        base_draft_sha256="0" * 64,
        target=load_target(spec).fingerprint,
        num_parameters=1,
        num_trainable=1,
        metrics={},
    )
    write_json(staging / "manifest.json", manifest.model_dump(mode="json"))
    publish_pack(staging, "p", version)
    return f"p@{version}"


async def tokens(
    models: ServedModels, name: str, params: SamplingParams = PARAMS, draft_of: str | None = None
) -> list[int]:
    pair, found, reason = models.find(name, None), [], None
    with pair.runner.book(1, timeout_s=60) as pending:
        pending.start([DecodeRequest(name, PROMPT, params, pair.variant, draft_of=draft_of)])
        while reason is None:
            for _, output in await pending.take():
                found += output.new_token_ids
                reason = output.finish_reason
    return found


def merged_answer(spec: TargetSpec, params: SamplingParams) -> list[int]:
    """What the merged model decodes without a draft."""
    engine = Engine(load_target(spec), max_batch=1, max_tokens=200)
    engine.submit("r", PROMPT, params)
    return [token for output in run_to_end(engine)["r"] for token in output.new_token_ids]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))


def test_models_of_one_base_share_an_engine_and_each_answers_as_its_merged_model(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], base_draft_dir: Path
) -> None:
    model_dir, greedy = target_dir("llama"), SamplingParams(max_new_tokens=20)
    specs = {
        "base": spec_of(model_dir, None),
        "a": spec_of(model_dir, adapters[0]),
        "b": spec_of(model_dir, adapters[1]),
    }
    pack = publish(base_draft_dir, specs["a"], 1)
    config = [
        served("base", specs["base"]),
        served("a", specs["a"], pack=pack),
        served("b", specs["b"], base_draft=None),
    ]

    async def scenario() -> None:
        await models.make(config)
        assert len({id(pair.runner) for pair in models.pairs}) == 1
        answers = await asyncio.gather(*(tokens(models, name, greedy) for name in specs))
        assert list(answers) == [merged_answer(spec, greedy) for spec in specs.values()]
        memory = await models.memory()
        sizes = {each.name: each for each in memory.variants}
        assert memory.base_bytes > 0
        assert (sizes["base"].adapter_bytes, sizes["base"].pack_bytes) == (0, 0)
        assert sizes["a"].adapter_bytes == sizes["b"].adapter_bytes > 0
        assert sizes["a"].pack_bytes > sizes["b"].pack_bytes == 0
        assert {name: models.find(name, None).num_spec_tokens for name in specs} == {"base": 5, "a": 5, "b": 0}

    run(scenario())


def test_a_request_chooses_among_the_drafts_of_its_base(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], base_draft_dir: Path
) -> None:
    model_dir, greedy = target_dir("llama"), SamplingParams(max_new_tokens=20)
    spec = spec_of(model_dir, adapters[0])
    pack = publish(base_draft_dir, spec, 1)

    async def scenario() -> None:
        await models.make([served("a", spec, pack=pack), served("plain", spec_of(model_dir, None), base_draft=None)])
        pair = models.find("a", None)
        assert pair.drafts is not None
        choices = dict(pair.drafts())
        assert sorted(choices) == ["base", pack]
        own = await tokens(models, "a", greedy)
        for draft_of in choices.values():
            assert await tokens(models, "a", greedy, draft_of) == own
        plain = models.find("plain", None).drafts
        assert plain is not None
        assert list(plain()) == [pack]  # it has no base draft, and takes a neighbour's pack

    run(scenario())


def test_an_adapter_is_held_once(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[weakref.ref[Adapter]] = []

    def reading(*args: Any, **kwargs: Any) -> Adapter:
        adapter = read_adapter(*args, **kwargs)
        read.append(weakref.ref(adapter))
        return adapter

    monkeypatch.setattr(base_group, "read_adapter", reading)
    names, model_dir = ("a", "b"), target_dir("llama")
    config = [
        served(name, spec_of(model_dir, each), base_draft=None) for name, each in zip(names, adapters, strict=True)
    ]

    async def scenario() -> None:
        await models.make(config)
        gc.collect()
        assert [ref() for ref in read] == [None, None]  # the engine's stacks have them

    run(scenario())


def test_under_load_every_answer_is_the_old_version_s_or_the_new_one_s(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], base_draft_dir: Path
) -> None:
    spec = spec_of(target_dir("llama"), adapters[0])
    packs = [publish(base_draft_dir, spec, version) for version in (1, 2)]

    async def scenario() -> None:
        await models.make([served("a", spec, pack=packs[0])])
        old = await tokens(models, "a")
        runner, answers, swapped = models.find("a", None).runner, [], asyncio.Event()

        async def ask_until_swapped() -> None:
            while not swapped.is_set():
                answers.append(await tokens(models, "a"))

        asking = [asyncio.create_task(ask_until_swapped()) for _ in range(6)]
        while len(answers) < 6:
            await asyncio.sleep(0.01)
        await models.make([served("a", spec, pack=packs[1])])
        assert models.find("a", None).pack == packs[1]
        assert models.find("a", None).runner is runner
        swapped.set()
        await asyncio.gather(*asking)
        new = await tokens(models, "a")
        assert new != old  # other draws, by another draft
        assert all(answer in (old, new) for answer in answers)
        assert (await models.memory()).variants[0].num_running == 0

    run(scenario())


def test_a_model_alone_is_merged_and_shares_once_another_comes(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], base_draft_dir: Path
) -> None:
    specs = [spec_of(target_dir("llama"), adapter) for adapter in adapters]
    greedy = SamplingParams(max_new_tokens=20)

    async def adapter_bytes() -> dict[str, int]:
        return {each.name: each.adapter_bytes for each in (await models.memory()).variants}

    async def scenario() -> None:
        wanted = [merged_answer(spec, greedy) for spec in specs]
        await models.make([served("a", specs[0])])
        alone = models.find("a", None).runner
        assert await adapter_bytes() == {"a": 0}
        assert await tokens(models, "a", greedy) == wanted[0]
        running = asyncio.create_task(tokens(models, "a", SamplingParams(max_new_tokens=100)))
        while not alone.num_open:
            await asyncio.sleep(0)
        await models.make([served("a", specs[0]), served("b", specs[1])])
        assert models.find("a", None).runner is models.find("b", None).runner is not alone
        assert min((await adapter_bytes()).values()) > 0
        assert [await tokens(models, name, greedy) for name in "ab"] == wanted
        assert len(await running) > 20
        await models.make([served("b", specs[1])])
        assert await adapter_bytes() == {"b": 0}
        assert await tokens(models, "b", greedy) == wanted[1]

    run(scenario())


def test_what_does_not_load_leaves_the_others_and_itself_as_they_are(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], base_draft_dir: Path
) -> None:
    """A pack of another target, over a served model and over a new one."""
    model_dir = target_dir("llama")
    spec, other = spec_of(model_dir, adapters[0]), spec_of(model_dir, adapters[1])
    good, bad = publish(base_draft_dir, spec, 1), publish(base_draft_dir, other, 2)

    async def scenario() -> None:
        await models.make([served("a", spec, pack=good)])
        wanted = await tokens(models, "a")
        await models.make([served("a", spec, pack=bad), served("new", spec, pack=bad), served("b", other)])
        assert models.find("a", None).pack == good
        assert await tokens(models, "a") == wanted
        with pytest.raises(ResourceError, match="adapt again"):
            models.find("new", None)
        failed = {each.name: each.pack for each in (await models.memory()).failed}
        assert failed == {"a": bad, "new": bad}
        assert await tokens(models, "b")
        await models.make([served("b", other)])
        with pytest.raises(NotFoundError, match="there is b"):
            models.find("a", None)
        await models.make([])
        assert models.pairs == []
        assert (await models.memory()).base_bytes == 0

    run(scenario())


def test_an_engine_takes_what_the_service_says(target_dir: Callable[[str], Path]) -> None:
    limited = ServedModels(limits=EngineLimits(context=40, batch=2, waiting=3))
    try:
        asyncio.run(limited.make([served("a", spec_of(target_dir("llama"), None), base_draft=None)]))
        (group,) = limited._groups.values()
        assert isinstance(group, ServedGroup)
        assert (group.max_model_len, group.runner.max_open) == (40, 2 + 3)
    finally:
        limited.retire()


def test_a_library_s_error_is_the_model_s_own_and_an_attempt_is_made_once(
    models: ServedModels, target_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, broken = spec_of(target_dir("llama"), None), spec_of(target_dir("qwen2"), None)
    begun: list[str] = []

    def opening(base: TargetSpec, num_draft_tokens: int, limits: EngineLimits) -> ServedGroup:
        begun.append(base.model)
        if base == broken and begun.count(broken.model) == 1:
            raise KeyError("rope_type")
        return ServedGroup(base, num_draft_tokens, limits)

    monkeypatch.setattr(served_models, "ServedGroup", opening)
    bad = served("bad", broken, base_draft=None)
    config = [bad, served("good", good, base_draft=None)]

    async def scenario() -> None:
        for _ in range(3):
            await models.make(config)
        assert begun.count(broken.model) == 1
        (failure,) = (await models.memory()).failed
        assert (failure.name, failure.attempt, failure.may_pass) == ("bad", 0, False)
        assert "KeyError: 'rope_type'" in failure.reason
        assert await tokens(models, "good")
        await models.make([bad.model_copy(update={"attempt": 1}), *config[1:]])
        assert await tokens(models, "bad")
        assert (await models.memory()).failed == []
        await models.make([bad.model_copy(update={"attempt": 2}), *config[1:]])
        assert begun.count(broken.model) == 2  # what is loaded stays, whichever attempt it was

    run(scenario())


def test_an_adapter_that_cannot_be_stacked_gets_a_merged_base_of_its_own(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], base_draft_dir: Path
) -> None:
    model_dir, greedy = target_dir("llama"), SamplingParams(max_new_tokens=20)
    settings = adapters[1] / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "bias": "lora_only"}))
    odd = spec_of(model_dir, adapters[1])

    async def scenario() -> None:
        config = [served("base", spec_of(model_dir, None)), served("a", spec_of(model_dir, adapters[0]))]
        await models.make([*config, served("odd", odd)])
        assert models.find("a", None).runner is not models.find("odd", None).runner
        assert await tokens(models, "odd", greedy) == merged_answer(odd, greedy)
        memory = {each.name: each.adapter_bytes for each in (await models.memory()).variants}
        assert memory["a"] > memory["odd"] == 0

    run(scenario())


def test_a_name_that_another_deployment_takes_gives_nothing_of_the_one_before(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], base_draft_dir: Path
) -> None:
    """Neither while the new one is loaded, nor when it does not load; an answer that runs ends on the old one."""
    spec, other = (spec_of(target_dir("llama"), adapter) for adapter in adapters)
    bad = publish(base_draft_dir, other, 2)

    async def scenario() -> None:
        await models.make([served("a", spec, uid="old"), served("b", other, uid="b")])
        old = models.find("a", "old")
        with old.runner.book(1, timeout_s=60) as pending:
            params = SamplingParams(max_new_tokens=100, ignore_eos=True)
            pending.start([DecodeRequest(old.uid, PROMPT, params, old.variant)])
            making = asyncio.create_task(models.make([served("a", spec, uid="new"), served("b", other, uid="b")]))
            await asyncio.sleep(0)
            for uid in ("old", "new", None):
                with pytest.raises(NotFoundError, match="there is b"):
                    models.find("a", uid)
            assert [pair.uid for pair in models.pairs] == ["b"]
            await making
            assert models.find("a", "new").uid == models.find("a", None).uid == "new"
            reason = None
            while reason is None:
                for _, output in await pending.take():
                    reason = output.finish_reason
            assert reason == "length"
        assert set(old.runner.counts) == {("old", None)}
        await models.make([served("a", spec, uid="third", pack=bad)])
        for uid in ("third", None):
            with pytest.raises(ResourceError, match="adapt again"):
                models.find("a", uid)
        with pytest.raises(NotFoundError):
            models.find("a", "new")
        assert models.pairs == []

    run(scenario())
