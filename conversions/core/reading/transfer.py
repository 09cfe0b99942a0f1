"""One file from one URL: complete under its name, or in NAME.part until it is.

A broken transfer resumes where it stopped, if the server still offers the same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import CheckpointError, DamagedFileError, DownloadError
from . import json
from .integrity import Progress

if TYPE_CHECKING:
    import requests

_PATIENCE: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further attempt; starts over whenever an attempt made progress."""
_TIMEOUT: tuple[float, float] = (15, 60)
_CHUNK = 1 << 20
BY_HAND = "download it another way and give the path of the file"


def without_secrets(location: str | Path) -> str:
    """A location for messages: without user, password, query and fragment."""
    text = str(location)
    if "://" not in text or text.startswith("hf://"):
        return text
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check(path: Path, shown: str, size: int | None, sha256: str | None) -> None:
    if size is not None and path.is_file() and path.stat().st_size != size:
        raise DamagedFileError(f"{shown}: has {path.stat().st_size} bytes, not {size}")
    if sha256 is not None and path.is_file() and (found := _sha256(path)) != sha256.lower():
        raise DamagedFileError(f"{shown}: has SHA-256 {found}, not {sha256.lower()}")


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file, memoryview(buffer) as view:
        while count := file.readinto(buffer):
            sha.update(view[:count])
    return sha.hexdigest()


def without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


class _BrokenError(Exception):
    """An attempt ended early; another one may help."""


class UnreachableError(DownloadError):
    """A server does not answer."""


class NotServedError(DownloadError):
    """A server has nothing under an address, or nothing for everyone."""


