"""Objects of a store, read by ranges and written in parts, without a copy on this machine.

fsspec reads from any store. Parts are written in any order by S3's multipart upload; for other
stores the folder is written on this machine first.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, ConversionError, OutputError
from ..core.reading import ranged
from ..core.reading.ranged import Span
from . import storage

_AHEAD = 4 << 20
"""Bytes of one request of a stream; the next request runs while one answer is read."""
_KEPT = 3
_PATIENCE = 5
"""How often an interrupted stream is resumed."""
PART = 6 << 20
"""Bytes of one part of an upload; larger if the file would need more than MOST_PARTS."""
MOST_PARTS = 9_000
"""S3 allows ten thousand."""
ROOM = 8
"""Incomplete parts that may wait in memory."""
_GOING = 2
"""Parts that are uploaded at the same time."""
_LEAST = 5 << 20
"""Smallest part that S3 accepts, the last one apart."""


class ObjectRanges:
    """One object, with the interface that core.reading.ranged reads from.

    Raises:
        ConversionError: the store does not describe the object, or not its size.
    """

    def __init__(self, fs: Any, path: str, location: str) -> None:
        self._fs, self._path, self._location = fs, path, location
        with storage.explained(location, "looking at it"):
            size = fs.info(path).get("size")
            self._identity = fs.ukey(path)
        if size is None:
            raise CheckpointError(f"{location}: the store does not say how large it is")
        self.size = int(size)

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        with storage.explained(self._location, "reading a range"):
            if len(spans) == 1:
                found = [self._fs.cat_file(self._path, start=spans[0][0], end=spans[0][1])]
            else:
                starts, ends = [a for a, _ in spans], [b for _, b in spans]
                found = self._fs.cat_ranges([self._path] * len(spans), starts, ends)
        for (start, end), content in zip(spans, found, strict=True):
            if len(content) != end - start:
                raise CheckpointError(
                    f"{self._location}: {len(content)} bytes came for bytes {start} to {end}"
                )
        return found

    @contextlib.contextmanager
    def stream(self) -> Iterator[Any]:
        if hasattr(self._fs, "call_s3"):
            yield _Body(self._fs, self._path, self._location, self.size)
            return
        with storage.explained(self._location, "reading"):
            cache = {"cache_type": "background", "cache_options": {"maxblocks": _KEPT}}
            file = self._fs.open(self._path, "rb", block_size=_AHEAD, **cache)
        with file:
            yield _Stream(file, self._location)

    def changed(self) -> bool:
        with storage.explained(self._location, "looking at it"):
            return bool(self._fs.ukey(self._path) != self._identity)

    def serves(self) -> bool:
        """Whether the store answers a request for a range with that range alone."""
        if self.size < 2:
            return False
        try:
            return len(self._fs.cat_file(self._path, start=self.size - 2, end=self.size - 1)) == 1
        except Exception:  # each store refuses in a way of its own
            return False

    def beginning(self, count: int) -> bytes:
        with storage.explained(self._location, "reading its beginning"):
            return bytes(self._fs.cat_file(self._path, start=0, end=min(count, self.size)))


class _Body:
    """readinto() on one S3 answer for the whole object, resumed where the connection breaks.

    An fsspec file would send hundreds of range requests for one pass over the object.
    """

    def __init__(self, fs: Any, path: str, location: str, size: int) -> None:
        self._fs, self._location = fs, location
        self._bucket, _, self._key = path.partition("/")
        self._size, self._position, self._broken = size, 0, 0
        self._body: Any = None

    def readinto(self, buffer: memoryview) -> int:
        if self._position >= self._size:
            return 0
        content = self._read_on(len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _read_on(self, count: int) -> bytes:
        while True:
            try:
                return self._read(count)
            except ConversionError:
                # the client itself repeats a request only before its answer has begun
                self._body, self._broken = None, self._broken + 1
                if self._broken > _PATIENCE:
                    raise

    def _read(self, count: int) -> bytes:
        from fsspec.asyn import sync

        with storage.explained(self._location, "reading"):
            if self._body is None:
                answer = self._fs.call_s3(
                    "get_object",
                    Bucket=self._bucket,
                    Key=self._key,
                    **({"Range": f"bytes={self._position}-"} if self._position else {}),
                )
                self._body = answer["Body"]
            left = self._size - self._position
            content: bytes = sync(self._fs.loop, self._body.read, min(count, left))
            if not content:
                raise CheckpointError(
                    f"{self._location}: ends after {self._position} of {self._size} bytes"
                )
            return content


class _Stream:
    """readinto() on an fsspec file; errors name the location."""

    def __init__(self, file: Any, location: str) -> None:
        self._file, self._location = file, location

    def readinto(self, buffer: memoryview) -> int:
        with storage.explained(self._location, "reading"):
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class Uploads:
    """Tensor files uploaded to S3 in parts, below one location; see core.writing.elsewhere.

    A context manager: at its end, incomplete uploads are aborted and leave no object. A complete
    object is read wherever the folder's file of that name would be read. before: called once,
    after the last byte was sent and before the first object appears.
    """

    room = ROOM

    def __init__(
        self, location: str, largest: int, before: Callable[[], None] = lambda: None
    ) -> None:
        self._fs, root = storage.filesystem(location)
        self._location = location
        self.bucket, _, self._prefix = root.partition("/")
        self.part = max(PART, _LEAST, -(-largest // MOST_PARTS))
        self.sizes: dict[str, int] = {}
        self._before = before
        self._files: list[_Upload] = []
        self._stack = contextlib.ExitStack()
        self._pool = ThreadPoolExecutor(_GOING, thread_name_prefix="upload")
        self._free = threading.BoundedSemaphore(_GOING)

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.close()
        self._pool.shutdown()
        self._stack.close()

    def file(self, path: Path, beginning: bytes, size: int, told: Callable[[int], None]) -> _Upload:
        self._files.append(_Upload(self, path, beginning, size, told))
        return self._files[-1]

    def call(self, method: str, **arguments: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self.bucket, **arguments)

    def key(self, name: str) -> str:
        return f"{self._prefix.rstrip('/')}/{name}"

    def explained(self, name: str) -> contextlib.AbstractContextManager[None]:
        return storage.explained(storage.join(self._location, name), "uploading")

    def send(self, work: Callable[[], Any]) -> Future[Any]:
        """Run `work` in an upload thread; blocks until one is free: writers wait here."""
        self._free.acquire()
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def appear(self) -> None:
        """Called when a file's bytes were sent; after the last file, all of them become objects."""
        if not all(file.whole for file in self._files):
            return
        self._before()
        for file in self._files:
            self.sizes[file.path.name] = file.bytes
            file.complete()
            location = storage.join(self._location, file.path.name)
            ranges = ObjectRanges(*storage.filesystem(location), location)
            self._stack.enter_context(ranged.served(file.path, ranges))


