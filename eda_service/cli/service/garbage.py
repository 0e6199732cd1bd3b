"""What a home keeps that nothing needs any more, found without touching it.

Of a job that has ended stay its facts, events, logs, records, samples, curves and plots: pages and reports read them.
What is large goes: hidden states, the target's embedding and head, checkpoints, and the copy of a published pack. What
a live job, a deployment or a published pack needs is never among it.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eda_service.config.job import AdaptConfig, EngineKind
from eda_service.errors import NotFoundError
from eda_service.export.repositories.pack_pull import PULLED
from eda_service.ids import is_file_id, made_at_s
from eda_service.jobstore import Job, JobStore
from eda_service.jobstore.jobs.status import LIVE, TERMINAL, Status
from eda_service.references import Reference
from eda_service.storage.files import directory_bytes, temporary_name
from eda_service.storage.inputs.input_files import ABANDONED_S, INPUTS, UPLOADS, forget_copy, forget_upload
from eda_service.storage.published import registry
from eda_service.storage.staging import abandoned, discard_abandoned

_DAY_S = 86_400
_STATES = ("generate/*.features.safetensors", "select/*.features.safetensors", "generate/target_io.safetensors")
_CHECKPOINTS = ("train/ray", "train/start")
_FETCHED = ("read/draft", "read/scratch")  # of an import, once it has ended
_EXPORTED = ("export/files", "export/.files.*")
_PACK_COPY = "train/pack"
_LOCK = "driver.lock"
_MAX_TOLD = 3
_JOBS_AT_ONCE = 500
_SHA256 = re.compile(r"\"([0-9a-f]{64})\"")


@dataclass(frozen=True)
class Garbage:
    """Files that may go together.

    Attributes:
        kind: `run`, `upload`, `input`, `pull`, `export` or `cache`.
        name: The id of a job or an uploaded file, the sha256 of a copied prompt file, or the name of a directory.
        paths: Files and directories.
        size_bytes: Of them.
        why: Nothing needs them.
        job_id: The job whose end is looked at again before they go; None: what may run on them is.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    size_bytes: int
    why: str
    job_id: str | None = None


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        garbage: What may go.
        kept: What stays and why, in words.
    """

    garbage: tuple[Garbage, ...]
    kept: tuple[str, ...]


def find_garbage(home: Path, store: JobStore, *, days: float, caches: Path | None = None) -> Found:
    """Look through a home.

    Args:
        home: State root.
        store: Its jobs and deployments.
        days: Only of jobs that ended so long ago; checkpoints of those that succeeded go whenever that was.
        caches: Fetched models, which all homes share; None: they are not looked at.
    """
    kept: list[str] = []
    found = [*_runs(home, store, days, kept), *_uploads(home, store), *_inputs(home, store, kept), *_pulls(home)]
    needing = _needing(home, store)
    if not _stays("export", needing, kept):
        found += list(_each(home / "exports", "export", "made again when a deployment asks for it", kept))
    if caches is not None and not _stays("cache", needing, kept):
        found += list(_each(caches / "models", "cache", "fetched again when a job asks for it", kept))
    return Found(tuple(found), tuple(kept))


def remove(garbage: Garbage, home: Path, store: JobStore) -> int:
    """Delete it; returns the bytes freed, 0 where it is needed by now."""
    if garbage.job_id is None:
        return _remove_shared(garbage, home, store)
    with _quiet(home / "runs" / garbage.job_id / _LOCK) as is_quiet:
        # A job that was queued again meanwhile waits for the lock, and makes anew what its records name.
        if not is_quiet or not _has_ended(garbage.job_id, store):
            return 0
        return sum(map(_delete, garbage.paths))


def _remove_shared(garbage: Garbage, home: Path, store: JobStore) -> int:
    """Delete what belongs to no single job; return the bytes freed, 0 if it is needed by now."""
    if garbage.kind == "upload":
        forget_upload(garbage.name, home)
        return garbage.size_bytes
    if garbage.kind == "pull":
        return garbage.size_bytes if all(map(discard_abandoned, garbage.paths)) else 0
    if garbage.kind != "input":
        return 0 if _stays(garbage.kind, _needing(home, store), []) else sum(map(_delete_whole, garbage.paths))
    named = _named_inputs(store)
    if named is None or garbage.name in named:
        return 0
    forget_copy(garbage.name, home)
    return garbage.size_bytes


def _has_ended(job_id: str, store: JobStore) -> bool:
    """Whether a job is there and has ended."""
    with suppress(NotFoundError):
        return store.jobs.get(job_id).status in TERMINAL
    return False


def _runs(home: Path, store: JobStore, days: float, kept: list[str]) -> Iterator[Garbage]:
    """What is large in the directories of jobs that have ended."""
    before = time.time() - days * _DAY_S
    num_young = 0
    for root in _run_directories(home):
        if root.is_symlink():
            kept.append(f"{root.name}: it is a link")
            continue
        try:
            job = store.jobs.get(root.name)
        except NotFoundError:
            kept.append(f"{root.name}: no job of that name is known")
            continue
        if job.status not in TERMINAL:
            kept.append(f"{root.name}: {job.status}")
            continue
        is_old = (job.finished_at or job.created_at) <= before
        # A retry goes on from the checkpoints of a job that did not succeed.
        wanted = list(_CHECKPOINTS) if is_old or job.status is Status.SUCCEEDED else []
        wanted += (*_STATES, *_FETCHED, *_EXPORTED) if is_old else ()
        if is_old and job.status is Status.SUCCEEDED and _is_published(job, home):
            wanted.append(_PACK_COPY)
        paths = tuple(
            path for pattern in wanted for path in sorted(root.glob(pattern)) if _is_within(path.parent, root)
        )
        num_young += not is_old
        size = sum(map(_size, paths))
        if size:
            what = "hidden states, checkpoints" if is_old else "checkpoints"
            again = "" if job.status is Status.SUCCEEDED else "; a retry makes them again"
            yield Garbage("run", root.name, paths, size, f"{what} of a job that {job.status}{again}", job.id)
    if num_young:
        kept.append(f"{num_young} jobs ended less than {days:g} days ago; --days says how many")


def _uploads(home: Path, store: JobStore) -> Iterator[Garbage]:
    """Bytes of uploads that no row names, since the service was killed between the one and the other."""
    for path in sorted((home / UPLOADS).glob("*.jsonl")):
        if not is_file_id(path.stem) or made_at_s(path.stem) > time.time() - ABANDONED_S:
            continue
        try:
            store.files.get(path.stem)
        except NotFoundError:
            yield Garbage("upload", path.stem, (path,), _size(path), "no file of that id is known to the service")


def _inputs(home: Path, store: JobStore, kept: list[str]) -> Iterator[Garbage]:
    """List copies of prompt files that no job names: no job was made from the copy, or its job was removed."""
    paths = [path for path in sorted((home / INPUTS).glob("*.jsonl")) if not _is_fresh(path)]
    named = _named_inputs(store) if paths else set()
    if named is None:
        kept.append("copies of prompt files: a job that cannot be read may need them")
        return
    for path in paths:
        if path.stem not in named:
            yield Garbage("input", path.stem, (path,), _size(path), "no job was made from this copy of a prompt file")


def _named_inputs(store: JobStore) -> set[str] | None:
    """The hashes of prompt files that any job, ended or not, may be retried with; None: not every job can be read."""
    named: set[str] = set()
    after, more = None, True
    while more:
        jobs, more = store.jobs.page(limit=_JOBS_AT_ONCE, after=after)
        for job in jobs:
            after = job.id
            if job.unreadable:
                return None
            named |= set(_SHA256.findall(json.dumps(job.config)))
    return named


def _pulls(home: Path) -> Iterator[Garbage]:
    """What `eda packs pull` was fetching when it was killed; of versions before, which held no lock, what is old."""
    old = [path for path in home.glob(".pull-*") if path.is_dir() and not path.is_symlink() and not _is_fresh(path)]
    for path in (*sorted(old), *abandoned(home / PULLED)):
        yield Garbage("pull", path.name, (path,), _size(path), "whoever fetched a pack there was killed")


def _run_directories(home: Path) -> list[Path]:
    return sorted(path for path in (home / "runs").glob("*") if path.is_dir())


def _is_within(directory: Path, root: Path) -> bool:
    """Whether no link on the way leads elsewhere."""
    return directory.resolve().is_relative_to(root.resolve())


def _is_published(job: Job, home: Path) -> bool:
    pack = Reference.parse(job.result_pack or "")
    return pack is not None and pack.number is not None and pack.number in registry.pack_versions(pack.name, home)


@dataclass(frozen=True)
class _Needing:
    """What may need shared files now: a deployment, or a live job.

    Attributes:
        name: In words.
        reads_exports: Whether it may run on an export.
    """

    name: str
    reads_exports: bool


def _needing(home: Path, store: JobStore) -> list[_Needing]:
    """Deployments, live jobs, and what runs without a job; what cannot be read may need anything."""
    found = [
        _Needing(f"deployment {each.name}", bool(each.unreadable) or each.engine.get("kind") == EngineKind.VLLM.value)
        for each in store.deployments.all(unreadable=True)
    ]
    live = store.jobs.live()
    found += [_Needing(f"job {job.id}", _reads_exports(job)) for job in live]
    counts = store.jobs.counts()
    if sum(counts.get(status, 0) for status in LIVE) > len(live):
        found.append(_Needing("a live job that cannot be read", reads_exports=True))
    known = {job.id for job in live}
    for root in _run_directories(home):
        if root.name not in known and (root / _LOCK).is_file():
            with _quiet(root / _LOCK) as is_quiet:
                if not is_quiet:  # started by hand: the database does not know how far it is
                    found.append(_Needing(f"{root.name}, which runs", reads_exports=True))
    return found


def _stays(kind: str, needing: Sequence[_Needing], kept: list[str]) -> bool:
    """Whether files of a kind that jobs share stay, as something may need them; it is said in `kept`."""
    users = [each.name for each in needing if kind == "cache" or each.reads_exports]
    if users:
        what, use = ("fetched models", "need") if kind == "cache" else ("exports", "run on")
        kept.append(f"{what}: {', '.join(users[:_MAX_TOLD])} may {use} them")
    return bool(users)


def _reads_exports(job: Job) -> bool:
    """Whether a job's target may run in vLLM."""
    task = job.task()
    return not isinstance(task, AdaptConfig) or task.target.engine is not EngineKind.EDA


