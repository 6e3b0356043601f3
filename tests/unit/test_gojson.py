"""gojson: what Go reads and prints differently from Python's json."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld import gojson

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    "text",
    ["", "{", "NaN", "[Infinity]", '{"a":-Infinity}', "{'a':1}", "1 2", "[" * 100_000, "\ufeff{}"],
)
def test_what_go_refuses_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        gojson.loads(text)


def test_bytes_are_utf8_and_never_guessed() -> None:
    assert gojson.loads(b'"a\xffb"') == "a\ufffdb"
    with pytest.raises(ValueError, match=r"."):
        gojson.loads('{"PublicIP":"10.0.0.1"}'.encode("utf-16"))


def test_prints_go_escapes() -> None:
    value = {"b": '<a href="x">&\u2028\u2029\\\n\x01\x7f', "a": [1, True, None, "ü"]}
    assert gojson.dumps(value) == (
        b'{"b":"\\u003ca href=\\"x\\"\\u003e\\u0026\\u2028\\u2029\\\\\\n\\u0001\x7f",'
        b'"a":[1,true,null,"\xc3\xbc"]}'
    )


def test_prints_a_lone_surrogate_as_go_does() -> None:
    assert gojson.dumps(gojson.loads('"x\\ud800"')) == b'"x\\ufffd"'


@given(JSON)
def test_what_is_printed_reads_back(value: object) -> None:
    assert gojson.loads(gojson.dumps(value)) == value


@given(st.text())
def test_shown_is_one_short_printable_line(text: str) -> None:
    quoted = gojson.shown(text)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert len(quoted) <= 10 * 60 + 2


def test_kinds_are_named_as_json_names_them() -> None:
    found = [gojson.kind(value) for value in json.loads('[null, true, 1, 1.5, "", [], {}]')]
    assert found == ["null", "boolean", "number", "number", "string", "list", "object"]
