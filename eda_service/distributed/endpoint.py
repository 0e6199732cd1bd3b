"""Build an engine for a target with a base draft and, if there is one, a pack."""

from __future__ import annotations

from pathlib import Path

import torch

from eda_service.artifacts.registry import find_draft, find_pack, read_draft_manifest, read_pack_manifest
from eda_service.config import AdaptConfig, TargetSpec, TreeConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.policy import Adaptive
from eda_service.errors import TargetIncompatibleError
from eda_service.model.checkpoint import LoadedDraft, for_inference, load_base_draft, load_pack
from eda_service.model.head import DraftHead
from eda_service.records import DraftManifest, TargetFingerprint
from eda_service.target.loader import Target, load_target

_DEFAULT_CHAIN = 5


def check_draft_fits(draft: DraftManifest, target: TargetFingerprint) -> None:
    """Refuse a base draft that was made for another kind of target, field by field.

    Raises:
        TargetIncompatibleError: A field differs; the message names all of them.
    """
    pairs = {
        "hidden_size": (draft.hidden_size, target.hidden_size),
        "vocab_size": (draft.vocab_size, target.vocab_size),
        "tokenizer_sha256": (draft.tokenizer_sha256, target.tokenizer_sha256),
    }
    wrong = [f"{name}: draft {str(a)[:12]}, target {str(b)[:12]}" for name, (a, b) in pairs.items() if a != b]
    if wrong:
        raise TargetIncompatibleError(
            f"base draft {draft.name}@{draft.version} does not fit {target.model}: {'; '.join(wrong)}; "
            "choose or train a base draft for this family",
            param="base_draft",
        )


def load_drafts(base_dir: Path, pack_dir: Path | None, *, target: Target) -> LoadedDraft:
    """A draft ready to decode beside a target, in the target's dtype."""
    if pack_dir is None:
        loaded = load_base_draft(base_dir, dtype=target.dtype)
    else:
        loaded = load_pack(base_dir, pack_dir, dtype=target.dtype)
    loaded.draft.to(target.device)
    return for_inference(loaded)


def make_engine(
    target: Target,
    loaded: LoadedDraft | None,
    *,
    num_draft_tokens: int,
    max_batch: int,
    max_tokens: int,
    tree: TreeConfig | None = None,
    adaptive: bool = False,
) -> Engine:
    """An engine over a loaded target: speculative with a draft, autoregressive without.

    Args:
        target: What decodes.
        loaded: Its draft, if any.
        num_draft_tokens: K, or the longest chain where depth adapts.
        max_batch: Live requests at once.
        max_tokens: Prompt plus answer of any request.
        tree: Draft trees instead of chains.
        adaptive: Draft as deep as pays, as an endpoint does; otherwise always K, as acceptance is measured.
    """
    head = None if loaded is None else DraftHead(target.head_weight, loaded.vocab_W)
    return Engine(
        target,
        None if loaded is None else loaded.draft,
        head,
        num_draft_tokens=num_draft_tokens,
        tree=tree,
        policy=Adaptive(read_confidence=target.device.type == "cpu" and tree is None) if adaptive else None,
        max_batch=max_batch,
        max_tokens=max_tokens,
    )


def load_engine(
    target: TargetSpec,
    base_draft: str | None,
    pack: str | None,
    *,
    num_draft_tokens: int | None = None,
    max_batch: int = 16,
    max_tokens: int = 2048,
) -> tuple[Engine, Target]:
    """Load everything an endpoint needs.

    Args:
        target: What to serve.
        base_draft: name@version; None serves autoregressively.
        pack: name@version of a published pack; None uses the base draft alone.
        num_draft_tokens: Longest chain; None: what the pack was timed with, or 5 without a pack.
        max_batch: Live requests at once.
        max_tokens: Prompt plus answer of any request.

    Raises:
        TargetIncompatibleError: Draft or pack was made for another target.
        ArtifactCorruptError: A file does not match its manifest.
    """
    loaded_target = load_target(target, device="cuda" if torch.cuda.is_available() else "cpu")
    if base_draft is None:
        engine = make_engine(loaded_target, None, num_draft_tokens=0, max_batch=max_batch, max_tokens=max_tokens)
        return engine, loaded_target
    base_dir = find_draft(base_draft)
    check_draft_fits(read_draft_manifest(base_dir), loaded_target.fingerprint)
    pack_dir = None if pack is None else find_pack(pack)
    chain = num_draft_tokens or _DEFAULT_CHAIN
    if pack_dir is not None:
        manifest = read_pack_manifest(pack_dir)
        made_for = manifest.target
        chain = num_draft_tokens or AdaptConfig.model_validate(manifest.config).evaluation.serving_chain
        if made_for.weights_sha256 != loaded_target.fingerprint.weights_sha256:
            raise TargetIncompatibleError(
                f"pack {pack} was made for {made_for.model} with weights {made_for.weights_sha256[:12]}, this target "
                f"has {loaded_target.fingerprint.weights_sha256[:12]}; adapt again",
                param="pack",
            )
    loaded = load_drafts(base_dir, pack_dir, target=loaded_target)
    engine = make_engine(
        loaded_target, loaded, num_draft_tokens=chain, max_batch=max_batch, max_tokens=max_tokens, adaptive=True
    )
    return engine, loaded_target