class Download:
    """One URL and the file that it becomes."""

    def __init__(
        self,
        url: str,
        target: Path,
        progress: Progress | None,
        size: int | None,
        sha256: str | None,
        offline_ok: bool,
    ) -> None:
        self.url = url
        self.shown = without_secrets(url)
        self.target = target
        self.part = target.with_name(target.name + ".part")
        self.facts = target.with_name(f".{target.name}.json")
        self.part_facts = target.with_name(f".{target.name}.part.json")
        self.progress = progress
        self.size = size
        self.sha256 = sha256.lower() if sha256 else None
        self.offline_ok = offline_ok
        self.identity = hashlib.sha256(without_user(url).encode()).hexdigest()

    def path(self) -> Path:
        """The complete file, from the cache or from the server."""
        with self._locked():
            if not self._is_cached():
                self._fetch()
        return self.target

    def path_if_served(self) -> Path | None:
        """The complete file, asked for once; None when the server has none for everyone.

        Raises:
            UnreachableError: the server does not answer, and the cache does not hold the file.
            DownloadError: the file cannot be fetched whole.
        """
        with self._locked():
            if self._is_cached():
                return self.target
            try:
                self._attempt()
            except NotServedError:
                return None
            except _BrokenError as error:
                raise UnreachableError(f"{self.shown}: {error}") from None
            self._accept()
        return self.target

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder, and the right to write into it: two processes must not write one .part."""
        from filelock import FileLock

        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.target.with_name(f".{self.target.name}.lock")):
                yield
        except OSError as error:
            raise DownloadError(
                f"{self.shown}: cannot be stored as {self.target}: {error.strerror}",
                hint="set TORCH_HOME to a folder with room",
            ) from None

    # what is there already

    def _is_cached(self) -> bool:
        if not self.target.is_file():
            return False
        size = self.target.stat().st_size
        if self.size not in (None, size):
            return False
        if self.sha256 is not None:
            return _sha256(self.target) == self.sha256
        facts = _read_json(self.facts)
        if facts:
            return facts.get("url") == self.identity and facts.get("size") == size
        return self.size is not None or self._is_same_as_served(size)

    def _is_same_as_served(self, size: int) -> bool:
        """Whether a file that another program cached is the served one, judged by its size."""
        import requests

        try:
            head = requests.head(self.url, allow_redirects=True, timeout=_TIMEOUT, headers=_HEADERS)
            head.raise_for_status()
            served = _number(head.headers.get("Content-Length"))
        except (requests.RequestException, ValueError):
            if self.offline_ok:
                return True
            raise DownloadError(
                f"{self.shown}: cannot be reached to compare {self.target} with it"
            ) from None
        if served == size:
            self._write_facts(self.facts, {"size": size})
            return True
        return False

    def _write_facts(self, path: Path, facts: dict[str, Any]) -> None:
        path.write_text(dumps({"url": self.identity, **facts}))

    # the transfer

    def _fetch(self) -> None:
        waits, furthest = iter(_PATIENCE), self._part_size()
        while True:
            try:
                self._attempt()
                break
            except _BrokenError as error:
                if self._part_size() > furthest:
                    waits, furthest = iter(_PATIENCE), self._part_size()
                wait = next(waits, None)
                if wait is None:
                    hint = f"run it again to go on where it stopped, or {BY_HAND}"
                    raise DownloadError(f"{self.shown}: {error}", hint=hint) from None
                time.sleep(wait)
        self._accept()

    def _part_size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _attempt(self) -> None:
        facts = _read_json(self.part_facts)
        have = self._part_size() if facts.get("url") == self.identity else 0
        if have and have == facts.get("total"):
            return
        with self._request(have, facts) as response:
            start = self._start_of(response, have, facts)
            if start is None:
                self._discard()
                raise _BrokenError("the server's file has changed")
            total = self._total(response, start)
            self._refuse_impossible(response, start, total)
            facts = {"total": total, **_validators(response)}
            self._write_facts(self.part_facts, facts)
            self._receive(response, start, total)

    @contextlib.contextmanager
    def _request(self, have: int, facts: dict[str, Any]) -> Iterator[requests.Response]:
        import requests

        headers = dict(_HEADERS)
        if have:
            headers["Range"] = f"bytes={have}-"
            validator = facts.get("etag") or facts.get("modified") or ""
            if validator and not validator.startswith("W/"):
                headers["If-Range"] = validator
        try:
            with self._response(headers) as response:
                yield response
        # their texts hold the whole URL with its query, so they are not shown
        except requests.exceptions.SSLError:
            raise DownloadError(
                f"{self.shown}: its certificate is not accepted", hint=BY_HAND
            ) from None
        except requests.exceptions.Timeout:
            raise _BrokenError("the server does not answer") from None
        except requests.exceptions.ChunkedEncodingError:
            raise _BrokenError("the connection broke") from None
        except requests.exceptions.ConnectionError:
            raise _BrokenError("the server cannot be reached, or the connection broke") from None
        except requests.RequestException as error:
            raise DownloadError(f"{self.shown}: {type(error).__name__}", hint=BY_HAND) from None

    def _response(self, headers: dict[str, str]) -> requests.Response:
        import requests

        try:
            return requests.get(self.url, stream=True, timeout=_TIMEOUT, headers=headers)
        except requests.RequestException:
            raise
        except ValueError:  # urllib's, of an address that the server sent
            raise DownloadError(
                f"{self.shown}: the server redirects to an invalid address", hint=BY_HAND
            ) from None

    def _start_of(
        self, response: requests.Response, have: int, facts: dict[str, Any]
    ) -> int | None:
        """Where the body belongs in the file; None when the part is of another file."""
        status = response.status_code
        if status == 200:
            return 0
        if status == 416:
            return None
        if status == 206:
            given = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "")
            )
            fresh = _validators(response)
            same = all(fresh[key] in (None, facts.get(key)) for key in fresh)
            if given is None or int(given[1]) != have or not same:
                return None
            return have if given[2] in ("*", str(facts.get("total"))) else None
        if status in (408, 425, 429) or status >= 500:
            raise _BrokenError(f"the server answers with status {status}")
        if status in (401, 403, 407):
            raise NotServedError(f"{self.shown}: access is refused (status {status})", hint=BY_HAND)
        if status in (404, 410):
            raise NotServedError(
                f"{self.shown}: is not there (status {status})", hint="check the address"
            )
        raise DownloadError(f"{self.shown}: unexpected answer (status {status})", hint=BY_HAND)

    @staticmethod
    def _total(response: requests.Response, start: int) -> int | None:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            return None  # Content-Length counts the encoded bytes
        length = _number(response.headers.get("Content-Length"))
        return None if length is None else start + length

    def _refuse_impossible(
        self, response: requests.Response, start: int, total: int | None
    ) -> None:
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise self._web_page()
        if total is None:
            return
        if self.size not in (None, total):
            raise DownloadError(
                f"{self.shown}: the server offers {total} bytes, {self.size} are expected"
            )
        free = shutil.disk_usage(self.target.parent).free
        if total - start > free:
            raise DownloadError(
                f"{self.shown}: needs {total - start} bytes, {self.target.parent} has {free} free",
                hint="set TORCH_HOME to a folder with room",
            )

    def _web_page(self) -> DownloadError:
        return NotServedError(
            f"{self.shown}: the server answers with a web page instead of the file",
            hint=f"it may want a login or a confirmation: {BY_HAND}",
        )

    def _receive(self, response: requests.Response, start: int, total: int | None) -> None:
        done = start
        with self.part.open("ab" if start else "wb") as file:
            for chunk in _pieces(response):
                if done == 0 and chunk.lstrip()[:14].lower().startswith(_WEB_PAGE):
                    raise self._web_page()
                file.write(chunk)
                done += len(chunk)
                if self.progress:
                    self.progress(self.target.name, done, total or 0)
        if total is not None and done < total:
            raise _BrokenError(f"the connection ended after {done} of {total} bytes")
        if total is not None and done > total:
            self._discard()
            raise _BrokenError(f"the server sent {done} bytes and announced {total}")
        length = _number(response.headers.get("Content-Length"))
        if total is None and length is not None and response.raw.tell() < length:
            raise _BrokenError(
                f"the connection ended after {response.raw.tell()} of {length} bytes"
            )
        if done == 0:
            raise _BrokenError("the server sent nothing")
        if total is None:
            self._write_facts(self.part_facts, {"total": done})

    def _accept(self) -> None:
        """Check the complete file and give it its name."""
        size = self._part_size()
        if self.size not in (None, size):
            self._discard()
            raise DownloadError(f"{self.shown}: has {size} bytes, {self.size} are expected")
        promised = self.sha256 or _hash_in_name(self.target.name)
        if promised and not (found := _sha256(self.part)).startswith(promised):
            self._discard()
            raise DownloadError(
                f"{self.shown}: has SHA-256 {found[: len(promised)]}, {promised} is expected",
                hint="the file on the server is another one, or was altered on its way",
            )
        # recorded facts of an earlier file of this name do not apply to this one
        self.facts.unlink(missing_ok=True)
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.part, self.target)
        self._write_facts(self.facts, {"size": size})
        self.part_facts.unlink(missing_ok=True)

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.part_facts.unlink(missing_ok=True)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives; iter_content would lose up to a chunk on a broken connection."""
    import urllib3.exceptions

    read = getattr(response.raw, "read1", response.raw.read)
    try:
        while piece := read(_CHUNK, decode_content=True):
            yield piece
    except urllib3.exceptions.HTTPError:
        raise _BrokenError("the connection broke") from None


_WEB_PAGE = (b"<!doctype html", b"<html")
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "checkpoint-conversions"}


def _validators(response: requests.Response) -> dict[str, str | None]:
    headers = response.headers
    return {"etag": headers.get("ETag"), "modified": headers.get("Last-Modified")}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text) else None


def _read_json(path: Path) -> dict[str, Any]:
    """The facts recorded beside a file; {} when absent or unreadable."""
    try:
        facts = json.read(path, CheckpointError, longest=1 << 16)
    except (FileNotFoundError, CheckpointError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _hash_in_name(name: str) -> str | None:
    """The beginning of the SHA-256 that torch hub files carry: resnet50-0676ba61.pth."""
    found = re.search(r"-([0-9a-f]{8})\.\w+$", name)
    # a date looks like one
    return found[1] if found and not re.fullmatch(r"(19|20)\d{6}", found[1]) else None
