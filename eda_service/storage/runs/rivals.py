"""`rivals.json` of a run directory: which published packs a job measures beside its own, told by the dispatcher.

Jobs never open the database, and only that knows what is served and whose it is.
"""

from __future__ import annotations

from pydantic import Field

from eda_service.records import Role
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import StateFile

LOCAL_OWNER = "local"
"""Whose a job is that nobody but its own process knows of."""


class Rivals(StateFile):
    """Packs that the job's own has to beat."""

    FILE = "rivals.json"

    owner: str = Field(LOCAL_OWNER, description="of the job")
    served: str | None = Field(None, description="name@version served under the job's name; None: no pack")
    champion: str | None = Field(None, description="the best published version of the job's pack; None: there is none")

    @property
    def packs(self) -> dict[str, tuple[Role, ...]]:
        """Each pack once, and why."""
        found: dict[str, tuple[Role, ...]] = {}
        for role, pack in ((Role.SERVED, self.served), (Role.CHAMPION, self.champion)):
            if pack is not None:
                found[pack] = (*found.get(pack, ()), role)
        return found


def read_rivals(run: RunDir) -> Rivals:
    """What the dispatcher has told so far; without a word of it, no rivals."""
    return run.read(Rivals) or Rivals()
