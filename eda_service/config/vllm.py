"""Settings of vLLM: those of jobs and deployments, and those of jobs alone."""

from __future__ import annotations

from pydantic import Field, model_validator

from eda_service.config.base import Config


class VllmSettings(Config):
    """The resources of the machine that an engine takes."""

    tensor_parallel_size: int = Field(1, ge=1, le=64, description="GPUs of one engine, or CPU ranks")
    gpu_memory_fraction: float = Field(0.9, gt=0.0, le=1.0, description="of each GPU, for weights and cache (vLLM)")
    kv_cache_gib: int = Field(1, ge=1, le=4096, description="memory of keys and values on a CPU")
    enforce_eager: bool = Field(False, description="no compilation: slower answers, faster start")


class VllmSpec(VllmSettings):
    """Settings of vLLM for the stages of a job."""

    gpus_per_node: int = Field(
        8, ge=1, le=64, description="of each machine; an engine of more GPUs takes all of several machines"
    )

    @property
    def nodes(self) -> int:
        """Number of machines of one engine on GPUs."""
        return max(1, self.tensor_parallel_size // self.gpus_per_node)

    @model_validator(mode="after")
    def _whole_nodes(self) -> VllmSpec:
        size, room = self.tensor_parallel_size, self.gpus_per_node
        if size > room and size % room:
            raise ValueError(
                f"tensor_parallel_size is {size} and gpus_per_node {room}: an engine takes whole machines; set "
                f"tensor_parallel_size to {size - size % room} or {size - size % room + room}, or gpus_per_node to "
                "what the machines have"
            )
        return self
