"""One base target and what is served over it: reads adapters, base drafts and packs into the form an engine takes.

Where a target belongs: a LoRA adapter that can be stacked shares its base with others; any other target is a base of
its own, merged when it is loaded (ADR 0013).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from eda_service.config.job import AdaptConfig, DeviceName, TargetSpec
from eda_service.decoding.build import DEFAULT_CHAIN, load_drafts
from eda_service.decoding.fused.kinds import adapted_parts, shared_parts, whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.head import DraftHead
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.records import PackManifest, TargetFingerprint
from eda_service.storage.published.compatibility import check_draft_fits, check_pack_fits
from eda_service.storage.published.registry import find_draft, find_pack, read_draft_manifest, read_pack_manifest
from eda_service.targets.adapters.adapter import Adapter, is_stackable, read_adapter, unstackable_reason
from eda_service.targets.chat.chat import speaks_as_base
from eda_service.targets.decoder.fused import is_fused
from eda_service.targets.device import choose_device
from eda_service.targets.files.identity import fingerprint
from eda_service.targets.files.resolve import ResolvedTarget, resolve_target
from eda_service.targets.loader import Target, load_target


@dataclass(frozen=True)
class Place:
    """The base model and adapter by which a target is served.

    Attributes:
        base: Base target, loaded once for all targets on it.
        adapter_dir: Directory of the adapter added to the base for this target; None: no adapter.
    """

    base: TargetSpec
    adapter_dir: Path | None


def place_of(spec: TargetSpec) -> Place:
    """Return the base that a target shares, or the target itself where it cannot share one.

    Raises:
        TargetNotFoundError: No such target or adapter.
        TargetIncompatibleError: The target is not a decoder-only model, or the adapter is not a LoRA adapter.
    """
    resolved = resolve_target(spec)
    if resolved.adapter_dir is None:
        return Place(spec, None)
    settings = json.loads((resolved.adapter_dir / "adapter_config.json").read_text(encoding="utf-8"))
    model = json.loads((resolved.model_dir / "config.json").read_text(encoding="utf-8"))
    fused = is_fused(model["model_type"], model.get("hidden_act", "silu"))
    if not fused or unstackable_reason(settings) is not None or not is_stackable(resolved.adapter_dir):
        return Place(spec, None)
    if not speaks_as_base(resolved):
        return Place(spec, None)
    return _beside_base(spec, resolved)


def beside_base(spec: TargetSpec) -> Place:
    """Return the base of a target, and its adapter if it has one, also where the project's own engine cannot stack it.

    Raises:
        TargetNotFoundError: No such target or adapter.
        TargetIncompatibleError: The target is not a decoder-only model, or the adapter is not a LoRA adapter.
    """
    return _beside_base(spec, resolve_target(spec))


def _beside_base(spec: TargetSpec, resolved: ResolvedTarget) -> Place:
    return Place(TargetSpec(model=resolved.model, revision=spec.revision, dtype=spec.dtype), resolved.adapter_dir)


@dataclass(frozen=True)
class PreparedVariant:
    """A served model ready for an engine.

    Attributes:
        base_decoding_draft: Decoding draft of the base draft alone, without the pack.
        pack_bytes: Memory in bytes of the draft beside the shared base draft.
        weights_sha256: Hash of the weights of base and adapter.
    """

    model: ServedModel
    adapter: Adapter | None
    decoding_draft: DecodingDraft | None
    pack_bytes: int
    weights_sha256: str
    base_decoding_draft: DecodingDraft | None = None


class BaseGroup:
    """A base target with the base drafts its variants share.

    Args:
        base: Base target to load.
        device: Device that the base is loaded on.

    Raises:
        InputError: `device` is cuda and this process sees no GPU.
        TargetNotFoundError: No such target.
        TargetIncompatibleError: The target is not a decoder-only model that this code can run.
    """

    def __init__(self, base: TargetSpec, device: DeviceName = "auto") -> None:
        self.target: Target = load_target(base, device=choose_device(device))
        self._drafts: dict[str, DecodingDraft] = {}
        self._heads: WeakValueDictionary[str, DraftHead] = WeakValueDictionary()

    @property
    def size_bytes(self) -> int:
        """Return the memory of the target and the shared base drafts."""
        return self.target.size_bytes + sum(decoding_draft.own_bytes(None) for decoding_draft in self._drafts.values())

    def load(self, model: ServedModel, adapter_dir: Path | None) -> PreparedVariant:
        """Read a variant's adapter, base draft and pack.

        Raises:
            TargetIncompatibleError: Adapter, base draft or pack was made for another target.
            ArtifactCorruptError: A file does not match its manifest.
            NotFoundError: No such pack or base draft.
        """
        adapter = None
        resolved = resolve_target(TargetSpec.model_validate(model.target))
        if adapter_dir is not None:
            adapter = read_adapter(adapter_dir, dtype=self.target.dtype, device=self.target.device)
        made = fingerprint(resolved, self.target.tokenizer, self.target.config)
        if model.base_draft is None:
            return PreparedVariant(model, adapter, None, 0, made.weights_sha256)
        base = self._base_draft(model.base_draft)
        decoding_draft = base if model.pack is None else self._adapted_draft(model.pack, model.base_draft, made)
        own_bytes = decoding_draft.own_bytes(base) if model.pack else 0
        return PreparedVariant(model, adapter, decoding_draft, own_bytes, made.weights_sha256, base)

    def keep_drafts(self, base_drafts: Collection[str]) -> None:
        """Drop all base drafts but these. Running requests keep theirs until they end, an engine its first one."""
        self._drafts = {name: decoding_draft for name, decoding_draft in self._drafts.items() if name in base_drafts}

    def _base_draft(self, base_draft: str) -> DecodingDraft:
        if base_draft not in self._drafts:
            directory = find_draft(base_draft)
            check_draft_fits(read_draft_manifest(directory), self.target.fingerprint)
            loaded = load_drafts(directory, None, target=self.target)
            self._drafts[base_draft] = DecodingDraft(shared_parts(loaded.draft), self._head(loaded))
        return self._drafts[base_draft]

    def _adapted_draft(self, pack: str, base_draft: str, made: TargetFingerprint) -> DecodingDraft:
        directory = find_pack(pack)
        check_pack_fits(read_pack_manifest(directory), made)
        loaded = load_drafts(find_draft(base_draft), directory, target=self.target)
        if loaded.trained is None:
            return DecodingDraft(whole_parts(loaded.draft), self._head(loaded))
        base = self._drafts[base_draft]
        parts = adapted_parts(loaded.draft, base.parts, loaded.trained)
        return DecodingDraft(parts, base.head if loaded.has_head_of_base else self._head(loaded))

    def _head(self, loaded: LoadedDraft) -> DraftHead:
        """Return the head of a draft; heads of equal draft vocabularies over the target's rows are held once."""
        draft, vocab_W = loaded.draft, loaded.vocab_W
        if draft.places.head:
            return draft.head(self.target.lm_head, vocab_W)
        key = "all" if vocab_W is None else hashlib.sha256(vocab_W.numpy().tobytes()).hexdigest()
        head = self._heads.get(key)
        if head is None:
            head = draft.head(self.target.lm_head, vocab_W)
            self._heads[key] = head
        return head


def serving_chain(model: ServedModel) -> int:
    """Return the longest chain of a model: the length that its pack was timed with.

    Raises:
        NotFoundError: No such pack.
        ArtifactCorruptError: The pack's manifest does not parse.
    """
    if model.pack is None:
        return DEFAULT_CHAIN
    manifest: PackManifest = read_pack_manifest(find_pack(model.pack))
    return AdaptConfig.model_validate(manifest.config).evaluation.serving_chain
