"""Settings of a deployment; `eda_service.config.job` has those of an adaptation."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from eda_service.config.base import Config
from eda_service.config.job import EngineKind
from eda_service.config.vllm import VllmSettings

MIN_KEPT_PROMPTS = 16


class Accelerator(StrEnum):
    """Devices that vLLM can compute on."""

    CPU = "cpu"
    GPU = "gpu"


class DriftConfig(Config):
    """Conditions under which a deployment's acceptance counts as fallen, and the reaction to it. Not in the paper."""

    below: float = Field(0.8, gt=0.0, le=1.0, description="fraction of the pack's evaluation under which it has fallen")
    min_rounds: int = Field(2000, ge=10, le=10_000_000, description="rounds that one judgement looks back on")
    window_s: int = Field(3600, ge=10, le=604_800, description="no further back than this; with fewer rounds, none")
    adapt: bool = Field(False, description="adapt again on kept prompts when it has fallen")
    keep_prompts: int = Field(0, ge=0, le=5000, description="newest prompts that each replica keeps; 0: none")
    redact: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        (), max_length=16, description="regular expressions; what they match is kept as [redacted]"
    )
    cool_down_s: int = Field(86_400, ge=0, le=31_536_000, description="least time between two adaptations of its own")

    @model_validator(mode="after")
    def _check(self) -> DriftConfig:
        if self.adapt and self.keep_prompts < MIN_KEPT_PROMPTS:
            raise ValueError(
                f"adapt needs keep_prompts of at least {MIN_KEPT_PROMPTS}, it is {self.keep_prompts}: a draft is "
                "adapted on the prompts that were kept"
            )
        for pattern in self.redact:
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"redact: {pattern[:64]!r} is no regular expression: {error}") from error
        return self


class EngineLimits(Config):
    """Limits of one engine of an endpoint. Deployments on one base share an engine, so it belongs to the service; a
    deployment on vLLM has the first two in its own `vllm`. The defaults are for a small model on a small machine.
    """

    context: int = Field(2048, ge=16, le=1_048_576, description="tokens of prompt and answer; the target's own at most")
    batch: int = Field(16, ge=1, le=256, description="answers decoded together")
    waiting: int = Field(64, ge=0, le=512, description="requests that wait for a place; more are answered 429")


class VllmConfig(VllmSettings):
    """Settings of vLLM for a deployment. Defaults without a source are for a small model on a small machine."""

    form: Literal["plugin", "dense"] = Field("plugin", description="of the exported draft; dense folds the gate")
    num_draft_tokens: int = Field(3, ge=1, le=16, description="K of its chains: vLLM does not adapt their depth")
    max_model_len: int = Field(2048, ge=16, le=1_048_576, description="prompt plus answer; the target's own at most")
    max_num_seqs: int = Field(16, ge=1, le=4096, description="answers decoded together")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; None: one for each core there is")
    swap: Literal["restart", "beside"] = Field(
        "restart", description="a new pack: drain and start again, or start beside the old engine, in twice the memory"
    )
    max_adapters: int = Field(
        1,
        ge=1,
        le=64,
        description="LoRA adapters that one vLLM has room for. Above 1, deployments on one base target and base draft "
        "whose settings are equal share a vLLM, each with its adapter and its pack",
    )
    max_adapter_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(
        32, description="of the adapters of a shared vLLM, which takes memory for as much (vLLM's steps)"
    )

    @property
    def is_shared(self) -> bool:
        """Whether deployments share a vLLM."""
        return self.max_adapters > 1

    @model_validator(mode="after")
    def _packs_of_a_shared_one(self) -> VllmConfig:
        wrong = "form is dense" if self.form == "dense" else "swap is beside" if self.swap == "beside" else None
        if self.is_shared and wrong is not None:
            raise ValueError(
                f"{wrong} and max_adapters {self.max_adapters}: a vLLM that several deployments share chooses a pack "
                "for each request and takes new ones while it runs; leave form and swap out, or set max_adapters to 1"
            )
        return self


class EngineSpec(Config):
    """The engine that decodes a deployment."""

    kind: EngineKind = EngineKind.EDA
    accelerator: Accelerator = Accelerator.CPU
    vllm: VllmConfig = VllmConfig()

    @model_validator(mode="after")
    def _check(self) -> EngineSpec:
        if self.kind is EngineKind.EDA and (self.vllm != VllmConfig() or self.accelerator is not Accelerator.CPU):
            raise ValueError("accelerator and vllm are settings of engine vllm; set engine to vllm or leave them out")
        if self.accelerator is Accelerator.CPU and self.vllm.tensor_parallel_size > 1:
            raise ValueError(
                f"vllm.tensor_parallel_size is {self.vllm.tensor_parallel_size}, a CPU replica has one rank; set it to "
                "1, or accelerator to gpu"
            )
        if self.accelerator is Accelerator.GPU and self.vllm.swap == "beside":
            raise ValueError("vllm.swap is beside, and a replica's GPUs hold one engine; set it to restart")
        return self
