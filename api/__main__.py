"""`python -m api`: the API process, configured by the environment that `eda up` gives it."""

from __future__ import annotations

import fcntl
import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from api.app import create_app
from api.auth import require_safe_host
from api.log_lines import OneLine
from api.server import make_server
from api.settings import Settings
from eda_service.errors import EdaError, InputError
from eda_service.private_files import keep_private, private_home
from eda_service.storage.place import current_place

_MAX_FILES = 65_536


def main() -> int:
    """Serve until a signal comes; 2 when the environment is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    keep_private()
    _raise_file_limit()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the dispatcher asks Ray every second
    with ExitStack() as held:
        try:
            settings = Settings.from_env()
            private_home(settings.home)
            current_place()  # what cannot be opened is said now
            held.enter_context(only_one(settings))
            app = create_app(settings)
            require_safe_host(app.state.services.store.keys, settings.host)
        except EdaError as error:
            logging.getLogger(__name__).error("%s", error.message)
            return 2
        make_server(app, settings).run()
    return 0


def _raise_file_limit() -> None:
    """A connection is a file, and the usual soft limit of 1,024 is reached by a thousand event streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold a SQLite database as its only API process; PostgreSQL takes several.

    Raises:
        InputError: Another one has it.
    """
    if not settings.store_url.startswith("sqlite"):
        yield
        return
    with (settings.home / "api.lock").open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another API process uses the SQLite database under {settings.home}; several need PostgreSQL "
                "(EDA_DATABASE_URL=postgresql+psycopg://...)",
                param="database_url",
            ) from error
        yield


if __name__ == "__main__":
    sys.exit(main())
