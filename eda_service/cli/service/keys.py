"""`eda keys ...`: make, list and revoke API keys, on the service's database itself: the first key needs no key."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from eda_service.addresses import is_loopback
from eda_service.cli.console import (
    Commands,
    HomeOption,
    JsonOption,
    YesOption,
    confirmed,
    err,
    example,
    own_home,
    print_json,
)
from eda_service.cli.jobs import view
from eda_service.client import ServiceUnreachableError
from eda_service.errors import InputError
from eda_service.formatting import duration
from eda_service.raycluster.up_file import read_up
from eda_service.scopes import Scope

if TYPE_CHECKING:
    from eda_service.jobstore import JobStore, KeyInfo
    from eda_service.jobstore.keys import KeyStore

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="API keys: make, list and revoke them, and open the service again, on the machine that has the database.",
    epilog=example("eda keys create laptop --owner ada"),
)

_DAY_S = 86_400
_LOCKED = (
    "this was the first key: from now on every request needs one, also on this machine, and pages ask for it; revoking "
    "it does not change that, `eda keys open` does"
)


@app.command(
    epilog=example(
        "eda keys create laptop --owner ada --expires-days 90", "eda keys create monitor --scope jobs:read --json"
    )
)
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; shown by `eda keys ls`.")],
    owner: Annotated[str, typer.Option(help="Whose jobs it sees and makes.")] = "local",
    scopes: Annotated[list[Scope] | None, typer.Option("--scope", help="Repeatable; default: all but admin.")] = None,
    expires_days: Annotated[int | None, typer.Option(min=1, max=3650, help="Days until it stops working.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute at the endpoint.")] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help="Requests at a time at the endpoint.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is printed once, alone on standard output, and cannot be shown again."""
    granted = [scope.value for scope in scopes or (Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.INFER)]
    expires_at = None if expires_days is None else int(time.time()) + expires_days * _DAY_S
    with _keys(home) as keys:
        is_first = not keys.exist()
        key, text = keys.create(
            owner, name, granted, expires_at, requests_per_minute=per_minute, concurrent_requests=at_once
        )
    if is_first:
        err.print(_LOCKED)
    if as_json:
        print_json({**_fields(key), "key": text})
        return
    typer.echo(text)
    err.print(f"key {key.id} of {key.owner}; it is shown this once. Use it as EDA_API_KEY, or as `Bearer` token")


@app.command("ls", epilog=example("eda keys ls --owner ada"))
def ls(
    owner: Annotated[str | None, typer.Option(help="Only this owner's keys.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List keys, without their secrets."""
    with _keys(home) as keys:
        found = keys.all(owner)
    if as_json:
        print_json([_fields(key) for key in found])
        return
    rows = [("ID", "OWNER", "NAME", "SCOPES", "STATE", "LAST USED")]
    for key in found:
        rows.append((key.id, key.owner, key.name, ",".join(key.scopes), _state(key), _ago(key.last_used_at)))
    typer.echo(view.columns(rows) if found else "no keys")


@app.command(epilog=example("eda keys revoke KEY_ID"))
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `eda keys ls` shows it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key useless from now on."""
    with _keys(home) as keys:
        keys.revoke(key_id)
    print_json({"id": key_id, "revoked": True}) if as_json else typer.echo(f"revoked {key_id}")


@app.command("open", epilog=example("eda keys open --yes"))
def open_again(yes: YesOption = False, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Forget every key, so that who reaches the service on this machine needs none, as before the first key."""
    with _keys(home) as keys:
        _require_loopback((home or own_home()).expanduser().resolve())
        num = len(keys.all())
        if num and not confirmed(f"forget {num} keys, and let everybody on this machine see every job?", yes):
            raise InputError("nothing was changed; --yes says that it is meant", param="yes")
        keys.delete_all()
    if as_json:
        print_json({"open": True, "forgotten": num})
    else:
        typer.echo(f"open: a request on this machine needs no key; {num} forgotten")


def _require_loopback(home: Path) -> None:
    """Check that a service that runs for this home is reached from this machine alone.

    Raises:
        InputError: Others reach it.
    """
    up_file = read_up(home)
    if up_file is not None and not is_loopback(urlsplit(str(up_file["api_url"])).hostname or ""):
        raise InputError(
            f"the service listens on {up_file['api_url']}, where others reach it; start it with a loopback --host "
            "before it goes without keys",
            param="home",
        )


@contextmanager
def _keys(home: Path | None) -> Iterator[KeyStore]:
    with open_jobs((home or own_home()).expanduser().resolve()) as store:
        yield store.keys


@contextmanager
def open_jobs(root: Path) -> Iterator[JobStore]:
    """The database of a home, which is the one that a service of it has.

    Raises:
        InputError: There is none, or the service of this home has another.
        ServiceUnreachableError: It does not answer.
    """
    from sqlalchemy.exc import OperationalError

    from eda_service.jobstore.home import open_store

    store: JobStore | None = None
    _require_same_database(root)
    _require_database(root)
    try:
        store = open_store(root)
        yield store
    except OperationalError as error:  # its text may hold the database's password
        raise ServiceUnreachableError("the database does not answer; check EDA_DATABASE_URL or --home") from error
    finally:
        if store is not None:
            store.close()


def _require_database(home: Path) -> None:
    """Check that the database is there where it is a file: a command that looks into it makes none, and leaves the
    permissions of a directory that is no home as they are.

    Raises:
        InputError: There is none.
    """
    from eda_service.jobstore.home import database_file

    file = database_file(home)
    if file is not None and not os.path.isfile(file):  # what may not be entered raises in pathlib
        raise InputError(
            f"{home} is not the home of a service: there is no database {file}; name its home with --home or EDA_HOME, "
            "or make one with `eda up`",
            param="home",
        )


def _require_same_database(home: Path) -> None:
    """Check that the service that runs for this home has the database that this process would open.

    Raises:
        InputError: It has another: a key that is made or revoked here would change nothing there.
    """
    from eda_service.jobstore.home import database_name
    from eda_service.raycluster.supervisor import is_running

    up_file = read_up(home)
    theirs, ours = None if up_file is None else up_file.get("database"), database_name(home)
    if theirs not in (None, ours) and is_running(home):
        raise InputError(
            f"the service of {home} keeps its keys in {theirs}, this command would open {ours}; set EDA_DATABASE_URL "
            "as `eda up` had it, or unset it",
            param="home",
        )


def _fields(key: KeyInfo) -> dict[str, Any]:
    return key.model_dump(mode="json")


def _state(key: KeyInfo) -> str:
    if key.unreadable is not None:
        return "unreadable"
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "valid"
    left_s = key.expires_at - time.time()
    return f"valid for {duration(left_s)}" if left_s > 0 else "expired"


def _ago(at: int | None) -> str:
    return "never" if at is None else f"{duration(time.time() - at)} ago"
