"""One deployment on vLLM: its target as a whole model, its draft as an export, and the vLLM that runs both.

Here vLLM holds one target with one draft, so a group has one model, and a new pack needs a new vLLM.
`vllm_shared_group` is the group of several models.
"""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.engines.vllm_runner import Loaded, VllmRunner
from api.endpoint.engines.vllm_start import StartPlan, size_of_weights, start_vllm
from api.endpoint.protocol.schemas import VariantMemory
from api.endpoint.protocol.token_text import TokenText
from eda_service.config.job import TargetSpec
from eda_service.engines.vllm_environment import require_vllm
from eda_service.export.cache import WholeTarget, vllm_draft, whole_target
from eda_service.export.files.eda_config import ExportForm
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.targets.chat.chat import load_stop_token_ids, load_tokenizer
from eda_service.targets.checks.check import load_config
from eda_service.targets.files.generation_defaults import (
    GenerationDefaults,
    read_generation_defaults,
    require_vllm_computes,
)


@dataclass(frozen=True)
class _Files:
    """The files that a vLLM reads, with the facts about them that requests need."""

    target: WholeTarget
    draft_dir: Path | None
    tokenizer: Any
    config: Any
    stop_ids: frozenset[int]
    defaults: GenerationDefaults


class VllmGroup:
    """Serves one model on vLLM. A new group has no vLLM; `put` starts it.

    Args:
        model: First version of the model.
        max_waiting: Largest number of requests that wait for a place.
    """

    def __init__(self, model: ServedModel, max_waiting: int) -> None:
        self._engine = model.engine
        self.runner = VllmRunner(max_running=model.engine.vllm.max_num_seqs, max_waiting=max_waiting)
        self._pair: ServedPair | None = None
        self._served: tuple[ServedModel, _Files] | None = None

    @property
    def keys(self) -> list[str]:
        """List the key of the served model."""
        return [] if self._pair is None or self._served is None else [self._served[0].key]

    @property
    def size_bytes(self) -> int:
        """Return the size of the target's weight files."""
        return 0 if self._served is None else size_of_weights(self._served[1].target.directory)

    async def put(self, model: ServedModel, adapter_dir: Path | None) -> ServedPair:
        """Serve a version: the earlier vLLM is drained and ended first, or runs on until its answers end.

        Raises:
            EngineMissingError: vLLM is not installed here.
            EngineStartError: The new vLLM did not start; the earlier version is started again.
            EdaError: Target or draft cannot be exported; the served version stays.
        """
        assert adapter_dir is None, "a whole target has its adapter merged"
        require_vllm("where this replica runs", param="engine")
        files = await asyncio.to_thread(_files, model)
        if self._engine.vllm.swap == "restart":
            before = None if self._served is None else functools.partial(self._start, *self._served)
            await self.runner.restart(functools.partial(self._start, model, files), before)
        else:
            self.runner.use(await self._start(model, files))
        self._served = model, files
        self._pair = self._pair_of(model, files)
        return self._pair

    async def remove(self, key: str) -> None:
        """Accept no more requests; vLLM ends with its last answer."""
        self._pair = None
        self.runner.retire()

    async def memory(self) -> list[VariantMemory]:
        """Return the size of the draft's files; vLLM does not report the memory that it uses for them."""
        if self._pair is None or self._served is None:
            return []
        draft_dir = self._served[1].draft_dir
        return [
            VariantMemory(
                name=self._pair.name,
                uid=self._pair.uid,
                adapter_bytes=0,
                pack_bytes=0 if draft_dir is None else size_of_weights(draft_dir),
                base_draft=self._pair.base_draft,
                pack=self._pair.pack,
                loaded_at=self._pair.loaded_at,
                num_running=self.runner.num_open,
            )
        ]

    async def _start(self, model: ServedModel, files: _Files) -> Loaded:
        return await start_vllm(
            StartPlan(
                name=model.name,
                what=model.pack or model.base_draft or "no draft",
                target=TargetSpec.model_validate(model.target),
                target_dir=files.target.directory,
                draft_dir=files.draft_dir,
                config=files.config,
                stop_token_ids=files.stop_ids,
                vocab_size=files.target.fingerprint.vocab_size,
                engine=self._engine,
            )
        )

    def _pair_of(self, model: ServedModel, files: _Files) -> ServedPair:
        loaded = self.runner.loaded
        assert loaded is not None, "it was just started"
        return ServedPair(
            name=model.name,
            base_draft=model.base_draft,
            pack=model.pack,
            loaded_at=int(time.time()),
            fingerprint=f"fp_{files.target.fingerprint.weights_sha256[:10]}",
            runner=self.runner,
            tokenizer=files.tokenizer,
            token_text=TokenText(files.tokenizer),
            num_spec_tokens=loaded.num_draft_tokens,
            max_model_len=loaded.max_model_len,
            uid=model.uid,
            defaults=files.defaults,
        )


def _files(model: ServedModel) -> _Files:
    """Return target and draft on disk; both are exported if they are not there yet."""
    spec, settings = TargetSpec.model_validate(model.target), model.engine.vllm
    target = whole_target(spec)
    defaults = read_generation_defaults(target.directory).within(target.fingerprint.vocab_size)
    require_vllm_computes(defaults)
    draft_dir = None
    if model.base_draft is not None:
        draft_dir = vllm_draft(
            model.pack or model.base_draft,
            target,
            spec,
            ExportForm(settings.form),
            num_draft_tokens=settings.num_draft_tokens,
        )
    tokenizer = load_tokenizer(target.directory)
    stop_ids = load_stop_token_ids(target.directory, tokenizer)
    return _Files(target, draft_dir, tokenizer, load_config(target.directory), stop_ids, defaults)
