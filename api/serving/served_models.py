"""What a replica serves, by name, and in which group each model is: made equal to the config it is given.

Models over one base target share a group's engine; a target that cannot share, or has nobody to share with, has a group
of its own with its adapter merged, which decodes faster (ADR 0013). So has a model on vLLM.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from api.serving.call import ServedPair
from api.serving.group import ServedGroup
from api.serving.ports import Group
from api.serving.schemas import FailedVariant, ReplicaMemory
from api.serving.vllm_group import VllmGroup
from eda_service.config import EngineKind, TargetSpec
from eda_service.deployment_config import EngineSpec
from eda_service.distributed.base_group import Place, place_of, serving_chain
from eda_service.distributed.serve_config import ServedModel
from eda_service.errors import EdaError, ModelNotFoundError, ResourceError

logger = logging.getLogger(__name__)


Key = tuple[TargetSpec, EngineSpec]  # what the models of a group have in common


class ServedModels:
    """Models by name."""

    def __init__(self) -> None:
        self._groups: dict[Key, Group] = {}
        self._places: dict[str, Key] = {}
        self._pairs: dict[str, ServedPair] = {}
        self._loaded: dict[str, ServedModel] = {}
        self._failed: dict[str, FailedVariant] = {}

    @property
    def pairs(self) -> list[ServedPair]:
        """Everything that is served now."""
        return list(self._pairs.values())

    @property
    def broken(self) -> list[str]:
        """Models whose engine has failed."""
        return [name for group in self._groups.values() if group.runner.failure is not None for name in group.names]

    @property
    def round_s(self) -> float:
        """Mean time of the newest rounds, in the engine where it is longest."""
        return max((group.runner.round_times.mean_s() for group in self._groups.values()), default=0.0)

    def __getitem__(self, name: str) -> ServedPair:
        """A served model.

        Raises:
            ResourceError: It could not be loaded.
            ModelNotFoundError: There is none.
        """
        pair = self._pairs.get(name)
        if pair is not None:
            return pair
        if name in self._failed:
            raise ResourceError(f"{name} could not be loaded: {self._failed[name].reason}")
        served = ", ".join(sorted(self._pairs)) or "nothing"
        raise ModelNotFoundError(f"no model {name[:96]!r} is served here; there is {served}", param="model")

    async def make(self, models: Iterable[ServedModel]) -> None:
        """Serve these and no others. One that does not load leaves the others, and what is served under its own name,
        as they are.
        """
        wanted = {model.name: model for model in models}
        self._failed = {name: failed for name, failed in self._failed.items() if name in wanted}
        places = await asyncio.to_thread(_places, list(wanted.values()))
        for name, model in wanted.items():
            try:
                place = places[name]
                if isinstance(place, EdaError):
                    raise place
                if self._loaded.get(name) == model and self._places[name] == (place.base, model.engine):
                    self._failed.pop(name, None)
                    continue
                await self._put(model, place)
            except EdaError as error:
                logger.exception("cannot serve %s", name)
                self._failed[name] = FailedVariant(
                    name=name, base_draft=model.base_draft, pack=model.pack, reason=error.message
                )
        for name in set(self._pairs) - set(wanted):
            del self._loaded[name], self._pairs[name]
            await self._leave(self._places.pop(name), name)

    async def memory(self) -> ReplicaMemory:
        """What this replica holds.

        Raises:
            EdaError: An engine has failed.
        """
        groups = list(self._groups.values())
        variants = [variant for group in groups for variant in await group.memory()]
        base_bytes = sum(group.size_bytes for group in groups)
        return ReplicaMemory(base_bytes=base_bytes, variants=variants, failed=list(self._failed.values()))

    def retire(self) -> None:
        """End every engine with its last request."""
        for group in self._groups.values():
            group.runner.retire()

    async def _put(self, model: ServedModel, place: Place) -> None:
        """Serve a model in the group of its base and engine."""
        key = place.base, model.engine
        group = self._groups.get(key)
        if group is None:
            group = await _open(model, place)
        try:
            pair = await group.put(model, place.adapter_dir)
        finally:
            if not group.names:
                group.runner.retire()
        before = self._places.get(model.name)
        self._groups[key], self._places[model.name] = group, key
        self._pairs[model.name], self._loaded[model.name] = pair, model
        self._failed.pop(model.name, None)
        if before is not None and before != key:
            await self._leave(before, model.name)

    async def _leave(self, key: Key, name: str) -> None:
        """Take a model out of a group; an empty group goes."""
        group = self._groups[key]
        await group.remove(name)
        if not group.names:
            del self._groups[key]


async def _open(model: ServedModel, place: Place) -> Group:
    """A group without models yet."""
    if model.engine.kind is EngineKind.VLLM:
        return VllmGroup(model)
    chain = await asyncio.to_thread(serving_chain, model)
    return await asyncio.to_thread(ServedGroup, place.base, chain)


def _places(models: Sequence[ServedModel]) -> dict[str, Place | EdaError]:
    """The group of each model: its base's where others want that too, else one of its own; or why it has none."""
    found: dict[str, Place | EdaError] = {}
    for model in models:
        try:
            found[model.name] = place_of(TargetSpec.model_validate(model.target))
        except EdaError as error:
            found[model.name] = error
    bases = Counter(place.base for place in found.values() if isinstance(place, Place))
    for model in models:
        place = found[model.name]
        alone = model.engine.kind is EngineKind.VLLM
        if isinstance(place, Place) and (alone or bases[place.base] == 1):
            found[model.name] = Place(TargetSpec.model_validate(model.target), None)
    return found
