"""Base drafts beside the models of a replica: there while a model has them, and no reason to lose what is served.

Everything real but Serve, as in `test_served_models`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_served_models import run, served, spec_of, tokens
from tiny_models import write_adapter

from api.endpoint.engines.runner import EngineRunner
from api.endpoint.served_models import ServedModels
from eda_service.decoding.engine import Engine
from eda_service.errors import ResourceError


@pytest.fixture
def adapters(tmp_path: Path, target_dir: Callable[[str], Path]) -> list[Path]:
    return [write_adapter(target_dir("llama"), tmp_path / f"a{i}", seed=i, r=4, std=0.1) for i in range(2)]


@pytest.fixture
def models() -> Iterator[ServedModels]:
    made = ServedModels()
    yield made
    made.retire()


def test_a_base_draft_goes_with_its_last_model(
    models: ServedModels, adapters: list[Path], target_dir: Callable[[str], Path], base_draft_dir: Path
) -> None:
    spec, other = (spec_of(target_dir("llama"), each) for each in adapters)
    plain = served("plain", other, base_draft=None)

    async def scenario() -> None:
        await models.make([served("a", spec, base_draft=None), plain])
        alone = (await models.memory()).base_bytes
        await models.make([served("a", spec), plain])
        pair = models.find("a", None)
        assert pair.drafts is not None
        assert list(pair.drafts()) == ["base"]
        assert (await models.memory()).base_bytes > alone
        await models.make([served("a", spec, base_draft=None), plain])
        assert (await models.memory()).base_bytes == alone
        assert isinstance(pair.runner, EngineRunner)
        assert sorted(await pair.runner.call(lambda engine: engine.variant_loads())) == ["a", "plain"]
        await models.make([served("a", spec), plain])
        assert await tokens(models, "a") == await tokens(models, "a", draft_of="base:tiny@1")

    run(scenario())


def test_what_is_served_stays_where_the_base_draft_does_not_fit_the_engine(
    models: ServedModels,
    adapters: list[Path],
    target_dir: Callable[[str], Path],
    base_draft_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_of(target_dir("llama"), adapters[0])
    plain = served("plain", spec_of(target_dir("llama"), None), base_draft=None)
    add = Engine.add_variant

    def refusing(engine: Engine, name: str, **settings: Any) -> Any:
        if name.startswith("base:"):
            raise ResourceError("no room for it")
        return add(engine, name, **settings)

    async def scenario() -> None:
        await models.make([served("a", spec, base_draft=None), plain])
        before = await tokens(models, "a")
        monkeypatch.setattr(Engine, "add_variant", refusing)
        await models.make([served("a", spec), plain])
        assert [failed.reason for failed in (await models.memory()).failed] == ["no room for it"]
        assert await tokens(models, "a") == before

    run(scenario())
