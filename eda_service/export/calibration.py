"""Calibration and measurement of a dense export on answers that the target writes itself, at T=0.

The gate's mean is taken at the places where a chain drafts: over the answer's positions and every step of the chain, as
in unrolled training. Acceptance before and after is replayed over other answers (ADR 0010), so that the two lengths
differ by the export alone.

Shapes: T tokens of a transcript, D hidden, N places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eda_service.config.job import DatasetSpec, SelfGenConfig
from eda_service.decoding.request import own_params
from eda_service.drafts.checkpoint import LoadedDraft, for_inference
from eda_service.drafts.draft import Draft
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.drafts.unroll import unroll
from eda_service.engines.own import OwnEngine
from eda_service.errors import DatasetInvalidError
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.replay import Replay, Transcript, transcribe
from eda_service.export.files.eda_config import ExportCalibration
from eda_service.progress import ProgressCallback, no_progress
from eda_service.selfgen.prompts import general_prompts_file, load_prompts
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.targets.loader import Target

GENERAL = "the general prompts that ship with the package"
CALIBRATION_STRIDE = 4  # every fourth prompt is for calibration, the others for measurement
_BATCH = 16


@dataclass(frozen=True)
class CalibrationSettings:
    """Settings of the calibration of a dense export.

    Attributes:
        prompts: Path of a prompt file, `reasoning-gym:...` or a data set id; None: the general prompts.
        num_prompts: Number of prompts.
        num_draft_tokens: Number of tokens K of the chains.
        max_new_tokens: Largest number of tokens of an answer.
    """

    prompts: str | None = None
    num_prompts: int = 64
    num_draft_tokens: int = 3
    max_new_tokens: int = 64


def answer(
    target: Target,
    settings: CalibrationSettings,
    on_progress: ProgressCallback = no_progress,
    *,
    captures: Sequence[int] = (),
) -> list[Transcript]:
    """Let the target write greedy answers to the prompts, with the states that the draft captures.

    Raises:
        DatasetInvalidError: The prompts cannot be read, are too few, or give no answer that a draft can be compared
            with.
    """
    dataset = DatasetSpec(source=settings.prompts or str(general_prompts_file()), num_prompts=settings.num_prompts)
    read = load_prompts(dataset, seed=0, skipped=SkippedRows(SelfGenConfig().max_error_fraction))
    prompts = [each.token_ids(target.tokenizer) for each in read]
    longest = target.max_context - settings.max_new_tokens
    fitting = [ids for ids in prompts if len(ids) <= longest]
    if len(fitting) < len(prompts):
        raise DatasetInvalidError(
            f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are longer than {longest} tokens, which is what "
            f"the target's context of {target.max_context} leaves; give shorter ones",
            param="prompts",
        )
    params = replace(own_params(target.defaults), temperature=0.0, max_new_tokens=settings.max_new_tokens)
    answers = transcribe(
        OwnEngine(target), prompts, params, batch_size=_BATCH, captures=captures, on_progress=on_progress
    )
    return [each for each in answers if _length(each) > settings.num_draft_tokens + 1]


def _length(transcript: Transcript) -> int:
    return len(transcript.token_ids) - transcript.num_prompt_tokens


def split(transcripts: Sequence[Transcript]) -> tuple[list[Transcript], list[Transcript]]:
    """Split transcripts into those for calibration and those for measurement.

    Raises:
        DatasetInvalidError: The answers are too few for both.
    """
    if len(transcripts) <= 1:
        raise DatasetInvalidError(
            f"{len(transcripts)} prompts got an answer long enough to draft along, 2 are the least; give other prompts",
            param="prompts",
        )
    calibrating = list(transcripts[::CALIBRATION_STRIDE])
    return calibrating, [each for i, each in enumerate(transcripts) if i % CALIBRATION_STRIDE]


@torch.inference_mode()
def mean_gate_weights(
    draft: Draft, target: Target, transcripts: Sequence[Transcript], num_draft_tokens: int
) -> tuple[float, float]:
    """Compute the mean gate weights (g_s, g_p) where the draft drafts along the answers; (1, 1) for a sum.

    Args:
        draft: Draft with a private expert, in the target's dtype.
        target: Target whose embedding the draft uses.
        transcripts: The target's answers.
        num_draft_tokens: Number of steps of the chain; all steps have equal weight.
    """
    ffn = draft.ffn
    assert isinstance(ffn, SharedPrivateFFN)
    if ffn.gate is None:
        return 1.0, 1.0
    seen: list[Tensor] = []
    handle = ffn.gate.register_forward_hook(lambda _module, _inputs, weights_BS2: seen.append(weights_BS2))
    kept: list[Tensor] = []
    try:
        for each in transcripts:
            seen.clear()
            ids_1T = torch.tensor([each.token_ids], device=target.device)
            features_1TD = torch.cat([each.features_TD, torch.zeros_like(each.features_TD[:1])])[None].to(target.device)
            for _ in unroll(draft, target.embed, ids_1T, features_1TD, num_draft_tokens):
                kept.append(seen[-1][0, each.num_prompt_tokens - 1 :].double())
    finally:
        handle.remove()
    shared, private = torch.cat(kept).mean(0).tolist()
    return shared, private


def acceptance_length(
    target: Target, loaded: LoadedDraft, transcripts: Sequence[Transcript], num_draft_tokens: int
) -> float:
    """Compute the acceptance length of chains at T=0 along the answers."""
    head = loaded.draft.head(target.lm_head, loaded.vocab_W)
    replay = Replay(
        for_inference(loaded).draft, target.embed, head, num_draft_tokens=num_draft_tokens, batch_size=_BATCH
    )
    return summarise("", 0.0, replay.run(transcripts), num_draft_tokens=num_draft_tokens).acceptance_length


def measure(
    target: Target,
    adapted: LoadedDraft,
    exported: LoadedDraft,
    transcripts: Sequence[Transcript],
    settings: CalibrationSettings,
    *,
    num_calibration_prompts: int,
    gate_weights: tuple[float, float] | None,
) -> ExportCalibration:
    """Measure both acceptance lengths and return them as a record."""
    lengths = [acceptance_length(target, each, transcripts, settings.num_draft_tokens) for each in (adapted, exported)]
    return ExportCalibration(
        prompts=settings.prompts or GENERAL,
        num_calibration_prompts=num_calibration_prompts,
        num_measured_prompts=len(transcripts),
        num_draft_tokens=settings.num_draft_tokens,
        gate_weights=gate_weights,
        acceptance_length=lengths[0],
        exported_acceptance_length=lengths[1],
    )
