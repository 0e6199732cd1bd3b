"""`eda gc`: what a home keeps that nothing needs, sizes first; then it asks."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from eda_service.cli.console import HomeOption, JsonOption, YesOption, confirmed, err, out, own_home, print_json
from eda_service.cli.jobs.view import columns
from eda_service.cli.service.garbage import Found, Garbage, find_garbage, remove, total
from eda_service.cli.service.keys import open_jobs
from eda_service.formatting import size
from eda_service.storage.objects import storage_url

_DEFAULT_DAYS = 7.0


def gc(
    days: Annotated[
        float, typer.Option("--days", min=0.0, help="Hidden states of jobs that ended so many days ago or earlier.")
    ] = _DEFAULT_DAYS,
    caches: Annotated[
        bool, typer.Option("--caches", help="Fetched models too, which all homes of this user share.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is, and remove nothing.")] = False,
    yes: YesOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Free what ended jobs, broken uploads, exports and caches hold and nothing needs; sizes first, then it asks. Pages
    and reports of the jobs stay, as does what a live job, a deployment or a published pack needs.
    """
    from eda_service.targets.embedded import model_cache

    root = (home or own_home()).expanduser().resolve()
    with open_jobs(root) as store:
        found = find_garbage(root, store, days=days, caches=model_cache() if caches else None)
        if not as_json:
            _show(found)
        agreed = bool(found.garbage) and not dry_run and confirmed(f"free {size(total(found.garbage))}?", yes)
        freed = [remove(each, root, store) for each in found.garbage] if agreed else []
    if as_json:
        listed = [_fields(each) for each in found.garbage]
        print_json({"removed": agreed, "freed_bytes": sum(freed), "found": listed, "kept": list(found.kept)})
    elif agreed:
        left = sum(1 for each in freed if not each)
        stay = f"; {left} of {len(freed)} stay: needed again, gone, or not ours to delete" if left else ""
        out.print(f"freed {size(sum(freed))}{stay}")
    elif found.garbage:
        err.print("nothing was removed" if dry_run else "nothing was removed; --yes removes without asking")


def _show(found: Found) -> None:
    if found.garbage:
        rows = [("WHAT", "NAME", "SIZE", "WHY IT MAY GO")]
        rows += [(each.kind, each.name, size(each.size_bytes), each.why) for each in found.garbage]
        typer.echo(columns(rows))
        numbers = Counter(each.kind for each in found.garbage)
        parts = ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in numbers.items())
        typer.echo(f"together {size(total(found.garbage))}: {parts}")
    else:
        typer.echo("nothing to free")
    for each in found.kept:
        err.print(f"stays: {each}", markup=False)
    if storage_url():
        err.print("storage by URL is not looked at: only this machine's copies; an upload's object goes with its copy")


def _fields(garbage: Garbage) -> dict[str, object]:
    return {
        "kind": garbage.kind,
        "name": garbage.name,
        "size_bytes": garbage.size_bytes,
        "why": garbage.why,
        "paths": [str(path) for path in garbage.paths],
    }
