"""JSON as Go's encoding/json reads and prints it, because flannel nodes share our store.

Reading: keys match in any case, the last of several wins, NaN and Infinity are no JSON.
Printing: no spaces, `<`, `>`, `&`, U+2028 and U+2029 escaped, keys in the order given.
"""

from __future__ import annotations

import json
from typing import NoReturn, cast

# What Go escapes and Python does not. A lone surrogate cannot be stored as UTF-8 at all; Go prints
# U+FFFD in its place.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_ESCAPES |= dict.fromkeys(range(0xD800, 0xE000), "\\ufffd")


def loads(text: bytes | str) -> object:
    """Parse one JSON document.

    Raises:
        ValueError: it is not JSON; the message says where.
    """
    if isinstance(text, bytes):
        # Go replaces bytes that are not UTF-8; json.loads on bytes would guess UTF-16 and UTF-32.
        text = text.decode("utf-8", "replace")
    try:
        return cast("object", json.loads(text, parse_constant=_refuse_constant))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: object) -> bytes:
    """Print `value` byte for byte as Go would."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES).encode()


def fold(document: dict[str, object]) -> dict[str, object]:
    """Return the document with its top-level keys case-folded; look up with `name.casefold()`."""
    return {key.casefold(): value for key, value in document.items()}


def kind(value: object) -> str:
    """Name the JSON type of a value, for messages."""
    names = {bool: "boolean", int: "number", float: "number", str: "string"}
    names |= {list: "list", dict: "object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def shown(text: str) -> str:
    """Quote foreign text for a message: ASCII, no control characters, at most about 60 of them."""
    quoted = ascii(text if len(text) <= 60 else text[:57] + "...")
    return f'"{quoted[1:-1]}"' if '"' not in quoted else quoted


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
