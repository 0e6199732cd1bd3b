"""Deployments that share one vLLM: their base target once, a LoRA adapter and a pack for each (ADR 0041).

The draft is an export of the base draft with packs, of which vLLM's worker chooses one by a request's adapter. A later
model, and a new pack, are put into the running vLLM between two of its steps; running answers then go on with the new
pack, which does not change their text. Where the running draft has no room for a pack of that kind, vLLM is drained and
starts again with an export of all packs together.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.engines.vllm_members import Base, Member, base_of, check_room, export_of_pack, member_of
from api.endpoint.engines.vllm_runner import Loaded, LoraAdapter, VllmRunner
from api.endpoint.engines.vllm_start import EngineStartError, StartPlan, size_of_weights, start_vllm
from api.endpoint.protocol.schemas import VariantMemory
from api.endpoint.protocol.token_text import TokenText
from eda_service.config.job import TargetSpec
from eda_service.engines.vllm_environment import require_vllm
from eda_service.export.cache import vllm_draft, vllm_packs
from eda_service.export.files.eda_config import ExportForm
from eda_service.export.packed.packs_over import AdaptersPack
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.storage.published.registry import find_pack

logger = logging.getLogger(__name__)


class SharedVllmGroup:
    """Serves several models on one vLLM. A new group has no vLLM; the first `put` starts it.

    Args:
        model: First model of the group.
        base: Base target that all models share, without an adapter.
        max_waiting: Largest number of requests that wait for a place.
    """

    def __init__(self, model: ServedModel, base: TargetSpec, max_waiting: int) -> None:
        self._engine, self._base_spec, self._base_draft = model.engine, base, model.base_draft
        self.runner = VllmRunner(max_running=model.engine.vllm.max_num_seqs, max_waiting=max_waiting)
        self._members: dict[str, Member] = {}
        self._pairs: dict[str, ServedPair] = {}
        self._base: Base | None = None
        self._numbers = itertools.count(1)

    @property
    def keys(self) -> list[str]:
        """List the keys of the models that are served."""
        return sorted(self._members)

    @property
    def size_bytes(self) -> int:
        """Return the size of the base target's weight files."""
        return 0 if self._base is None else size_of_weights(self._base.whole.directory)

    async def put(self, model: ServedModel, adapter_dir: Path | None) -> ServedPair:
        """Serve a model, or a new pack of one, in the running vLLM, or in a new one where that has no room for it.

        Raises:
            EngineMissingError: vLLM is not installed here.
            EngineStartError: The new vLLM did not start; the earlier one is started again.
            InputError: The adapter does not fit: too many adapters, or its rank is too large.
            EdaError: Adapter, draft or pack do not fit; the served models stay.
        """
        require_vllm("where this replica runs", param="engine")
        if self._base is None:
            self._base = await asyncio.to_thread(base_of, self._base_spec)
        member = await asyncio.to_thread(member_of, model, adapter_dir, self._base)
        check_room(member, self._members.values(), self._engine.vllm)
        if self.runner.loaded is None or not await self._took(self.runner.loaded, member):
            before = functools.partial(self._start, self._members) if self._members else None
            await self.runner.restart(functools.partial(self._start, self._members | {model.key: member}), before)
        self._members[model.key] = member
        self._pairs[model.key] = self._pair_of(member)
        return self._pairs[model.key]

    async def remove(self, key: str) -> None:
        """Accept no more requests for a model; vLLM ends with the last answer of the last model."""
        member, loaded = self._members.pop(key), self.runner.loaded
        self._pairs.pop(key, None)
        if not self._members:
            self.runner.retire()
        elif loaded is not None and member.model.pack is not None:
            # Answers that run keep their adapter, and draft with the base draft until they end. vLLM lets the adapter
            # itself go for another one; a pack that is not removed keeps its place until vLLM starts again.
            await self._called(loaded, "remove_pack", key)

    async def memory(self) -> list[VariantMemory]:
        """Return the size of the adapters' and packs' files; vLLM does not report the memory that it uses for them."""
        running = self.runner.open_by_model()
        return [
            VariantMemory(
                name=member.model.name,
                uid=member.model.uid,
                adapter_bytes=0 if member.adapter_dir is None else size_of_weights(member.adapter_dir),
                pack_bytes=0 if member.model.pack is None else size_of_weights(find_pack(member.model.pack)),
                base_draft=member.model.base_draft,
                pack=member.model.pack,
                loaded_at=self._pairs[key].loaded_at,
                num_running=sum(count for (uid, _, _), count in running.items() if uid == member.model.uid),
            )
            for key, member in sorted(self._members.items(), key=lambda item: item[1].model.name)
        ]

    async def _took(self, loaded: Loaded, member: Member) -> bool:
        """Put a model into the running vLLM; returns whether that worked, which needs room for the pack."""
        key, pack = member.model.key, member.model.pack
        if pack is not None and not loaded.takes_packs:
            return False
        directory = None if pack is None else await asyncio.to_thread(export_of_pack, pack, member)
        before = loaded.adapters.get(key)
        adapter = before
        if member.adapter_dir is not None and (before is None or before.directory != member.adapter_dir):
            adapter = await self._add(loaded, member)
        if directory is not None:
            has_done = await self._called(loaded, "put_pack", key, str(directory))
        else:
            has_done = not self._has_pack(key) or await self._called(loaded, "remove_pack", key)
        if has_done and adapter is not None:
            loaded.adapters[key] = adapter
        return has_done

    def _has_pack(self, key: str) -> bool:
        return key in self._members and self._members[key].model.pack is not None

    @staticmethod
    async def _called(loaded: Loaded, method: str, *arguments: str) -> bool:
        """Call a method about a pack in vLLM's workers; returns whether they did it."""
        try:
            await loaded.source.call(method, *arguments)
        except Exception as error:  # of another process, whose error has no class here
            logger.warning("vLLM refuses %s for %s: %s", method, arguments[0], error)
            return False
        return True

    async def _start(self, members: Mapping[str, Member]) -> Loaded:
        """Start a vLLM for these members, with their adapters and packs."""
        assert self._base is not None
        base, packs = self._base, [each for each in members.values() if each.model.pack is not None]
        draft_dir = await asyncio.to_thread(self._draft_of, packs)
        loaded = await start_vllm(
            StartPlan(
                name=", ".join(sorted(each.model.name for each in members.values())),
                what=self._what(len(packs)),
                target=base.spec,
                target_dir=base.whole.directory,
                draft_dir=draft_dir,
                config=base.config,
                stop_token_ids=base.stop_ids,
                vocab_size=base.whole.fingerprint.vocab_size,
                engine=self._engine,
                takes_adapters=True,
            )
        )
        try:
            for key, member in members.items():
                if member.adapter_dir is not None:
                    loaded.adapters[key] = await self._add(loaded, member)
        except BaseException:
            await loaded.source.shutdown()
            raise
        loaded.takes_packs = bool(packs)
        return loaded

    async def _add(self, loaded: Loaded, member: Member) -> LoraAdapter:
        """Load an adapter into a vLLM before the first request for it."""
        assert member.adapter_dir is not None
        adapter = LoraAdapter(member.model.key, next(self._numbers), member.adapter_dir)
        try:
            await loaded.source.add_adapter(adapter)
        except Exception as error:  # of another process, whose error has no class here
            raise EngineStartError(
                f"vLLM does not take the adapter of {member.model.name}: {error}; deploy it with vllm.max_adapters 1, "
                "which merges it"
            ) from error
        return adapter

    def _what(self, num_packs: int) -> str:
        """Describe the draft that vLLM starts with, for an error shown to one owner: packs may belong to others."""
        return f"{self._base_draft or 'no draft'} and {num_packs} pack{'s' * (num_packs != 1)} over it"

    def _draft_of(self, packs: list[Member]) -> Path | None:
        """Return the export of the draft that vLLM starts with."""
        assert self._base is not None
        if self._base_draft is None:
            return None
        if not packs:
            return vllm_draft(
                self._base_draft, self._base.whole, self._base.spec, ExportForm.PLUGIN, num_draft_tokens=0
            )
        named = [AdaptersPack(each.model.key, str(each.model.pack), target=each.spec) for each in packs]
        return vllm_packs(self._base_draft, self._base.spec, named, places=self._engine.vllm.max_adapters)

    def _pair_of(self, member: Member) -> ServedPair:
        loaded = self.runner.loaded
        assert loaded is not None, "it was just started"
        model, has_draft = member.model, member.model.base_draft is not None
        return ServedPair(
            name=model.name,
            base_draft=model.base_draft,
            pack=model.pack,
            loaded_at=int(time.time()),
            fingerprint=f"fp_{member.fingerprint.weights_sha256[:10]}",
            runner=self.runner,
            tokenizer=member.tokenizer,
            token_text=TokenText(member.tokenizer),
            num_spec_tokens=loaded.num_draft_tokens if has_draft else 0,
            max_model_len=loaded.max_model_len,
            variant=model.key,
            uid=model.uid,
            defaults=member.defaults,
        )
