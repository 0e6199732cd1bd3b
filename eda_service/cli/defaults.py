"""A user's own defaults: `~/.config/eda/config.toml`, or the file that EDA_CONFIG names.

    url = "https://eda.example.org"            # as --url and EDA_URL
    home = "/data/eda"                         # as --home and EDA_HOME
    api_key_file = "~/.config/eda/key"         # holds what EDA_API_KEY would

    [adapt]                                    # options of one command, by their long names
    preset = "demo"
    set = ["train.epochs=4"]

    [jobs.ls]
    limit = 50

A flag wins over a variable of the environment, that over this file, and this file over what is built in. It imports
the standard library alone, as a shell that completes a line reads it too.
"""

from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eda_service.errors import InputError

GENERAL = ("url", "home", "api_key_file")
_ENV, _KEY_FILE = "EDA_CONFIG", "api_key_file"
_MAX_BYTES = 1 << 16
_OTHERS = 0o077


@dataclass(frozen=True)
class DefaultsFile:
    """What the file says.

    Attributes:
        path: Where it is, or would be.
        is_there: Whether it is.
        url: Of the service.
        home: Root of all state.
        api_key_file: Holds the key.
        commands: Tables of the commands, as they stand there.
    """

    path: Path
    is_there: bool = False
    url: str | None = None
    home: str | None = None
    api_key_file: str | None = None
    commands: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> DefaultsFile:
        """Read it; without one nothing is set.

        Args:
            environment: EDA_CONFIG, XDG_CONFIG_HOME.

        Raises:
            InputError: It cannot be read, or is no TOML of this form.
        """
        path = _path(environment)
        try:
            data = path.read_bytes()
            if len(data) > _MAX_BYTES:
                raise ValueError(f"it has {len(data)} bytes; {_MAX_BYTES} are read")
            values = tomllib.loads(data.decode("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            if environment.get(_ENV):
                raise InputError(f"{_ENV} names {path}, which is not there; write it or unset it", param=_ENV) from None
            return cls(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as TOML: {error}; correct it", param="config") from error
        general = {name: _text(path, name, values.pop(name)) for name in GENERAL if name in values}
        return cls(path, is_there=True, **general, commands=values)


def _path(environment: Mapping[str, str]) -> Path:
    given = environment.get("EDA_CONFIG")
    root = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(given).expanduser() if given else Path(root).expanduser() / "eda" / "config.toml"


def _text(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        shown = json.dumps(value, default=str)[:64]
        raise InputError(f"{path}: {name} is {shown}; it must be text in quotes", param=name)
    return value


def read_key(defaults: DefaultsFile) -> str | None:
    """The key in `api_key_file`, if there is such a line.

    Raises:
        InputError: The file cannot be read, is empty, or others may read it.
    """
    if defaults.api_key_file is None:
        return None
    path = Path(defaults.api_key_file).expanduser()
    try:
        mode, key = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{defaults.path}: {_KEY_FILE} {path} cannot be read: {error}", param=_KEY_FILE) from error
    if stat.S_IMODE(mode) & _OTHERS:
        raise InputError(f"others may read the key in {path}; chmod 600 {path}", param=_KEY_FILE)
    if not key:
        raise InputError(f"{path} holds no key; put one there, or name another {_KEY_FILE}", param=_KEY_FILE)
    return key


def written_url(home: Path) -> str | None:
    """The address that `eda up` wrote down in a home, if it runs."""
    try:
        up_file = json.loads((home / "up.json").read_text(encoding="utf-8"))
        return str(up_file["api_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
