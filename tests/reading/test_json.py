"""The one reader of JSON: what it takes, what it refuses, and that its work follows the length."""

from __future__ import annotations

import json as standard
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from conversions.core.errors import ConfigError
from conversions.core.reading import json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)

REFUSED = {
    "nothing": b"",
    "cut off": b'{"a": [1, 2',
    "two values": b"{} {}",
    "no UTF-8": b'"\xff"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a name twice": b'{"a": {"b": 1, "b": 2}}',
    "a name twice, escaped": rb'{"a": 1, "\u0061": 1}',
    "NaN": b"[NaN]",
    "Infinity": b"[-Infinity]",
    "an infinite float": b"[1e999]",
    "digits": b"[" + b"9" * 5000 + b"]",
    "negative digits": b"[-" + b"9" * 5000 + b"]",
    "half a pair": rb'["\ud83d"]',
    "half a pair as a name": rb'{"\udc00": 1}',
    "half a pair, capitals": rb'["\uD83D"]',
    "nested lists": b"[" * 200 + b"]" * 200,
    "nested objects": b'{"a":' * 200 + b"1" + b"}" * 200,
    "nested without end": b"[" * 1_000_000,
    "single quotes": b"{'a': 1}",
    "a comment": b'{"a": 1} // one',
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_json_is_refused(name: str) -> None:
    """Every text that is not JSON, or that readers read differently, raises the one error."""
    with pytest.raises(json.MalformedJSON):
        json.loads(REFUSED[name])


@given(VALUES)
def test_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    """A document that somebody wrote with json.dumps comes back as it was, escaped or not."""
    for ascii_only in (True, False):
        text = standard.dumps(value, ensure_ascii=ascii_only)
        try:
            text.encode()
        except UnicodeEncodeError:
            continue
        assert json.loads(text) == value == json.loads(text.encode())


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    """Whatever the bytes are, the outcome is a value that can be written, or the one error."""
    try:
        value = json.loads(content)
    except json.MalformedJSON:
        return
    standard.dumps(value, allow_nan=False).encode()


def test_whole_pairs_and_marks_are_read() -> None:
    """An escaped pair of surrogates is one character; a byte order mark is none."""
    assert json.loads(rb'"\ud83d\ude00"') == "\U0001f600"
    assert json.loads(b"\xef\xbb\xbf[]") == []


def test_no_limit_of_a_tokenizer_is_a_number() -> None:
    """tokenizer_config.json writes 10 ** 30 for a text of any length."""
    assert json.loads(f'{{"model_max_length": {int(1e30)}}}') == {"model_max_length": int(1e30)}


def test_our_own_records_may_hold_what_is_not_finite() -> None:
    """A record of a run keeps an infinite difference."""
    assert json.loads("[Infinity, 1.5]", finite=False) == [float("inf"), 1.5]


def test_names_given_twice_are_all_named() -> None:
    """The error holds every name, not the first."""
    with pytest.raises(json.MalformedJSON) as caught:
        json.loads(b'{"a": 1, "a": 2, "b": {"c": 1, "c": 1}}')
    assert sorted(caught.value.doubled) == ["a", "c"]


def test_too_many_values_are_refused_before_any_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count of values is held against its limit on the text, not on the objects."""
    monkeypatch.setattr(json, "MAX_VALUES", 1000)
    assert len(json.loads("[" + "1," * 900 + "1]")) == 901
    with pytest.raises(json.MalformedJSON, match="more than 1000 values"):
        json.loads("[" + "1," * 1100 + "1]")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX: named pipes and devices")
@pytest.mark.parametrize("kind", ["named pipe", "character device", "folder"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    """A pipe that nobody writes to and a device without end are refused at once, by kind."""
    path = {"character device": Path("/dev/zero"), "folder": tmp_path}.get(kind, tmp_path / "pipe")
    if kind == "named pipe":
        os.mkfifo(path)
    with pytest.raises(ConfigError, match=f"is a {kind}"):
        json.read_object(path, ConfigError)


def test_longer_files_are_not_read(tmp_path: Path) -> None:
    """The length is asked before the content: a sparse file of a terabyte costs nothing."""
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="at most 100 are read"):
        json.read(path, ConfigError, longest=100)
