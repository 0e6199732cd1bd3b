"""Whether a base draft or a pack was made for a target, field by field."""

from __future__ import annotations

from eda_service.errors import TargetIncompatibleError
from eda_service.records import DraftManifest, PackManifest, TargetFingerprint


def check_draft_fits(draft: DraftManifest, target: TargetFingerprint) -> None:
    """Refuse a base draft that was made for another kind of target.

    Raises:
        TargetIncompatibleError: A field differs; the message names all of them.
    """
    pairs = {
        "hidden_size": (draft.hidden_size, target.hidden_size),
        "vocab_size": (draft.vocab_size, target.vocab_size),
        "tokenizer_sha256": (draft.tokenizer_sha256, target.tokenizer_sha256),
    }
    wrong = _differing(pairs, "draft")
    if wrong:
        raise TargetIncompatibleError(
            f"base draft {draft.name}@{draft.version} does not fit {target.model}: {wrong}; "
            "choose or train a base draft for this family",
            param="base_draft",
        )


def check_pack_fits(pack: PackManifest, target: TargetFingerprint) -> None:
    """Refuse a target that is not the very one a pack was made for.

    Raises:
        TargetIncompatibleError: A field differs; the message names all of them.
    """
    fields = ("weights_sha256", "tokenizer_sha256", "hidden_size", "vocab_size")
    wrong = _differing({name: (getattr(pack.target, name), getattr(target, name)) for name in fields}, "pack")
    if wrong:
        raise TargetIncompatibleError(
            f"pack {pack.pack} was made for another target than {target.model}: {wrong}; name its own target, or adapt "
            "again",
            param="target",
        )


def _differing(pairs: dict[str, tuple[object, object]], whose: str) -> str:
    return "; ".join(f"{name}: {whose} {str(a)[:12]}, target {str(b)[:12]}" for name, (a, b) in pairs.items() if a != b)
