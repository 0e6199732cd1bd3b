"""The gain that a job's pack must have before it is served."""

from __future__ import annotations

from pydantic import Field

from eda_service.config.base import Config


class DeployConfig(Config):
    """Whether the finished pack is served, and its required gain over the pack that it would replace.
    Not in the paper.
    """

    enabled: bool = Field(True, description="false: the pack is published and no deployment is made or changed")
    min_gain: float = Field(
        1.02,
        ge=0.0,
        le=10.0,
        description="acceptance_length of the new pack over that of what it would replace (the served pack, or the "
        "base draft alone), both measured by this job; below it the pack is published and not deployed",
    )
    min_speed_gain: float | None = Field(
        1.0,
        ge=0.0,
        le=10.0,
        description="speed of the new pack over that of what it would replace has to be above this, where the job "
        "measures speed; None or 0: speed is not looked at",
    )

    @property
    def is_open(self) -> bool:
        """Whether every pack is deployed, whatever its measured gain."""
        return self.min_gain == 0 and not self.min_speed_gain