def _each(directory: Path, kind: str, why: str, kept: list[str]) -> Iterator[Garbage]:
    for path in sorted(directory.glob("*")):
        if path.name.startswith(".") and _is_fresh(path):
            kept.append(f"{path.name}: it is being made, or was left less than a day ago")
        else:
            yield Garbage(kind, path.name, (path,), _size(path), why)


def _is_fresh(path: Path) -> bool:
    """Whether it was written to within a day; also when it has its last name by now."""
    try:
        return path.lstat().st_mtime > time.time() - _DAY_S
    except OSError:
        return True


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return directory_bytes(path)
    with suppress(OSError):
        return path.lstat().st_size
    return 0


def _delete(path: Path) -> int:
    """Delete a file or a directory; returns the bytes that are gone."""
    before = _size(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return before - _size(path)


def _delete_whole(path: Path) -> int:
    """The same, but whoever looks for it meanwhile, or after a break, finds all of it or nothing."""
    hidden = temporary_name(path)
    try:
        path.rename(hidden)
    except OSError:
        return 0
    return _delete(hidden)


@contextmanager
def _quiet(lock: Path) -> Iterator[bool]:
    """Hold a run directory as its driver would; whether it is there and nobody else does."""
    with ExitStack() as held:
        try:
            stream = held.enter_context(lock.open("a", encoding="utf-8"))
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def total(garbage: Sequence[Garbage]) -> int:
    """Bytes of all of it."""
    return sum(each.size_bytes for each in garbage)
