"""The plan of one stage of a job."""

from __future__ import annotations

from dataclasses import dataclass

from eda_service.planning.placement import DRIVER, Placement


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage.

    Attributes:
        stage: Name of the stage.
        devices: Number of devices held while it runs; 0: it needs none.
        seconds: Seconds from start to end.
        start_s: Seconds of these for the start of processes and the loading of weights.
        tokens: Number of tokens decoded, or trained on.
        disk_bytes: Bytes written and kept until the job's end or the next stage.
        storage_bytes: Bytes over the network to and from storage, if it is not on the machine itself.
        exchange_bytes: Bytes of gradients sent by all workers, over the network if they are on several machines.
        memory_bytes: Largest use of one device's memory.
        placement: Resources that it requests from Ray.
        host_bytes: Largest use of the memory of one worker's machine beside the devices; 0: little.
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
        """Number of devices times hours."""
        return self.devices * self.seconds / 3600.0
