"""Damage: to bytes, to pickle programs, to JSON documents, to zip records and headers."""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Random = random.Random
ODD_NUMBERS = (0, 1, -1, 2, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64, -8)
ODD_VALUES: tuple[Any, ...] = (
    *ODD_NUMBERS,
    10**30,
    10**9,
    None,
    True,
    False,
    "",
    "a",
    "\x00",
    "é" * 50,
    "a" * 3000,
    [],
    {},
    [[]],
    [1],
    [1, 2, 3, 4],
    ["a"],
    [None],
    {"a": 1},
    {"content": 5},
    1.5,
    1e300,
    -0.0,
    "5",
    "1e5",
)
RAW_VALUES = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    rb'"\ud800"',
    b"[" * 500 + b"]" * 500,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b"01",
    b'"\xff"',
    b"'a'",
    b"",
)
DEEP_VALUES = (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 99_999 + b"]" * 99_999, b"9" * 500_000)
"""Values of a size that a recursive reader does not survive."""
MARKER = "\x01raw\x01"


def damage_bytes(content: bytes, rng: Random) -> bytes:
    """A few changes anywhere."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        rng.choice(_BYTE_CHANGES)(changed, rng)
    return bytes(changed)


def _place(content: bytearray, rng: Random) -> int:
    # most of what decides stands at one of the two ends
    span = len(content)
    if not span:
        return 0
    near = min(span, 512)
    end = rng.random()
    if end < 0.3:
        return rng.randrange(near)
    return span - 1 - rng.randrange(near) if end < 0.5 else rng.randrange(span)


def _flip(content: bytearray, rng: Random) -> None:
    if content:
        content[_place(content, rng)] ^= 1 << rng.randrange(8)


def _set(content: bytearray, rng: Random) -> None:
    if content:
        content[_place(content, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _delete(content: bytearray, rng: Random) -> None:
    place = _place(content, rng)
    del content[place : place + rng.choice((1, 2, 4, 8, 64, 1000))]


def _insert(content: bytearray, rng: Random) -> None:
    place = _place(content, rng)
    content[place:place] = rng.randbytes(rng.choice((1, 2, 4, 8, 64)))


def _repeat(content: bytearray, rng: Random) -> None:
    place, length = _place(content, rng), rng.choice((1, 4, 16, 100, 1000))
    content[place:place] = content[place : place + length] * rng.choice((1, 2, 20))


def _truncate(content: bytearray, rng: Random) -> None:
    del content[_place(content, rng) :]


def _number(content: bytearray, rng: Random) -> None:
    place, value = _place(content, rng), rng.choice(ODD_NUMBERS) % 2**64
    width = rng.choice((1, 2, 4, 8))
    content[place : place + width] = struct.pack("<Q", value)[:width]


def _move(content: bytearray, rng: Random) -> None:
    start, length = _place(content, rng), rng.choice((4, 16, 100))
    piece = content[start : start + length]
    del content[start : start + length]
    place = _place(content, rng)
    content[place:place] = piece


_BYTE_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip,
    _flip,
    _set,
    _set,
    _delete,
    _insert,
    _repeat,
    _truncate,
    _number,
    _number,
    _move,
)


def damage_pickle(content: bytes, rng: Random) -> bytes:
    """Whole operations removed, doubled, exchanged or given other arguments."""
    operations = split_pickle(content)
    if not operations:
        return damage_bytes(content, rng)
    for _ in range(rng.choice((1, 1, 2, 5))):
        index = rng.randrange(len(operations))
        change = rng.randrange(6)
        if change == 0:
            del operations[index]
        elif change == 1:
            operations.insert(index, rng.choice(operations))
        elif change == 2:
            operations[index] = rng.choice(operations)
        elif change == 3:
            operations[index] = rng.choice(_OPERATIONS)
        elif change == 4:
            operations[index : index + 1] = [operations[index]] * rng.choice((2, 10, 500))
        else:
            operations[index] = damage_bytes(operations[index], rng)
        if not operations:
            return b""
    return b"".join(operations)


_OPERATIONS = (
    b"N",
    b"}",
    b"]",
    b")",
    b"(",
    b"t",
    b"l",
    b"d",
    b"R",
    b"b",
    b"\x81",
    b"Q",
    b"0",
    b"2",
    b"s",
    b"u",
    b"a",
    b"e",
    b"K\x00",
    b"J\xff\xff\xff\xff",
    b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"\x8b\x40\x0d\x03\x00" + b"\x7f" * 200_000,
    b"I" + b"9" * 4999 + b"\n",
    b"L" + b"9" * 30 + b"L\n",
    b"I01\n",
    b"X\x01\x00\x00\x00a",
    b"cos\nsystem\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n",
    b"ccopyreg\n_reconstructor\n",
    b"c_codecs\nencode\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"h\x00",
    b"q\x00",
    b"\x8c\x03abc",
    b"B\x03\x00\x00\x00abc",
    b"G" + struct.pack(">d", float("nan")),
)


def split_pickle(content: bytes) -> list[bytes]:
    """The operations of a pickle, each with its argument; [] where it is none."""
    try:
        places = [place for _, _, place in pickletools.genops(content)]
    except Exception:  # whatever pickletools says of a damaged one
        return []
    ends = [*places[1:], len(content)]
    return [
        content[start:end] for start, end in zip(places, ends, strict=True) if start is not None
    ]


def damage_json(content: bytes, rng: Random) -> bytes:
    """Values, names and nesting of a document changed; what is not JSON any more, sometimes."""
    try:
        document = json.loads(content)
    except ValueError:
        return damage_bytes(content, rng)
    raw: bytes | None = None
    for _ in range(rng.choice((1, 1, 2, 4))):
        change = rng.random()
        if change < 0.15:
            raw = rng.choice(RAW_VALUES)
            document = _changed(document, MARKER, rng)
        else:
            document = _changed(document, rng.choice(ODD_VALUES), rng)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode()
    if raw is not None:
        text = text.replace(json.dumps(MARKER).encode(), raw)
    if rng.random() < 0.1:
        text = _doubled_name(text, rng)
    return damage_bytes(text, rng) if rng.random() < 0.1 else text


def _changed(value: Any, odd: Any, rng: Random) -> Any:
    """The document with one value in it replaced, removed, renamed or added."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.02:
        return odd
    if isinstance(value, dict):
        name = rng.choice(list(value))
        entries = list(value.items())
        place = list(value).index(name)
        change = rng.random()
        if change < 0.1:
            del entries[place]
        elif change < 0.2:
            entries[place] = (
                rng.choice((name + "x", name.upper(), "", "0", "weight")),
                value[name],
            )
        elif change < 0.3:
            entries.append((rng.choice(("num_labels", "x", name + ".0", "9" * 20)), odd))
        else:
            entries[place] = (name, _changed(value[name], odd, rng))
        return dict(entries)
    place = rng.randrange(len(value))
    change = rng.random()
    if change < 0.1:
        return value[:place] + value[place + 1 :]
    if change < 0.2:
        return [*value[:place], odd, *value[place:]]
    return [*value[:place], _changed(value[place], odd, rng), *value[place + 1 :]]


