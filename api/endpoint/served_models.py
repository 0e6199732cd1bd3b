"""The models of a replica and the group of each, changed to match the config that the replica is given.

A model's key is its deployment's uid, and requests find a model by its name. When a name is given to another
deployment, requests for the name never reach the earlier deployment, also while the new one is loaded or does not load.

Models over one base target share a group's engine. A target that cannot share, or is alone on its base, has a group of
its own with its adapter merged, which decodes faster (ADR 0013). A model on vLLM has one too, unless its vLLM has room
for several adapters: then models with one base draft and equal settings share it (ADR 0041).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from api.endpoint.engines.base_group import Place, beside_base, place_of, serving_chain
from api.endpoint.engines.group import ServedGroup
from api.endpoint.engines.interfaces import ModelGroup, ServedPair
from api.endpoint.engines.vllm_group import VllmGroup
from api.endpoint.engines.vllm_shared_group import SharedVllmGroup
from api.endpoint.load_failures import Cause, cause_of, code_of, reason_of
from api.endpoint.load_marks import LoadMarks
from api.endpoint.protocol.schemas import ReplicaMemory, VariantFailure
from eda_service.config.deployment import EngineLimits, EngineSpec
from eda_service.config.job import EngineKind, TargetSpec
from eda_service.errors import ModelNotFoundError, ResourceError
from eda_service.raycluster.resources import release_free_memory
from eda_service.raycluster.serve_plan import ServedModel

logger = logging.getLogger(__name__)


# What a group's models have in common; the last is the one model's key on vLLM, or the base draft where it is shared.
GroupKey = tuple[TargetSpec, EngineSpec, str]


class ServedModels:
    """The served models by key.

    Args:
        marks: Marks of loads, which show the loads that ended with their process; None: no marks are written.
        limits: Limits of each engine; None: the default limits.
    """

    def __init__(self, marks: LoadMarks | None = None, limits: EngineLimits | None = None) -> None:
        self._limits = limits or EngineLimits()
        self._marks = marks or LoadMarks(None)
        self._keys: dict[str, str] = {}  # of what is wanted, by name
        self._groups: dict[GroupKey, ModelGroup] = {}
        self._places: dict[str, GroupKey] = {}
        self._pairs: dict[str, ServedPair] = {}
        self._loaded: dict[str, ServedModel] = {}
        self._failed: dict[str, tuple[ServedModel, VariantFailure]] = {}

    @property
    def pairs(self) -> list[ServedPair]:
        """Return all served pairs."""
        return [pair for key, pair in self._pairs.items() if self._keys.get(pair.name) == key]

    @property
    def broken(self) -> list[str]:
        """List the models whose engine has failed."""
        broken = [key for group in self._groups.values() if group.runner.failure is not None for key in group.keys]
        return [self._pairs[key].name for key in broken if key in self._pairs]

    @property
    def round_s(self) -> float:
        """Return the mean time of the newest rounds, of the engine where it is longest."""
        return max((group.runner.round_times.mean_s() for group in self._groups.values()), default=0.0)

    def find(self, name: str, uid: str | None) -> ServedPair:
        """Find a served model.

        Args:
            name: Name that requests use.
            uid: Uid of the deployment; None: the deployment that has the name now.

        Raises:
            ResourceError: The model could not be loaded.
            ModelNotFoundError: No model has this name, or the model belongs to another deployment.
        """
        key = self._keys.get(name)
        is_meant = key is not None and uid in {None, key}
        if key is not None and is_meant and key in self._pairs:
            return self._pairs[key]
        if key is not None and is_meant and key in self._failed:
            raise ResourceError(f"{name} could not be loaded: {self._failed[key][1].reason}")
        served = ", ".join(sorted(pair.name for pair in self.pairs)) or "nothing"
        raise ModelNotFoundError(f"no model {name[:96]!r} is served here; there is {served}", param="model")

    async def make(self, models: Iterable[ServedModel]) -> None:
        """Serve these models and no others. If one does not load, the others stay, and so does its earlier version."""
        wanted = {model.key: model for model in models}
        self._keys = {model.name: key for key, model in wanted.items()}
        self._failed = {key: failed for key, failed in self._failed.items() if key in wanted}
        await asyncio.to_thread(self._marks.forget_others, list(wanted.values()))
        places = await asyncio.to_thread(_places, list(wanted.values()))
        for key, model in wanted.items():
            await self._make_one(model, places[key])
        gone = set(self._pairs) - set(wanted)
        for key in gone:
            del self._loaded[key], self._pairs[key]
            await self._leave(self._places.pop(key), key)
        for key, model in wanted.items():
            if gone and key in self._failed and model.engine.vllm.is_shared:
                del self._failed[key]  # it may have failed for want of the room that is free now
                await self._make_one(model, places[key])

    async def _make_one(self, model: ServedModel, place: Place | Exception) -> None:
        """Serve one model, unless this attempt failed before. A failure is recorded and affects no other model."""
        key = model.key
        if isinstance(place, Place) and self._has(model, place):
            self._loaded[key] = model
            self._failed.pop(key, None)
            return
        failed = self._failed.get(key)
        if failed is not None and failed[0] == model:
            return
        try:
            if isinstance(place, Exception):
                raise place
            with self._marks.loading(model):
                await self._put(model, place)
        except Exception as error:  # whatever a stranger's files bring about
            logger.exception("cannot serve %s", model.name)
            self._failed[key] = model, _failure(model, error)
            await asyncio.to_thread(release_free_memory)

    def _has(self, model: ServedModel, place: Place) -> bool:
        loaded = self._loaded.get(model.key)
        is_equal = loaded is not None and loaded.content == model.content
        return is_equal and self._places[model.key] == _group_key(model, place)

    async def memory(self) -> ReplicaMemory:
        """Return the sizes of the models that this replica holds.

        Raises:
            EdaError: An engine has failed.
        """
        groups = list(self._groups.values())
        variants = [variant for group in groups for variant in await group.memory()]
        base_bytes = sum(group.size_bytes for group in groups)
        return ReplicaMemory(
            base_bytes=base_bytes, variants=variants, failed=[failed for _, failed in self._failed.values()]
        )

    def retire(self) -> None:
        """End every engine with its last request."""
        for group in self._groups.values():
            group.runner.retire()

    async def _put(self, model: ServedModel, place: Place) -> None:
        """Serve a model in the group of its base and engine."""
        group_key = _group_key(model, place)
        group = self._groups.get(group_key)
        if group is None:
            group = await _open(model, place, self._limits)
        try:
            pair = await group.put(model, place.adapter_dir)
        finally:
            if not group.keys:
                group.runner.retire()
        key, before = model.key, self._places.get(model.key)
        self._groups[group_key], self._places[key] = group, group_key
        self._pairs[key], self._loaded[key] = pair, model
        self._failed.pop(key, None)
        if before is not None and before != group_key:
            await self._leave(before, key)

    async def _leave(self, group_key: GroupKey, key: str) -> None:
        """Remove a model from a group; an empty group is removed."""
        group = self._groups[group_key]
        await group.remove(key)
        if not group.keys:
            del self._groups[group_key]


def _group_key(model: ServedModel, place: Place) -> GroupKey:
    """Return the group that a model belongs to."""
    if model.engine.kind is not EngineKind.VLLM:
        return place.base, model.engine, ""
    return place.base, model.engine, str(model.base_draft) if model.engine.vllm.is_shared else model.key


async def _open(model: ServedModel, place: Place, limits: EngineLimits) -> ModelGroup:
    """Make a group that has no models yet."""
    if model.engine.kind is EngineKind.VLLM:
        shared = model.engine.vllm.is_shared
        return SharedVllmGroup(model, place.base, limits.waiting) if shared else VllmGroup(model, limits.waiting)
    chain = await asyncio.to_thread(serving_chain, model)
    return await asyncio.to_thread(ServedGroup, place.base, chain, limits)


def _failure(model: ServedModel, error: Exception) -> VariantFailure:
    return VariantFailure(
        name=model.name,
        uid=model.uid,
        base_draft=model.base_draft,
        pack=model.pack,
        reason=reason_of(error),
        attempt=model.attempt,
        code=code_of(error),
        may_pass=cause_of(error) is Cause.ENVIRONMENT,
    )


def _places(models: Sequence[ServedModel]) -> dict[str, Place | Exception]:
    """Choose the group of each model, shared with others on its base or its own; or the error that prevents both."""
    found: dict[str, Place | Exception] = {}
    for model in models:
        try:
            spec = TargetSpec.model_validate(model.target)
            found[model.key] = beside_base(spec) if model.engine.vllm.is_shared else place_of(spec)
        except Exception as error:  # told as the model's failure, where it is put
            found[model.key] = error
    bases = Counter(place.base for place in found.values() if isinstance(place, Place))
    for model in models:
        place = found[model.key]
        if model.engine.vllm.is_shared:
            continue
        alone = model.engine.kind is EngineKind.VLLM
        if isinstance(place, Place) and (alone or bases[place.base] == 1):
            found[model.key] = Place(TargetSpec.model_validate(model.target), None)
    return found
