"""`python -m api.openapi`: the committed description of the API, `docs/openapi.json`; CI refuses a stale one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from api.app import create_app
from api.settings import Settings

PATH = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"


def document() -> str:
    """The OpenAPI document as text, the same for the same code."""
    app = create_app(Settings(database_url="sqlite://"))
    app.state.services.store.close()
    return json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"


def main() -> int:
    """Write the document, or with `--check` compare: 1 when it differs."""
    if "--check" not in sys.argv[1:]:
        PATH.write_text(document(), encoding="utf-8")
        return 0
    if PATH.exists() and PATH.read_text(encoding="utf-8") == document():
        return 0
    sys.stderr.write(
        "docs/openapi.json is not what the code says; run `python -m api.openapi` and look at the difference\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
