"""Reads the Backend object of the network config: names in any case, errors with a remedy. Pure.

Which keys there are, each backend says; a key that it does not ask for is passed over, as flannel
does.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunneld import gojson
from tunneld.errors import ConfigError


class BackendConfig:
    """The Backend object of a network config.

    Args:
        document: as it stands there.
        source: where it was read, for messages.
    """

    def __init__(self, document: Mapping[str, object], source: str) -> None:
        self._fields = gojson.fold(dict(document))
        self._source = source

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return a switch; null leaves the default, as in Go.

        Raises:
            ConfigError: it is neither true nor false.
        """
        value = self._fields.get(name.casefold())
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(
                name, f"must be a boolean, not a {gojson.kind(value)}", "write true or false"
            )
        return value

    def whole(self, name: str, *, default: int, low: int, high: int) -> int:
        """Return a whole number between `low` and `high`; null leaves the default, as in Go.

        Raises:
            ConfigError: it is none, or out of range.
        """
        value = self._fields.get(name.casefold())
        if value is None:
            return default
        remedy = f"write a number between {low} and {high}"
        if isinstance(value, bool) or not isinstance(value, int):
            found = str(value) if isinstance(value, float) else f"a {gojson.kind(value)}"
            raise self.refuse(name, f"must be a whole number, not {found}", remedy)
        if not low <= value <= high:
            raise self.refuse(name, f"must lie between {low} and {high}: {value}", remedy)
        return value

    def refuse(self, name: str, message: str, remedy: str) -> ConfigError:
        """Return the error that says what is wrong with a key."""
        return ConfigError(message, field=f"Backend.{name}", source=self._source, remedy=remedy)
