"""Which command runs a job of each kind, from the environment of the API."""

from __future__ import annotations

import pytest

from api.settings import Settings
from eda_service.config.tasks import JobKind

KINDS = (JobKind.ADAPT, JobKind.IMPORT_DRAFT, JobKind.MEASURE, JobKind.EXPORT)
MODULES = ("adapt", "import_draft", "measure", "export")


@pytest.mark.parametrize(
    ("environment", "commands"),
    [
        ({}, [f"python -m jobs.{name}" for name in MODULES]),
        (
            {"EDA_JOB_COMMAND": "nice /opt/eda/bin/python -m jobs.adapt"},
            [f"nice /opt/eda/bin/python -m jobs.{name}" for name in MODULES],
        ),
        ({"EDA_JOB_COMMAND": "/opt/run-job"}, ["/opt/run-job"] * 4),
        ({"EDA_JOB_COMMAND": "python -m my.jobs.adapt.all"}, ["python -m my.jobs.adapt.all"] * 4),
        (
            {
                "EDA_JOB_COMMAND": "/opt/run-job",
                "EDA_IMPORT_COMMAND": "import-it",
                "EDA_MEASURE_COMMAND": "measure-it",
                "EDA_EXPORT_COMMAND": "export-it",
            },
            ["/opt/run-job", "import-it", "measure-it", "export-it"],
        ),
    ],
    ids=["none", "another Python", "one of one's own", "a module of one's own", "one for each kind"],
)
def test_what_replaces_the_driver_s_command_holds_for_every_kind(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], commands: list[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_env()
    assert [settings.command_of(kind) for kind in KINDS] == commands
