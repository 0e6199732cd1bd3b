"""Packs that may share one base draft inside vLLM: found, and checked against it and against the target.

A pack's own parts are its private expert and gate; for EAGLE-1 also fc and the draft vocabulary. Other trained parts
have no place in an export of several (`several`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from eda_service.config.job import Method, TargetSpec
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.drafts.freezing import is_within
from eda_service.errors import InputError, TargetIncompatibleError
from eda_service.export.source import Source, find_source
from eda_service.records import TargetFingerprint
from eda_service.targets.chat.chat import target_tokenizer
from eda_service.targets.checks.check import load_config
from eda_service.targets.ends import TargetEnds
from eda_service.targets.files.identity import fingerprint
from eda_service.targets.files.resolve import resolve_target


@dataclass(frozen=True)
class AdaptersPack:
    """The pack that drafts for an adapter.

    Attributes:
        adapter: The adapter's name in vLLM, as in `--lora-modules NAME=PATH`.
        reference: Pack as name@version.
        lora: LoRA adapter; None: that of the target that the pack names.
        target: Target with that adapter; None: the one in `lora`.
    """

    adapter: str
    reference: str
    lora: str | None = None
    target: TargetSpec | None = None


@dataclass(frozen=True)
class FoundPack:
    """A pack that fits, its adapter's name and directory, and the target with that adapter."""

    adapter: str
    source: Source
    adapter_dir: Path
    verifier: TargetFingerprint


def find_pack_over(pack: AdaptersPack, base: Source, target: TargetEnds, home: Path | None = None) -> FoundPack:
    """Find a pack and check that it fits beside others.

    Args:
        pack: Pack, and the adapter that it is for.
        base: Base draft of all packs.
        target: The base target, without an adapter.
        home: Root of the registry; None: EDA_HOME.

    Raises:
        NotFoundError: The pack does not exist.
        InputError: The pack is over another base draft, has trained parts that packs share, or does not name its
            adapter.
        TargetIncompatibleError: The pack is not for an adapter on this target.
    """
    source = find_source(pack.reference, home)
    _check_shares(source, base)
    spec = pack.target or source.target
    if pack.lora is not None:
        spec = target.spec.model_copy(update={"adapter": pack.lora})
    if spec is None:
        raise InputError(
            f"{source.reference} does not say which adapter it was made for; name it with --lora "
            f"{pack.adapter}=ADAPTER",
            param="lora",
        )
    resolved = resolve_target(spec)
    if resolved.adapter_dir is None:
        raise TargetIncompatibleError(
            f"{source.reference} was made for {spec.model}, a whole model and no LoRA adapter, and vLLM serves one "
            "model; export that pack by itself",
            param="pack",
        )
    tokenizer, config = target_tokenizer(resolved), load_config(resolved.model_dir)
    verifier = fingerprint(resolved, tokenizer, config)
    source.check(verifier)
    bare = fingerprint(dataclasses.replace(resolved, adapter_dir=None, adapter=None), tokenizer, config)
    if bare.weights_sha256 != target.fingerprint.weights_sha256:
        raise TargetIncompatibleError(
            f"{source.reference} was made for an adapter on {resolved.model}, which has other weights than "
            f"{target.fingerprint.model}; name the adapter's own base with --target",
            param="target",
        )
    return FoundPack(pack.adapter, source, resolved.adapter_dir, verifier)


def _check_shares(source: Source, base: Source) -> None:
    """Refuse a pack that has changed more of the draft than there are places for."""
    if source.method != Method.EDA:
        raise InputError(
            f"{source.reference} was made with the method {source.method}, which has no private expert beside a shared "
            "one; only packs of the method eda share a base draft. Export it by itself",
            param="pack",
        )
    if source.base_draft != base.reference:
        raise InputError(
            f"{source.reference} is over the base draft {source.base_draft}, not over {base.reference}; packs of one "
            "export share one base draft",
            param="pack",
        )
    draft = source.loaded.draft
    places, is_eagle3 = draft.places, isinstance(draft.config, Eagle3Config)
    own = [f"{places.ffn}.private", f"{places.ffn}.gate", *([] if is_eagle3 else places.fuse)]
    others = sorted(name for name in source.loaded.trained or () if not is_within(name, own))
    if others:
        raise InputError(
            f"{source.reference} has trained {', '.join(others)} of its own, which all packs of one export share; "
            "export it by itself, or adapt again without train.train_attention, train.extend_draft_vocab and, over "
            "an EAGLE-3 draft, train.train_fc",
            param="pack",
        )
    if is_eagle3 and token_ids(source.loaded.vocab_W) != token_ids(base.loaded.vocab_W):
        raise InputError(
            f"{source.reference} scores other tokens than {base.reference}, and an EAGLE-3 draft has one head for all "
            "packs; export it by itself",
            param="pack",
        )


def token_ids(vocab_W: Tensor | None) -> list[int] | None:
    """List the ids of a draft vocabulary, to compare; None for all tokens."""
    return None if vocab_W is None else vocab_W.tolist()
