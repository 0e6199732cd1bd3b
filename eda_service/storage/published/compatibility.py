"""The check that a base draft or a pack was made for a target, field by field."""

from __future__ import annotations

from collections.abc import Mapping

from eda_service.errors import TargetIncompatibleError
from eda_service.records import DraftManifest, PackManifest, TargetFingerprint


def check_draft_fits(draft: DraftManifest, target: TargetFingerprint) -> None:
    """Refuse a base draft that was made for another kind of target. The tokenizer is not compared if the draft was
    imported where its target's tokenizer was absent.

    Raises:
        TargetIncompatibleError: A field differs; the message names all of them.
    """
    fields = ("hidden_size", "vocab_size", "tokenizer_sha256")
    check_draft_sizes(draft, target.model, {name: getattr(target, name) for name in fields})


def check_draft_sizes(draft: DraftManifest, model: str, known: Mapping[str, object]) -> None:
    """Check the known fields of a target whose files are not on this machine yet.

    Args:
        draft: The base draft.
        model: Name of the target, for the message.
        known: Known values of hidden_size, vocab_size and tokenizer_sha256.

    Raises:
        TargetIncompatibleError: A field differs; the message names all of them.
    """
    pairs = {name: (getattr(draft, name), value) for name, value in known.items()}
    if not draft.tokenizer_sha256:
        pairs.pop("tokenizer_sha256", None)
    wrong = _differing(pairs, "draft")
    if wrong:
        raise TargetIncompatibleError(
            f"base draft {draft.name}@{draft.version} does not fit {model}: {wrong}; "
            "choose or train a base draft for this family",
            param="base_draft",
        )


def check_pack_fits(pack: PackManifest, target: TargetFingerprint) -> None:
    """Refuse a target that is not exactly the one a pack was made for.

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
