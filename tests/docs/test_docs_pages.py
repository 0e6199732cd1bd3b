"""Every page with blocks that can run, from its first to its last; `make test-docs`.

Each page has a directory, a home and, where it says `eda up`, a service of its own: it stands alone, as for a reader.
"""

from __future__ import annotations

from pathlib import Path
from unittest import SkipTest

import pytest
from doc_blocks import PAGES, name_of, num_to_run, runnable
from page_shell import PageShell
from postgres import Postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]


@pytest.fixture
def env(request: pytest.FixtureRequest, page: Path) -> dict[str, str]:
    """What a page takes for granted: the one about PostgreSQL, that there is one."""
    if name_of(page) != "howto/postgres.md":
        return {}
    server: Postgres = request.getfixturevalue("postgres")
    return {"EDA_DATABASE_URL": server.new_database().replace("postgresql://", "postgresql+psycopg://")}


@pytest.mark.parametrize("page", [page for page in PAGES if num_to_run(page)], ids=name_of)
def test_page(page: Path, env: dict[str, str], tmp_path: Path) -> None:
    num_run = 0
    with PageShell(tmp_path, env) as shell:
        for example in runnable(page, shell.bash_or_python).examples():
            try:
                example.evaluate()
            except SkipTest:
                continue
            num_run += "source" in example.region.lexemes
    assert num_run == num_to_run(page)
