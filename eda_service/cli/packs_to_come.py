"""A pack that is not there, where a job of the running service says why: it is to publish it, or it has failed to."""

from __future__ import annotations

from collections.abc import Iterable

from eda_service.cli.console import connect, running_url
from eda_service.client import Adaptation
from eda_service.errors import EdaError

_LIVE = frozenset({"queued", "running"})
_NUM_LOOKED_AT = 100


def of_a_job(reference: str, url: str | None) -> str | None:
    """What to say of a pack's name, or of a job's id in its place; None: no job of the service has to do with it.

    Args:
        reference: As it was typed, and not found among packs and drafts.
        url: Address of the service; None: the one that `eda up` wrote down, and without that none is asked.
    """
    url = url or running_url()
    if url is None:
        return None
    try:
        with connect(url) as client:
            return told(reference, client.page(limit=_NUM_LOOKED_AT))
    except EdaError:  # the pack is missing all the same, which is said without it
        return None


def told(reference: str, jobs: Iterable[Adaptation]) -> str | None:
    """The sentence about the newest of some jobs that the reference is about.

    Args:
        reference: Name, name@version, or a job's id.
        jobs: Newest first.
    """
    name = reference.partition("@")[0]
    job = next((each for each in jobs if reference == each.id or name == each.served_name), None)
    if job is None:
        return None
    if job.status in _LIVE:
        return (
            f"no pack {reference!r} yet: job {job.id}, which is to publish it, is {job.status}; wait for it with "
            f"`eda jobs watch {job.id}`, then export {job.served_name}"
        )
    if reference == job.id and job.result_pack is not None:
        return f"{reference} is a job and no pack; it has published {job.result_pack}: export that"
    if job.result_pack is None:
        return (
            f"no pack {reference!r}: job {job.id}, which was to publish it, is {job.status}; see "
            f"`eda jobs show {job.id}`"
        )
    return None
