"""The plan of one stage of a job."""

from __future__ import annotations

from dataclasses import dataclass

from eda_service.planning.placement import DRIVER, Placement


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        stage: Its name.
        devices: Held while it runs; 0: it needs none.
        seconds: From start to end.
        start_s: Of these, processes that start and weights that are loaded.
        tokens: Decoded, or trained on.
        disk_bytes: Written and kept until the job's end or the next stage.
        storage_bytes: Over the network to and from storage, if it is not on the machine itself.
        exchange_bytes: Gradients sent, all workers together: over the network where they are on several machines.
        memory_bytes: Of one device, at most.
        placement: What it asks Ray for.
        host_bytes: Memory of one worker's machine beside the devices, at most; 0: little.
    """

    stage: str
    devices: int
    seconds: float
    start_s: float
    tokens: float
    disk_bytes: float
    storage_bytes: float
    exchange_bytes: float
    memory_bytes: float
    placement: Placement = DRIVER
    host_bytes: float = 0.0

    @property
    def device_hours(self) -> float:
        """Devices times hours."""
        return self.devices * self.seconds / 3600.0
