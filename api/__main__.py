"""`python -m api`: the API process, configured by the environment that `eda up` gives it."""

from __future__ import annotations

import logging
import sys

import uvicorn

from api.app import create_app
from api.settings import Settings
from eda_service.errors import EdaError

_GRACE_S = 5  # open streams get this long when the server stops


def main() -> int:
    """Serve until a signal comes; 2 when the environment is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the dispatcher asks Ray every second
    try:
        settings = Settings.from_env()
    except EdaError as error:
        logging.getLogger(__name__).error("%s", error.message)
        return 2
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
