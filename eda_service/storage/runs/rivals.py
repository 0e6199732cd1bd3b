"""`rivals.json` of a run directory: the published packs that a job measures beside its own, written by the dispatcher.

Jobs never open the database, and only the database knows which packs are served and who owns them.
"""

from __future__ import annotations

from pydantic import Field

from eda_service.records import Role
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import StateFile

LOCAL_OWNER = "local"
"""Owner of a job that only its own process knows."""


class Rivals(StateFile):
    """The packs that the job's own pack is compared with."""

    FILE = "rivals.json"

    owner: str = Field(LOCAL_OWNER, description="of the job")
    served: str | None = Field(None, description="name@version served under the job's name; None: no pack")
    champion: str | None = Field(None, description="the best published version of the job's pack; None: there is none")

    @property
    def packs(self) -> dict[str, tuple[Role, ...]]:
        """Each pack once, with its roles."""
        found: dict[str, tuple[Role, ...]] = {}
        for role, pack in ((Role.SERVED, self.served), (Role.CHAMPION, self.champion)):
            if pack is not None:
                found[pack] = (*found.get(pack, ()), role)
        return found


def read_rivals(run: RunDir) -> Rivals:
    """Read the packs that the dispatcher has named so far; none if it has not written the file."""
    return run.read(Rivals) or Rivals()
