"""Forms that a published pack can be exported to, and what is refused and why, before anything is made.

Configs and headers of files are read and no weights, and no torch is imported: the API says it while it answers. What
only the target's weights can tell (another target, a head with a bias) the export itself refuses, in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eda_service.config.job import Method, Mix, TrainConfig
from eda_service.drafts.dialects.names import VOCABULARY
from eda_service.drafts.dialects.record import Dialect
from eda_service.drafts.draft_config import DraftConfig, Eagle3Config, parse_draft_config
from eda_service.errors import ArtifactCorruptError, TargetIncompatibleError, UnsafeCheckpointError
from eda_service.export.engine_limits import refusal
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.export.forms import READ_BY, keeps_vocabulary, require_dialect
from eda_service.storage.inputs.tensor_header import read_header

_UNKNOWN = "the pack does not say which target it was made for; adapt it again with this version"


@dataclass(frozen=True)
class Offer:
    """One form for one destination.

    Attributes:
        to: Engine that will load the export.
        form: Plugin or dense.
        needs_answers: Whether the target answers prompts first, on which the form is calibrated and measured.
        dialects: Dialects that can be asked for; none for a draft that is written in one way.
        refused: Reason why the export is refused; None: it can be made.
    """

    to: Destination
    form: ExportForm
    needs_answers: bool
    dialects: tuple[Dialect, ...]
    refused: str | None


@dataclass(frozen=True)
class _Facts:
    """Facts about the draft that a pack makes, read from its files.

    Attributes:
        config: Config of its base draft.
        num_scored: Tokens that it scores; None: all.
        is_gated: Whether the weights of its experts depend on the input.
    """

    config: DraftConfig
    num_scored: int | None
    is_gated: bool


def offers_of(pack_dir: Path, base_dir: Path, *, is_target_known: bool) -> tuple[Offer, ...]:
    """Every form for every destination.

    Args:
        pack_dir: The pack's files.
        base_dir: Directory of its base draft.
        is_target_known: Whether the pack says which target it was made for.

    Raises:
        ArtifactCorruptError: A file cannot be read.
    """
    facts = _facts(pack_dir, base_dir)
    unknown = None if is_target_known else _UNKNOWN
    return tuple(
        _offer(facts, to, form, unknown) for to in Destination for form in (ExportForm.PLUGIN, ExportForm.DENSE)
    )


def refused_offers(reason: str) -> tuple[Offer, ...]:
    """Return every form for every destination, each refused with one reason."""
    return tuple(
        Offer(to, form, needs_answers=False, dialects=(), refused=reason)
        for to in Destination
        for form in (ExportForm.PLUGIN, ExportForm.DENSE)
    )


def _offer(facts: _Facts, to: Destination, form: ExportForm, unknown: str | None) -> Offer:
    config = facts.config
    keeps = facts.num_scored is None or keeps_vocabulary(config, to, form)
    has_dialects = isinstance(config, Eagle3Config) and form is ExportForm.DENSE
    return Offer(
        to=to,
        form=form,
        needs_answers=(form is ExportForm.DENSE and facts.is_gated) or not keeps,
        dialects=READ_BY[to] if has_dialects else (),
        refused=unknown or _refused(facts, to, form),
    )


def _refused(facts: _Facts, to: Destination, form: ExportForm) -> str | None:
    try:
        require_dialect(facts.config)
    except TargetIncompatibleError as error:
        return error.message
    return refusal(facts.config, facts.num_scored, to, form, has_head_bias=False)


def _facts(pack_dir: Path, base_dir: Path) -> _Facts:
    try:
        config = parse_draft_config((base_dir / "config.json").read_text(encoding="utf-8"))
        train = TrainConfig.model_validate_json((pack_dir / "pack.json").read_text(encoding="utf-8"))
        scored = read_header(pack_dir / "pack.safetensors").get(VOCABULARY)
        scored = scored or read_header(base_dir / "draft.safetensors").get(VOCABULARY)
    except (ValueError, OSError, UnsafeCheckpointError) as error:
        raise ArtifactCorruptError(f"the pack or its base draft cannot be read: {error}; publish it again") from error
    is_gated = train.method is Method.EDA and train.mix is Mix.SOFTMAX
    return _Facts(config, None if scored is None else scored.shape[0], is_gated)
