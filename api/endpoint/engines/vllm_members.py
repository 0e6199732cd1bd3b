"""Models that share a vLLM, described by their files, and the check that there is room for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eda_service.config.deployment import VllmConfig
from eda_service.config.job import TargetSpec
from eda_service.errors import InputError, TargetIncompatibleError
from eda_service.export.cache import WholeTarget, vllm_draft
from eda_service.export.command import ServedAdapter
from eda_service.export.files.eda_config import ExportForm
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.records import TargetFingerprint
from eda_service.targets.chat.chat import load_stop_token_ids, speaks_as_base, target_tokenizer
from eda_service.targets.checks.check import load_config
from eda_service.targets.files.generation_defaults import (
    GenerationDefaults,
    read_generation_defaults,
    require_vllm_computes,
)
from eda_service.targets.files.identity import fingerprint
from eda_service.targets.files.resolve import resolve_target


@dataclass(frozen=True)
class Member:
    """One model of the group, described by its files.

    Attributes:
        adapter_dir: Directory of the adapter; None: the base target without one.
        fingerprint: Hash of the weights of base and adapter.
    """

    model: ServedModel
    adapter_dir: Path | None
    fingerprint: TargetFingerprint
    tokenizer: Any
    defaults: GenerationDefaults

    @property
    def spec(self) -> TargetSpec:
        """Return the target with its adapter."""
        return TargetSpec.model_validate(self.model.target)


@dataclass(frozen=True)
class Base:
    """The base target of all members.

    Attributes:
        whole: Directory and hash of the base target.
        config: Config of the base target.
    """

    spec: TargetSpec
    whole: WholeTarget
    config: Any
    stop_ids: frozenset[int]


def check_room(member: Member, members: Iterable[Member], settings: VllmConfig) -> None:
    """Refuse a model for which a vLLM has no room, whichever other models it serves.

    Args:
        member: The model.
        members: Members of the group; an earlier version of the model may be among them.
        settings: Settings of the group.

    Raises:
        InputError: The adapter does not fit: too many adapters, or its rank is too large.
        TargetIncompatibleError: The model has a pack and no adapter by which vLLM could choose the pack.
    """
    model = member.model
    if member.adapter_dir is None:
        if model.pack is not None:
            raise TargetIncompatibleError(
                f"{model.pack} is for {member.spec.model} itself, and a vLLM that several deployments share chooses a "
                "pack by a request's adapter; deploy it with vllm.max_adapters 1",
                param="vllm.max_adapters",
            )
        return
    others = sum(each.adapter_dir is not None and each.model.key != model.key for each in members)
    if others >= settings.max_adapters:  # whose they are is not said: they may be another owner's
        raise InputError(
            f"{model.name} would be one adapter too many: this vLLM has room for {settings.max_adapters}, and other "
            "deployments have it; delete one of yours, or deploy with another vllm.max_adapters, which is another vLLM",
            param="vllm.max_adapters",
        )
    rank = ServedAdapter(model.name, member.adapter_dir).rank
    if rank > settings.max_adapter_rank:
        raise InputError(
            f"the adapter of {model.name} has rank {rank}, and this vLLM takes ranks up to "
            f"{settings.max_adapter_rank}; deploy all with a larger vllm.max_adapter_rank",
            param="vllm.max_adapter_rank",
        )


def base_of(spec: TargetSpec) -> Base:
    """Return the base target on disk.

    Raises:
        EdaError: The base target cannot be found or read.
    """
    resolved = resolve_target(spec)
    config, tokenizer = load_config(resolved.model_dir), target_tokenizer(resolved)
    whole = WholeTarget(resolved.model_dir, fingerprint(resolved, tokenizer, config))
    return Base(spec, whole, config, load_stop_token_ids(resolved.model_dir, tokenizer))


def member_of(model: ServedModel, adapter_dir: Path | None, base: Base) -> Member:
    """Return one model described by its files.

    Raises:
        TargetIncompatibleError: The adapter adds tokens or a chat template of its own.
        EdaError: The adapter cannot be found or read.
    """
    resolved = resolve_target(TargetSpec.model_validate(model.target))
    if not speaks_as_base(resolved):
        raise TargetIncompatibleError(
            f"the adapter of {model.name} brings a tokenizer or a chat template of its own, and deployments that "
            "share a vLLM speak as their base does; deploy it with vllm.max_adapters 1",
            param="vllm.max_adapters",
        )
    tokenizer = target_tokenizer(resolved)
    made = fingerprint(resolved, tokenizer, base.config)
    defaults = read_generation_defaults(resolved.model_dir).within(made.vocab_size)
    require_vllm_computes(defaults)
    return Member(model, adapter_dir, made, tokenizer, defaults)


def export_of_pack(pack: str, member: Member) -> Path:
    """Return the export of one pack, from which a running draft takes the pack's weights.

    Raises:
        EdaError: The pack is not there, or was made for another target.
    """
    whole = WholeTarget(resolve_target(member.spec).model_dir, member.fingerprint)
    return vllm_draft(pack, whole, member.spec, ExportForm.PLUGIN, num_draft_tokens=0)
