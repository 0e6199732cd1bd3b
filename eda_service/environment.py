"""The environment variables that processes of this project read: each field is the variable `EDA_<NAME>`.

The service passes most of them to its jobs and replicas. The API process has further settings of its own
(`api.settings`). They are read at each use, because a process may be given another home while it runs.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from eda_service.errors import InputError
from eda_service.field_errors import as_number, field_error

_SECRET = ("KEY", "SECRET", "TOKEN", "PASSWORD", "URL")

READ = SettingsConfigDict(env_prefix="EDA_", env_ignore_empty=True, frozen=True, extra="forbid")
"""Settings of every model of variables: an empty variable counts as not set."""


def as_directories(value: object) -> object:
    """Parse directories separated by `:`, as the shell writes them."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def variable_error(error: ValidationError) -> InputError:
    """Name the first variable that is out of its bounds, as the shell names it. Values that may be secret are not
    shown.
    """
    first = error.errors()[0]
    name, given = f"EDA_{'.'.join(map(str, first['loc'])).upper()}", first["input"]
    problem = field_error({**first, "input": as_number(given)}, name=name)
    if isinstance(given, str) and not any(word in name for word in _SECRET):
        problem = f"{name} is {given[:64]!r}: {problem.partition('; ')[2] or problem.removeprefix(f'{name}: ')}"
    return InputError(f"{problem}; correct it or unset it", param=name)


class Environment(BaseSettings):
    """Variables of every process: jobs, replicas, the command line, the client."""

    model_config = READ

    home: Path = Field(Path("~/.eda"), description="root of all state")
    storage: str = Field("", description="URL or directory of shared storage; empty: all state lies under the home")
    attempt: int = Field(1, ge=1, description="of the job that a process works for; the dispatcher gives it to each")
    local_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="directories under which requests may name files, with `:` between"
    )
    model_cache: Path = Field(Path("~/.cache/eda"), description="where fetched models lie, shared by all homes")
    request_timeout_s: float = Field(600.0, gt=0.0, description="longest answer of an endpoint")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite under home")
    config: str = Field("", description="the user's defaults of commands; empty: ~/.config/eda/config.toml")
    api_key: str = Field("", repr=False, description="key that the client and the command line send")

    _directories = field_validator("local_roots", mode="before")(as_directories)

    @classmethod
    def read(cls) -> Environment:
        """Return the current variables; they are parsed again when one of them has changed.

        Raises:
            InputError: A variable is out of its bounds.
        """
        return _parsed(tuple(each for each in os.environ.items() if each[0].upper().startswith("EDA_")))


@lru_cache(maxsize=16)
def _parsed(_given: tuple[tuple[str, str], ...]) -> Environment:
    try:
        return Environment()
    except ValidationError as error:
        raise variable_error(error) from error
