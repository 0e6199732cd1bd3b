"""The norms of an EAGLE-3 draft, and whether it feeds back the normed state. Imports no torch."""

from __future__ import annotations

from typing import Literal

from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.record import Dialect
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.settings import EAGLE
from eda_service.drafts.dialects.shared_fields import Source

FcNorm = Literal["none", "each", "joint"]


def read_flags(source: Source, dialect: Dialect) -> None:
    """Read every norm of an `Eagle3Config`.

    Raises:
        DraftIncompatibleError: Settings and tensors contradict each other.
    """
    settings, fields = source.settings, source.fields
    source.part(
        "norm_before_fc",
        is_there=source.has(names.INPUT_NORM),
        said=settings.flag("norm_before_fc", EAGLE, ""),
        what=names.INPUT_NORM,
        if_silent="the config has neither norm_before_fc nor eagle_config.norm_before_fc, and the file has "
        f"{names.INPUT_NORM}",
    )
    fields.take("fc_norm", lambda: _fc_norm(source))
    has_fc = bool(fields.found["layers"])
    fields.take("has_hidden_norm", lambda: _hidden_norm(source, has_fc))
    fields.take("qk_norm", lambda: source.has(*(names.head_norm(each) for each in "qk")))
    fields.take("norm_before_residual", lambda: _norm_before_residual(source, dialect))
    fields.take("norm_output", lambda: feeds_back_normed(source, dialect))


def _fc_norm(source: Source) -> FcNorm:
    each, joint = any(map(names.is_each_norm, source.shapes)), source.has(names.JOINT_NORM)
    said = next((said for key in ("fc_norm", "use_aux_norm") if (said := source.settings.flag(key)) is not None), None)
    if each and joint:
        raise refusal(
            f"the file has {names.JOINT_NORM}, one norm over all states, and {names.each_norm(0)}, one for each; a "
            "draft has one of them: fetch it again"
        )
    found: FcNorm = "each" if each else "joint" if joint else "none"
    if said is None:
        if each or joint:
            source.fields.assume(
                "fc_norm", found, "the config has neither fc_norm nor use_aux_norm, and the file has the norms"
            )
        return found
    if said != (each or joint):
        seen = "has its norms" if each or joint else f"has neither {names.each_norm(0)} nor {names.JOINT_NORM}"
        raise refusal(
            f"config.json says that fc_norm is {str(said).lower()}, and the file {seen}; fetch the draft again, or "
            f"--set fc_norm={found}, if you know what it was trained with"
        )
    return found


def _hidden_norm(source: Source, has_fc: bool) -> bool:
    """Whether the draft has the hidden norm of EAGLE-3; ModelOpt leaves it out, with fc, if the draft reads the last
    state.
    """
    if has_fc or source.has(names.HIDDEN_NORM):
        return True
    source.fields.assume(
        "has_hidden_norm",
        False,
        f"the file has neither {names.FC} nor {names.HIDDEN_NORM}, so the state is not normed again",
    )
    return False


def _norm_before_residual(source: Source, dialect: Dialect) -> bool:
    said = source.settings.flag("norm_before_residual")
    if said is not None:
        return said
    if dialect is Dialect.SPECULATORS:
        source.fields.assume(
            "norm_before_residual", True, "the config does not say it, and vLLM takes true for files of speculators"
        )
        return True
    return False


def feeds_back_normed(source: Source, dialect: Dialect) -> bool:
    """Whether the state after the last norm is fed back, rather than the one before.

    SpecForge writes `norm_output` and means only that a norm stands before the head, which is always so here.
    """
    said = source.settings.flag("norm_output", "", "transformer_layer_config")
    nested = source.settings.flag("return_hidden_post_norm", EAGLE)
    if said is None:
        return bool(nested)
    if dialect is Dialect.SPECFORGE:
        why = (
            f"SpecForge's norm_output ({str(said).lower()}) is about the norm before the head, and its training feeds "
            "back the state before that norm; vLLM and SGLang would feed back the normed one where it is true"
        )
        source.fields.assume("norm_output", False, why)
        return False
    if said and dialect is Dialect.EAGLE3:
        why = (
            "norm_output is taken as engines take it; a file of SpecForge that kept its embedding would mean the norm "
            "before the head alone, and feed back the state before it"
        )
        source.fields.assume("norm_output", True, why)
    return said