class _Upload:
    """One file being uploaded part by part; a core.writing.target.Target."""

    def __init__(
        self, uploads: Uploads, path: Path, beginning: bytes, size: int, told: Callable[[int], None]
    ) -> None:
        self.path = path
        self.whole = False
        self._uploads = uploads
        self._beginning = beginning
        self._size = size
        self._told = told
        self._lock = threading.Lock()
        self._id = ""
        self._waiting: dict[int, mmap.mmap] = {}
        self._left: dict[int, int] = {}
        self._sent: dict[int, Future[Any]] = {}

    @property
    def beginning_bytes(self) -> int:
        return len(self._beginning)

    @property
    def bytes(self) -> int:
        return len(self._beginning) + self._size

    def make(self) -> None:
        """Begin the upload; a small file in its place says where the object will be."""
        self.path.write_text(f"lies in {self._uploads.key(self.path.name)}\n", encoding="utf-8")
        with self._uploads.explained(self.path.name):
            key = self._uploads.key(self.path.name)
            answer = self._uploads.call("create_multipart_upload", Key=key)
        self._id = str(answer["UploadId"])
        self._put(memoryview(self._beginning), 0)

    def write(
        self,
        content: memoryview,
        offset: int,
        prepare: Callable[[memoryview], None] = lambda window: None,
    ) -> None:
        """Put bytes at their place, counted from the end of the file's beginning.

        Raises:
            ConversionError: the store refused a part.
        """
        self._put(content, len(self._beginning) + offset)
        self._told(len(content))

    def _put(self, content: memoryview, position: int) -> None:
        part, done = self._uploads.part, 0
        while done < len(content):
            index, place = divmod(position + done, part)
            count = min(part - place, len(content) - done)
            buffer = self._buffer(index)
            buffer[place : place + count] = content[done : done + count]
            done += count
            with self._lock:
                self._left[index] -= count
                full = not self._left[index]
                if full:
                    del self._waiting[index]
            if full:
                self._send(index, buffer)

    def _length(self, index: int) -> int:
        return min(self._uploads.part, self.bytes - index * self._uploads.part)

    def _buffer(self, index: int) -> mmap.mmap:
        with self._lock:
            if index not in self._waiting:
                # pages of its own, which go back to the system as soon as the part was sent
                self._waiting[index] = mmap.mmap(-1, self._length(index))
                self._left[index] = self._length(index)
            return self._waiting[index]

    def _send(self, index: int, buffer: mmap.mmap) -> None:
        for sent in list(self._sent.values()):
            if sent.done():
                sent.result()  # a refused part ends the conversion now, not after the last byte
        self._sent[index] = self._uploads.send(lambda: self._upload(index, buffer))

    def _upload(self, index: int, buffer: mmap.mmap) -> str:
        with self._uploads.explained(self.path.name):
            answer = self._uploads.call(
                "upload_part",
                Key=self._uploads.key(self.path.name),
                UploadId=self._id,
                PartNumber=index + 1,
                Body=bytes(buffer),
            )
        return str(answer["ETag"])

    def finish(self) -> None:
        """Wait for the last part, once all bytes were written.

        Raises:
            ConversionError: the store refused a part, or bytes are missing.
        """
        for sent in list(self._sent.values()):
            sent.result()
        if len(self._sent) != -(-self.bytes // self._uploads.part):
            raise OutputError(f"{self.path.name}: not all of its bytes were written")
        self.whole = True
        self._uploads.appear()

    def complete(self) -> None:
        """Turn the parts into an object.

        If the answer is lost, the client asks again, for an upload that no longer exists: it is
        complete if the object made of these parts is there.

        Raises:
            ConversionError: the store refused, and there is no such object.
        """
        parts = [
            {"PartNumber": index + 1, "ETag": sent.result()}
            for index, sent in sorted(self._sent.items())
        ]
        key = self._uploads.key(self.path.name)
        try:
            with self._uploads.explained(self.path.name):
                self._uploads.call(
                    "complete_multipart_upload",
                    Key=key,
                    UploadId=self._id,
                    MultipartUpload={"Parts": parts},
                )
        except ConversionError:
            if not self._appeared(key, [part["ETag"] for part in parts]):
                raise
        self._id = ""

    def _appeared(self, key: str, tags: Sequence[str]) -> bool:
        """Whether the object is of these parts: it has their size, and S3's digest of digests."""
        with contextlib.suppress(ConversionError, ValueError):
            with self._uploads.explained(self.path.name):
                found = self._uploads.call("head_object", Key=key)
            digests = b"".join(bytes.fromhex(tag.strip('"')) for tag in tags)
            expected = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(tags)}"
            same = str(found["ETag"]).strip('"') == expected
            return same and int(found["ContentLength"]) == self.bytes
        return False

    def close(self) -> None:
        """Abort the upload if it is not complete."""
        for sent in self._sent.values():
            sent.cancel()
        if self._id:
            self._abort()

    def _abort(self) -> None:
        for sent in self._sent.values():
            with contextlib.suppress(Exception):
                sent.result()
        with contextlib.suppress(ConversionError), self._uploads.explained(self.path.name):
            key = self._uploads.key(self.path.name)
            self._uploads.call("abort_multipart_upload", Key=key, UploadId=self._id)
        self._id = ""
        self._waiting.clear()

    def wait(self) -> None:
        """Nothing to wait for: a complete object is in the store."""
