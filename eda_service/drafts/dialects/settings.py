"""`config.json` of a draft, key by key; the keys that nobody has read can be listed. Imports no torch.

speculators puts the layer's settings into `transformer_layer_config`; ModelOpt, SpecForge and others put some into
`eagle_config`. A key whose value is null counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from eda_service.drafts.dialects.record import Assumption
from eda_service.drafts.dialects.refusal import refusal

LAYER, EAGLE = "transformer_layer_config", "eagle_config"
_MAX_WHOLE = 1 << 31
_MAX_SHOWN = 60
T = TypeVar("T")


def shown(value: object) -> str:
    """Show a value from a file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


class Settings:
    """The settings of a `config.json`.

    Args:
        config: The parsed `config.json`.

    Raises:
        DraftIncompatibleError: A group of settings is no object.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._groups: dict[str, Mapping[str, Any]] = {"": config}
        self._read: set[str] = set()
        for name in (LAYER, EAGLE):
            group = config.get(name)
            if group is not None and not isinstance(group, Mapping):
                raise refusal(f"config.json: {name} is {shown(group)}, an object is needed; save the draft again")
            self._groups[name] = group or {}

    @property
    def is_speculators(self) -> bool:
        """Whether the layer's settings are in a group of their own, as speculators writes them."""
        return bool(self._groups[LAYER])

    def value(self, name: str, *groups: str) -> tuple[str, Any]:
        """Return the dotted key that holds a setting and its value; the key is empty if the setting is absent.

        Args:
            name: Name of the setting.
            groups: Groups to search, in order; none given: the layer's group and the top level.
        """
        for group in groups or (LAYER, ""):
            found = self._groups[group].get(name)
            if found is not None:
                key = f"{group}.{name}" if group else name
                self._read.add(key)
                return key, found
        return "", None

    def whole(self, name: str, *groups: str, least: int = 1) -> int | None:
        """Return a whole number; None if absent."""
        key, value = self.value(name, *groups)
        if value is None:
            return None
        if type(value) is not int or not least <= value <= _MAX_WHOLE:
            raise refusal(f"config.json: {key} is {shown(value)}, a whole number from {least} on is needed; correct it")
        return value

    def number(self, name: str, *groups: str) -> float | None:
        """Return a finite number above zero; None if absent."""
        key, value = self.value(name, *groups)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise refusal(f"config.json: {key} is {shown(value)}, a number above 0 is needed; correct it")
        return float(value)

    def flag(self, name: str, *groups: str) -> bool | None:
        """Return true or false; None if absent."""
        key, value = self.value(name, *groups)
        if value is None:
            return None
        if not isinstance(value, bool):
            raise refusal(f"config.json: {key} is {shown(value)}, true or false is needed; correct it")
        return value

    def word(self, name: str, *groups: str) -> str | None:
        """Return a string; None if absent."""
        key, value = self.value(name, *groups)
        if value is None:
            return None
        if not isinstance(value, str):
            raise refusal(f"config.json: {key} is {shown(value)}, a string is needed; correct it")
        return value

    def object(self, name: str, *groups: str) -> tuple[str, dict[str, Any]]:
        """Return an object and its key; an empty object if absent."""
        key, value = self.value(name, *groups)
        if value is None:
            return "", {}
        if not isinstance(value, dict):
            raise refusal(f"config.json: {key} is {shown(value)}, an object is needed; correct it")
        return key, value

    def ids(self, name: str, *groups: str) -> tuple[str, tuple[int, ...]]:
        """Return a list of layer numbers and its key; an empty list if absent."""
        key, value = self.value(name, *groups)
        if value is None or value == []:
            return "", ()
        if not isinstance(value, list) or not all(type(each) is int for each in value):
            raise refusal(f"config.json: {key} is {shown(value)}, a list of layer numbers is needed; correct it")
        return key, tuple(value)

    def unread(self) -> tuple[str, ...]:
        """Return every dotted key that has a value and was not read."""
        found = []
        for group, values in self._groups.items():
            for name, value in values.items():
                key = f"{group}.{name}" if group else name
                if key not in self._read and key not in (LAYER, EAGLE) and value is not None:
                    found.append(key)
        return tuple(sorted(found))


class Fields:
    """The fields of a draft's config as they are read, with the assumptions made.

    Args:
        overrides: Fields that the caller set, with their values; the file's values for them are ignored.
    """

    def __init__(self, overrides: Mapping[str, Any]) -> None:
        self._overrides = overrides
        self.found: dict[str, Any] = dict(overrides)
        self.assumed: list[Assumption] = []

    @property
    def overridden(self) -> frozenset[str]:
        """Names of the fields that the caller set."""
        return frozenset(self._overrides)

    def take(self, name: str, read: Callable[[], T]) -> T:
        """Set a field to the caller's value, or else to what `read` returns, and return the value."""
        if name not in self._overrides:
            self.found[name] = read()
        value: T = self.found[name]
        return value

    def assume(self, field: str, value: Any, why: str) -> None:
        """Record a value that the files do not say plainly."""
        self.assumed.append(Assumption(field=field, value=value, why=why))
