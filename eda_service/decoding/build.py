"""Build an engine for a target with one draft or none."""

from __future__ import annotations

from pathlib import Path

from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.policy import Adaptive
from eda_service.drafts.checkpoint import LoadedDraft, for_inference, load_base_draft, load_pack, load_start
from eda_service.drafts.compatibility import check_reads
from eda_service.drafts.draft import Draft
from eda_service.targets.ends import TargetEnds
from eda_service.targets.loader import Target

DEFAULT_CHAIN = 5


def load_drafts(base_dir: Path, pack_dir: Path | None, *, target: TargetEnds) -> LoadedDraft:
    """Load a draft ready to decode beside a target, in the target's dtype.

    Raises:
        TargetIncompatibleError: The draft reads layers that the target does not have.
    """
    if pack_dir is None:
        loaded = load_base_draft(base_dir, dtype=target.dtype)
    else:
        loaded = load_pack(base_dir, pack_dir, dtype=target.dtype)
    check_reads(loaded.draft.config, target.config.num_hidden_layers)
    loaded.draft.to(target.device)
    return for_inference(loaded)


def load_first_step(base_dir: Path, *, target: TargetEnds) -> Draft:
    """Load the part of a base draft that makes its first state from the target's states.

    It has the target's device and dtype.

    Raises:
        TargetIncompatibleError: The draft reads layers that the target does not have.
    """
    draft = load_start(base_dir, dtype=target.dtype, device=target.device)
    check_reads(draft.config, target.config.num_hidden_layers)
    return draft


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
    """Make an engine over a loaded target: speculative with a draft, autoregressive without.

    Args:
        target: The target that decodes.
        loaded: The target's draft; None decodes autoregressively.
        num_draft_tokens: K, or the longest chain where depth adapts.
        max_batch: Largest number of requests that are decoded at the same time.
        max_tokens: Largest sum of prompt and answer tokens of a request.
        tree: Shape of draft trees; None drafts chains.
        adaptive: Choose the depth of each round by its measured gain, as an endpoint does; otherwise the depth is
            always K, as measurements of acceptance need it.
    """
    head = None if loaded is None else loaded.draft.head(target.lm_head, loaded.vocab_W)
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