def _doubled_name(text: bytes, rng: Random) -> bytes:
    start = text.find(b'"')
    end = text.find(b",", start)
    return text if start < 0 or end < 0 else text[:start] + text[start : end + 1] + text[start:]


def damage_safetensors(content: bytes, rng: Random) -> bytes:
    """The header changed as a document, with a length that fits; or its bytes."""
    if rng.random() < 0.3:
        return damage_bytes(content, rng)
    length = int.from_bytes(content[:8], "little")
    header = damage_json(content[8 : 8 + length], rng)
    told = len(header) + rng.choice((0, 0, 0, 0, 0, 1, -1, 1 << 40))
    return struct.pack("<Q", max(told, 0)) + header + content[8 + length :]


def damage_zip(content: bytes, rng: Random) -> bytes:
    """Records changed under sums that fit them, so that the reader meets what is in them."""
    if rng.random() < 0.35:
        return damage_bytes(content, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # whatever zipfile says of a damaged one
        return damage_bytes(content, rng)
    change = rng.random()
    place = rng.randrange(len(records))
    name, data = records[place]
    if change < 0.6:
        places = [i for i, (known, _) in enumerate(records) if known.endswith("data.pkl")]
        place = rng.choice(places or [place])
        records[place] = (records[place][0], damage_pickle(records[place][1], rng))
    elif change < 0.7:
        records[place] = (name, damage_bytes(data, rng))
    elif change < 0.8:
        del records[place]
    elif change < 0.9:
        records.insert(
            place, (rng.choice((name, "code/a", "x/data.pkl", "byteorder", name + "0")), data)
        )
    else:
        records[place] = (rng.choice(("x", "", "a/b/data.pkl", "x" * 2000, name[:-1])), data)
    return pack(records)


def pack(records: list[tuple[str, bytes]]) -> bytes:
    """A zip file of stored records."""
    import warnings

    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, data in records:
            archive.writestr(zipfile.ZipInfo(name or "x"), data)
    return target.getvalue()


def damage_lines(content: bytes, rng: Random) -> bytes:
    """Lines of a text removed, doubled, exchanged, emptied."""
    lines = content.split(b"\n")
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.randrange(len(lines))
        change = rng.randrange(5)
        if change == 0 and len(lines) > 1:
            del lines[place]
        elif change == 1:
            lines.insert(place, rng.choice(lines))
        elif change == 2:
            lines[place] = rng.choice((b"", b"\xff", b"\r", b"a" * 2000, "\u2028".encode()))
        else:
            lines[place] = damage_bytes(lines[place], rng)
    return b"\n".join(lines)
