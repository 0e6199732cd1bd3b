"""Everything a replica serves over one base target: one engine on one thread, and the variants loaded into it.

Files are read while the engine runs; changes to the engine are made on its thread, between two rounds.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from api.endpoint.engines.base_group import BaseGroup, PreparedVariant
from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.engines.runner import EngineRunner
from api.endpoint.protocol.requests import BASE_ALONE
from api.endpoint.protocol.schemas import VariantMemory
from api.endpoint.protocol.token_text import TokenText
from eda_service.config.deployment import EngineLimits
from eda_service.config.job import TargetSpec
from eda_service.decoding.engine import Engine
from eda_service.decoding.policy import Adaptive
from eda_service.raycluster.resources import release_free_memory, reserved_device
from eda_service.raycluster.serve_plan import ServedModel


@dataclass(frozen=True)
class Served:
    """A variant in the engine.

    Attributes:
        loaded_at: Seconds since the epoch.
    """

    variant: PreparedVariant
    loaded_at: int


class ServedGroup:
    """Loads, swaps and removes variants of one base. Making a group reads the base, which takes seconds.

    Args:
        base: Base target that the variants share.
        num_draft_tokens: Length of the longest chain of any variant; it never changes, because seeded answers depend on
            it.
        limits: Limits of the engine.

    Raises:
        EdaError: The target cannot be loaded, or torch sees none of the GPUs that Ray reserved.
    """

    def __init__(self, base: TargetSpec, num_draft_tokens: int, limits: EngineLimits) -> None:
        self.base = BaseGroup(base, reserved_device())
        target = self.base.target
        self.token_text = TokenText(target.tokenizer)
        engine = Engine(
            target,
            num_draft_tokens=num_draft_tokens,
            policy=Adaptive(read_confidence=target.device.type == "cpu"),
            max_batch=limits.batch,
            max_tokens=limits.context,
            one_order=True,
        )
        self.num_draft_tokens, self.max_model_len = num_draft_tokens, engine.max_tokens
        self.runner = EngineRunner(engine, num_threads=len(os.sched_getaffinity(0)), max_waiting=limits.waiting)
        self._served: dict[str, Served] = {}
        self._base_drafts: set[str] = set()

    @property
    def size_bytes(self) -> int:
        """Return the memory of the base target and the shared base drafts."""
        return self.base.size_bytes

    @property
    def keys(self) -> list[str]:
        """List the keys of the models that are served."""
        return sorted(self._served)

    async def put(self, model: ServedModel, adapter_dir: Path | None) -> ServedPair:
        """Serve a variant, or a new version of one: new requests get it, and running ones end on the old one.

        Raises:
            EdaError: The variant cannot be loaded or does not fit; the version served before stays.
        """
        try:
            served = Served(await self._add(model, adapter_dir), int(time.time()))
            self._served[model.key] = served
        finally:
            await self._drop_base_drafts()
        await asyncio.to_thread(release_free_memory)
        return self._pair_of(served)

    async def _add(self, model: ServedModel, adapter_dir: Path | None) -> PreparedVariant:
        """Read a variant and give it to the engine, whose stacks hold the adapter from then on. This is the last step
        that can fail; after it the variant replaces the one served before.
        """
        variant = await asyncio.to_thread(self.base.load, model, adapter_dir)
        if model.base_draft is not None and model.base_draft not in self._base_drafts:
            name, decoding_draft = _variant_of(model.base_draft), variant.base_decoding_draft
            await self.runner.call(lambda engine: engine.add_variant(name, decoding_draft=decoding_draft))
            self._base_drafts.add(model.base_draft)
        await self.runner.call(
            lambda engine: engine.add_variant(model.key, adapter=variant.adapter, decoding_draft=variant.decoding_draft)
        )
        return replace(variant, adapter=None)

    async def _drop_base_drafts(self) -> None:
        """Drop base drafts that no variant uses any more."""
        unused = self._base_drafts - {model.base_draft for model in self._models.values()}
        self._base_drafts -= unused  # first: what is submitted until the engine is told comes before that
        for name in map(_variant_of, sorted(unused)):
            await self.runner.call(functools.partial(Engine.remove_variant, name=name))
        self.base.keep_drafts(self._base_drafts)

    def _drafts_beside(self, model: ServedModel) -> dict[str, str]:
        """List the drafts that requests to a model may use in place of its own."""
        found = {each.pack: key for key, each in self._models.items() if each.pack is not None}
        if model.base_draft is None or model.base_draft not in self._base_drafts:
            return found
        return {**found, BASE_ALONE: _variant_of(model.base_draft)}

    @property
    def _models(self) -> dict[str, ServedModel]:
        return {key: served.variant.model for key, served in self._served.items()}

    async def remove(self, key: str) -> None:
        """Accept no more requests for a variant; a group without variants ends with its last request.

        Raises:
            EdaError: The engine has failed.
        """
        del self._served[key]
        await self.runner.call(lambda engine: engine.remove_variant(key))
        await self._drop_base_drafts()
        if not self._served:
            self.runner.retire()

    async def memory(self) -> list[VariantMemory]:
        """Return the memory of each variant beside the base.

        Raises:
            EdaError: The engine has failed.
        """
        loads = await self.runner.call(lambda engine: engine.variant_loads())
        return [
            VariantMemory(
                name=served.variant.model.name,
                uid=served.variant.model.uid,
                adapter_bytes=loads[key].adapter_bytes,
                pack_bytes=served.variant.pack_bytes,
                base_draft=served.variant.model.base_draft,
                pack=served.variant.model.pack,
                loaded_at=served.loaded_at,
                num_running=loads[key].num_requests,
            )
            for key, served in sorted(self._served.items(), key=lambda item: item[1].variant.model.name)
            if key in loads
        ]

    def _pair_of(self, served: Served) -> ServedPair:
        """Return a variant in the form that requests use."""
        model, target = served.variant.model, self.base.target
        return ServedPair(
            name=model.name,
            base_draft=model.base_draft,
            pack=model.pack,
            loaded_at=served.loaded_at,
            runner=self.runner,
            fingerprint=f"fp_{served.variant.weights_sha256[:10]}",
            tokenizer=target.tokenizer,
            token_text=self.token_text,
            num_spec_tokens=0 if model.base_draft is None else self.num_draft_tokens,
            max_model_len=self.max_model_len,
            variant=model.key,
            uid=model.uid,
            defaults=target.defaults,
            drafts=lambda: self._drafts_beside(model),
        )


def _variant_of(base_draft: str) -> str:
    """Return the engine's name for a base draft alone; a model's key has no colon."""
    return f"base:{base_draft}"
