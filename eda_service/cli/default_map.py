"""The tables of a user's defaults file as defaults of options, checked against the options that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eda_service.cli.defaults import GENERAL, DefaultsFile
from eda_service.errors import InputError
from eda_service.names import close_names

_MAX_LISTED = 12


def default_map(command: Any, defaults: DefaultsFile) -> dict[str, Any]:
    """What a context of the command line takes as its defaults, by commands and names of parameters.

    Args:
        command: The group of all commands.
        defaults: The user's file.

    Raises:
        InputError: The file names a command or an option that there is not, or gives an option another kind of value.
    """
    return _of_group(command, defaults.commands, defaults, "") if defaults.is_there else {}


def _of_group(group: Any, table: Mapping[str, Any], defaults: DefaultsFile, prefix: str) -> dict[str, Any]:
    """Tables of a group's commands; each command gets the general values that it has options for."""
    known = dict(group.commands)
    for name, value in table.items():
        if name not in known:
            _refuse(defaults, prefix + name, [*known, *(() if prefix else GENERAL)], prefix)
        if not isinstance(value, Mapping):
            written = f"{prefix}{name}"
            raise InputError(
                f"{defaults.path}: {written} is a command; write it as a table, [{written}]", param=written
            )
    made: dict[str, Any] = {}
    for name, each in known.items():
        part = table.get(name, {})
        read = _of_group if hasattr(each, "commands") else _of_command
        if found := read(each, part, defaults, f"{prefix}{name}."):
            made[name] = found
    return made


def _of_command(command: Any, table: Mapping[str, Any], defaults: DefaultsFile, prefix: str) -> dict[str, Any]:
    options = {_long(each): each for each in command.params if each.param_type_name == "option"}
    made: dict[str, Any] = {}
    for name, general in (("url", defaults.url), ("home", defaults.home)):
        if name in options and general is not None:
            made[options[name].name] = general
    for name, value in table.items():
        key = name.replace("_", "-")
        if key not in options:
            _refuse(defaults, prefix + name, options, prefix)
        _check(defaults, prefix + name, options[key], value)
        made[options[key].name] = value
    return made


def _long(option: Any) -> str:
    """An option's name in the file: its first long one, without the dashes."""
    return str(next((each for each in option.opts if each.startswith("--")), option.opts[0])).lstrip("-")


def _check(defaults: DefaultsFile, name: str, option: Any, value: Any) -> None:
    if option.is_flag:
        wanted, fits = "true or false", isinstance(value, bool)
    elif option.multiple:
        wanted, fits = "a list of texts", isinstance(value, list) and all(isinstance(each, str) for each in value)
    else:
        wanted, fits = "one value", isinstance(value, str | int | float) and not isinstance(value, bool)
    if not fits:
        raise InputError(f"{defaults.path}: {name} is {str(value)[:64]!r}; it must be {wanted}", param=name)


def _refuse(defaults: DefaultsFile, name: str, known: Any, prefix: str) -> None:
    close = close_names(name.removeprefix(prefix).replace("_", "-"), known)
    hint = f"there are {', '.join(sorted(known)[:_MAX_LISTED])}"
    if close:
        hint = f"did you mean {' or '.join(prefix + each for each in close)}?"
    raise InputError(f"{defaults.path}: no field {name}; {hint}", param=name)
