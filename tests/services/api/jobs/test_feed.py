"""The look for new events lives on while the database does not answer, and says so once."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from api.jobs.feed import EventFeed
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.jobstore import JobStore


def test_a_database_that_fails_is_told_once_and_the_look_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = JobStore(f"sqlite:///{tmp_path / 'eda.db'}")

    def run(statement: str) -> None:
        with sqlite3.connect(tmp_path / "eda.db", timeout=30) as connection:
            connection.execute(statement)
        connection.close()

    async def looks() -> None:
        feed = EventFeed(store, interval_s=0.01)
        feed.start()
        await feed.wait(20)  # the first look
        run("ALTER TABLE events RENAME TO away")
        await asyncio.sleep(1.0)
        run("ALTER TABLE away RENAME TO events")
        woken = asyncio.create_task(feed.wait(30))
        await asyncio.sleep(0.5)
        store.jobs.create(AdaptConfig(target=TargetSpec(model="org/model")))
        assert not woken.done()
        await asyncio.wait_for(woken, 20)  # by the event: the wait's own end is later
        await feed.stop()

    asyncio.run(looks())
    store.close()
    told = [each.getMessage() for each in caplog.records if each.name == "api.jobs.feed"]
    assert told[0] == "the look for new events failed"
    assert len([each for each in told if "failed" in each]) == 1, told
