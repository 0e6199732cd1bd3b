"""Forms in which a draft can be exported, by its config alone: a refusal is known before anything is loaded.

Imports no torch, for the API's sake.
"""

from __future__ import annotations

from eda_service.drafts.dialects.record import Dialect, DialectRecord
from eda_service.drafts.draft_config import DraftConfig, Eagle1Config, Eagle3Config
from eda_service.errors import InputError, TargetIncompatibleError
from eda_service.export.files.eda_config import Destination, ExportForm

DEFAULT_DIALECT = Dialect.MODELOPT
READ_BY = {
    Destination.VLLM: (Dialect.EAGLE3, Dialect.SPECFORGE, Dialect.ANGELSLIM, Dialect.SPECULATORS, Dialect.MODELOPT),
    Destination.SGLANG: (Dialect.EAGLE3, Dialect.SPECFORGE, Dialect.ANGELSLIM, Dialect.MODELOPT),
    Destination.HF: tuple(each for each in Dialect if each is not Dialect.EAGLE1),
}


def require_dialect(config: DraftConfig) -> None:
    """Refuse a kind of draft that no engine would read in this dialect.

    Raises:
        TargetIncompatibleError: The draft is neither EAGLE-1 nor EAGLE-3.
    """
    if not isinstance(config, Eagle1Config | Eagle3Config):
        raise TargetIncompatibleError(
            f"a draft of kind {config.kind} has no form that vLLM or SGLang reads yet; export drafts of kind eagle1 or "
            "eagle3",
            param="name",
        )


def keeps_vocabulary(config: DraftConfig, destination: Destination, form: ExportForm) -> bool:
    """Whether a draft vocabulary survives: vLLM's own EAGLE-1 class scores the target's whole vocabulary."""
    return config.kind != "eagle1" or (destination, form) != (Destination.VLLM, ExportForm.DENSE)


def choose_dialect(
    wanted: Dialect | None, record: DialectRecord | None, destination: Destination, form: ExportForm
) -> Dialect:
    """Dialect that was asked for, that the draft came in, or that the destination reads.

    Raises:
        InputError: The destination does not read the one that was asked for.
    """
    readable = READ_BY[destination]
    if form is ExportForm.PLUGIN:
        if wanted is not None:
            raise InputError(
                f"--dialect {wanted} says how a dense draft is written; the plugin form has files of its own: leave it "
                "out, or export --form dense",
                param="dialect",
            )
        return DEFAULT_DIALECT
    if wanted is not None and wanted not in readable:
        raise InputError(
            f"--dialect {wanted} is not one that {destination} reads; name one of {', '.join(readable)}",
            param="dialect",
        )
    came = record.dialect if record is not None and record.dialect in readable else DEFAULT_DIALECT
    return wanted or came
