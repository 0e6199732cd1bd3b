"""The `eda_config` block in an export's config.json, which the engines' plugins read.

Imports neither torch nor an engine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from eda_service.config.export_forms import Destination, ExportForm
from eda_service.drafts.draft_config import AnyDraftConfig, PrivateConfig
from eda_service.errors import TargetIncompatibleError
from eda_service.measured_rows import Frozen
from eda_service.records import TargetFingerprint

__all__ = [
    "SCHEMA_VERSION",
    "Destination",
    "EdaConfig",
    "ExportCalibration",
    "ExportForm",
    "ExportedGate",
    "ExportedPack",
    "PackPlaces",
]
SCHEMA_VERSION = 1


def _is_none(value: object) -> bool:
    return value is None


class ExportedGate(StrEnum):
    """The gate in an export: kept (Eq. 4), never present (a sum of both experts), folded, or only one expert."""

    SOFTMAX = "softmax"
    SUM = "sum"
    FOLDED = "folded"
    NONE = "none"


class ExportCalibration(Frozen):
    """The change by folding or by dropping the draft vocabulary: chains at T=0 over the same answers of the target."""

    prompts: str = Field(description="where they come from")
    num_calibration_prompts: int = Field(description="gave the gate's mean")
    num_measured_prompts: int = Field(description="others, on which both lengths were measured")
    num_draft_tokens: int
    gate_weights: tuple[float, float] | None = Field(description="(g_s, g_p) that were folded; None without a gate")
    acceptance_length: float = Field(description="of the draft as it was adapted")
    exported_acceptance_length: float = Field(description="of what is exported")

    @property
    def change_fraction(self) -> float:
        """Acceptance length of the export divided by that of the adapted draft, minus one."""
        return self.exported_acceptance_length / self.acceptance_length - 1.0


class ExportedPack(Frozen):
    """A pack over the export's draft, and the LoRA adapter whose requests it drafts for."""

    adapter: str = Field(description="the adapter's name in vLLM, as in `--lora-modules NAME=PATH`")
    source: str = Field(description="name@version")
    source_sha256: dict[str, str] = Field(description="file name to hash of the weights it was made from")
    private: PrivateConfig
    scale: float = Field(description="the constant of Eq. 5")
    verifier: TargetFingerprint = Field(description="the target with its adapter that the pack was made for")


class PackPlaces(Frozen):
    """The memory for packs in a draft inside an engine: number of places, and their largest sizes."""

    count: int = Field(ge=1, description="packs at the same time")
    width: int = Field(ge=1, description="m_p of the widest; narrower ones are filled with zeros")
    has_fuse: bool = Field(description="each place has an fc of its own")
    has_vocabulary: bool = Field(description="each place has a draft vocabulary of its own, of the head's rows")
    shared_sha256: str = Field(description="of what all packs share, as `frozen_parts` counts it")


class EdaConfig(Frozen):
    """The `eda_config` block.

    Attributes:
        draft: Shape of the exported draft; dense: `expert_width` is m_s + m_p.
        private: Config of the private expert; None for one expert alone.
        scale: Constant factor of the experts' sum in Eq. 5.
        draft_vocab_size: Number of tokens that the draft scores; None for all of the target's.
        verifier: Target that the draft was made for.
        dialect: Dialect of a draft of kind `eagle3`.
        packs: Packs over a base draft, for requests of their adapters; None: one draft for all requests.
        places: Places for packs.
    """

    schema_version: int = SCHEMA_VERSION
    source: str = Field(description="name@version of the pack or base draft")
    method: str = Field(description="of the pack, or `base_draft`")
    base_draft: str = Field(description="name@version")
    source_sha256: dict[str, str] = Field(description="file name to hash of the weights it was made from")
    weights_sha256: str = Field(description="of model.safetensors")
    destination: Destination
    form: ExportForm
    gate: ExportedGate
    draft: AnyDraftConfig
    private: PrivateConfig | None
    scale: float
    draft_vocab_size: int | None
    verifier: TargetFingerprint
    calibration: ExportCalibration | None
    dialect: str | None = Field(None, exclude_if=_is_none)
    packs: tuple[ExportedPack, ...] | None = Field(None, exclude_if=_is_none)
    places: PackPlaces | None = Field(None, exclude_if=_is_none)

    @property
    def vllm_method(self) -> Literal["eagle", "eagle3"]:
        """vLLM's name of the drafting method."""
        return "eagle3" if self.draft.kind == "eagle3" else "eagle"

    @property
    def widths(self) -> list[int]:
        """Widths of the experts: m_s, and m_p if there are private ones."""
        private = self.places.width if self.places is not None else None
        private = self.private.private_width if self.private is not None else private
        return [self.draft.expert_width, *([] if private is None else [private])]

    def check_tensor_parallel(self, size: int) -> None:
        """Refuse a tensor parallel size that does not divide heads and experts.

        Raises:
            TargetIncompatibleError: The size does not divide heads or experts; the message names the sizes that do.
        """
        if size in (fitting := [n for n in range(1, self.draft.num_heads + 1) if self._divides(n)]):
            return
        raise TargetIncompatibleError(
            f"the draft {self.source} cannot be split over {size} tensor parallel ranks: it has {self.draft.num_heads} "
            f"query heads, {self.draft.num_kv_heads} key/value heads and experts of width "
            f"{' and '.join(map(str, self.widths))}; use a size of {', '.join(map(str, fitting))}",
            param="tensor_parallel_size",
        )

    def _divides(self, size: int) -> bool:
        kv = self.draft.num_kv_heads
        heads = self.draft.num_heads % size == 0 and (kv % size == 0 if kv >= size else size % kv == 0)
        return heads and all(width % size == 0 for width in self.widths)

    def check_verifier(self, *, hidden_size: int, vocab_size: int) -> None:
        """Refuse a target of another shape than the draft's own.

        Raises:
            TargetIncompatibleError: The hidden size or the vocabulary differs.
        """
        wanted, found = (self.verifier.hidden_size, self.verifier.vocab_size), (hidden_size, vocab_size)
        if wanted != found:
            raise TargetIncompatibleError(
                f"the draft {self.source} was made for {self.verifier.model} (hidden size {wanted[0]}, {wanted[1]} "
                f"tokens), the target has hidden size {found[0]} and {found[1]} tokens; serve it with its own target",
                param="target.model",
            )
