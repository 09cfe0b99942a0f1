"""Downloads: whole or not at all, taken up where they broke, never the wrong file, no secrets."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import errors

from conversions.core.errors import CheckpointError, DamagedFileError, DownloadError
from conversions.core.reading import download, transfer
from conversions.core.reading.checkpoint import fetch, open_checkpoint
from conversions.core.reading.download import cache_folder
from conversions.core.reading.transfer import without_secrets
from tests import http_server
from tests.http_server import Served, Server

BODY = bytes(range(256)) * 4096
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "_PATIENCE", (0.0, 0.0, 0.0))
    with http_server.running() as server:
        yield server


def left_over(suffix: str = ".part") -> list[str]:
    """Names in the cache that are no finished file."""
    return [path.name for path in cache_folder().rglob("*") if path.name.endswith(suffix)]


def refusal(url: str, *words: str, **more: Any) -> str:
    """The message with which a download fails; nothing bears the final name then."""
    with pytest.raises(DownloadError) as caught:
        fetch(url, **more)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert not [path for path in cache_folder().glob("*.pt") if path.is_file()]
    return message


# what arrives


def test_a_file_is_fetched_once(server: Server) -> None:
    """The second time the cached file is used without asking the server."""
    server.files["a/model.pt"] = Served(BODY)
    (path,) = fetch(server.url("a/model.pt"))
    assert path == cache_folder() / "model.pt"
    assert path.read_bytes() == BODY
    assert fetch(server.url("a/model.pt")) == [path]
    assert len(server.requests) == 1
    assert not left_over() and not left_over(".part.json")


def test_the_cache_is_that_of_torch_hub(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TORCH_HOME, XDG_CACHE_HOME and the default are followed, with torch imported or not."""
    assert cache_folder() == Path(torch.hub.get_dir(), "checkpoints")
    for name, value in (("TORCH_HOME", "home"), ("XDG_CACHE_HOME", "cache"), ("HOME", "user")):
        monkeypatch.setenv(name, str(tmp_path / value))
        if name != "TORCH_HOME":
            monkeypatch.delenv({"XDG_CACHE_HOME": "TORCH_HOME", "HOME": "XDG_CACHE_HOME"}[name])
        with_torch = cache_folder()
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "torch")
            assert cache_folder() == with_torch


def test_a_url_opens_as_a_checkpoint(server: Server, tmp_path: Path) -> None:
    """open_checkpoint takes a URL, as text or mangled into a Path, and keeps it as location."""
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "x.pt")
    server.files["x.pt"] = Served((tmp_path / "x.pt").read_bytes())
    for location in (server.url("x.pt"), Path(server.url("x.pt"))):
        with open_checkpoint(location) as checkpoint:
            assert checkpoint.trees["model"]["w"].tolist() == [1, 1]
            assert checkpoint.files == (cache_folder() / "x.pt",)
            assert checkpoint.location.endswith("x.pt")


def test_progress_counts_up_to_the_size(server: Server) -> None:
    """Progress is told in bytes, with the total, and ends at it."""
    server.files["model.pt"] = Served(BODY * 3)
    told: list[tuple[str, int, int]] = []
    fetch(server.url("model.pt"), lambda *state: told.append(state))
    assert {(label, total) for label, _, total in told} == {("model.pt", 3 * len(BODY))}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == 3 * len(BODY)


def test_redirects_are_followed(server: Server) -> None:
    """A redirect to a signed address works; the file keeps the name that was asked for."""
    server.files["model.pt"] = Served(b"", redirect=server.url("store/123?signature=s3cret"))
    server.files["store/123"] = Served(BODY)
    assert fetch(server.url("model.pt"))[0].name == "model.pt"


def test_an_index_brings_its_shards(server: Server, tmp_path: Path) -> None:
    """The index and all shards that it names are fetched into a folder of their own."""
    places = {}
    for number in (1, 2):
        name = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({f"w{number}": torch.ones(number)}, tmp_path / name)
        server.files[f"repo/{name}"] = Served((tmp_path / name).read_bytes())
        places[f"w{number}"] = name
    index = json.dumps({"weight_map": places}).encode()
    server.files["repo/pytorch_model.bin.index.json"] = Served(index)
    url = server.url("repo/pytorch_model.bin.index.json")
    paths = fetch(url)
    assert [path.name for path in paths] == ["pytorch_model.bin.index.json", *places.values()]
    assert len({path.parent for path in paths}) == 1 and paths[0].parent != cache_folder()
    with open_checkpoint(url) as checkpoint:
        assert sorted(checkpoint.tree("")) == ["w1", "w2"]


def test_local_paths_are_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is returned as it is, `~` resolved; size and hash are checked when given."""
    (tmp_path / "model.pt").write_bytes(BODY)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("~/model.pt", size=len(BODY), sha256=SHA.upper()) == [tmp_path / "model.pt"]
    with pytest.raises(DamagedFileError, match="has 1048576 bytes, not 5"):
        fetch(tmp_path / "model.pt", size=5)
    with pytest.raises(DamagedFileError, match=f"has SHA-256 {SHA}, not 00"):
        fetch(tmp_path / "model.pt", sha256="00" * 32)


# what breaks


def test_a_broken_connection_is_taken_up_where_it_stopped(server: Server) -> None:
    """Each attempt asks only for what is missing."""
    server.files["model.pt"] = Served(BODY, breaks=[1000, 200_000, 5])
    (path,) = fetch(server.url("model.pt"), size=len(BODY), sha256=SHA)
    assert path.read_bytes() == BODY
    assert server.ranges() == [None, "bytes=1000-", "bytes=201000-", "bytes=201005-"]


def test_an_interrupted_download_goes_on_in_the_next_run(server: Server) -> None:
    """What an earlier process left as .part is continued, and never used as the file."""
    url = server.url("model.pt")
    server.files["model.pt"] = Served(BODY, breaks=[300_000, 0, 0, 0])
    message = refusal(url, "the connection", "run it again")
    assert left_over() == ["model.pt.part"] and "Traceback" not in message
    server.requests.clear()
    assert fetch(url)[0].read_bytes() == BODY
    assert server.ranges() == ["bytes=300000-"]


@pytest.mark.parametrize("validator", ["etag", "date", "weak etag", "size"])
def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(
    server: Server, validator: str
) -> None:
    """Parts of two versions are never joined, whatever tells the server's versions apart."""
    first = Served(BODY, etag=None, breaks=[500_000, 0, 0, 0])
    other = Served(BODY[::-1], etag=None)
    if validator == "etag":
        first.etag, other.etag = '"1"', '"2"'
    elif validator == "weak etag":
        first.etag, other.etag = 'W/"1"', 'W/"2"'
    elif validator == "date":
        first.modified, other.modified = 1e9, 1.5e9
    else:
        other.body += b"more"
    server.files["model.pt"] = first
    refusal(server.url("model.pt"), "connection")
    server.files["model.pt"] = other
    assert fetch(server.url("model.pt"))[0].read_bytes() == other.body


def test_a_server_without_ranges_starts_again(server: Server) -> None:
    """A server that ignores Range sends everything, and everything is taken."""
    server.files["model.pt"] = Served(BODY, ranges=False, breaks=[400_000])
    assert fetch(server.url("model.pt"))[0].read_bytes() == BODY


def test_a_part_that_is_longer_than_the_file_is_dropped(server: Server) -> None:
    """A range beyond the end (416) leads to a fresh start."""
    server.files["model.pt"] = Served(BODY * 2, etag=None, breaks=[len(BODY) + 9, 0, 0, 0])
    refusal(server.url("model.pt"), "connection")
    server.files["model.pt"] = Served(BODY, etag=None)
    assert fetch(server.url("model.pt"))[0].read_bytes() == BODY


def test_a_part_of_another_address_is_not_continued(server: Server) -> None:
    """Files of one name at two addresses do not mix, finished or not."""
    server.files["a/model.pt"] = Served(BODY, breaks=[500_000, 0, 0, 0])
    server.files["b/model.pt"] = Served(BODY[::-1])
    refusal(server.url("a/model.pt"), "connection")
    assert fetch(server.url("b/model.pt"))[0].read_bytes() == BODY[::-1]
    assert fetch(server.url("a/model.pt"))[0].read_bytes() == BODY


def test_a_complete_part_is_finished_without_the_server(server: Server) -> None:
    """A process killed between the last byte and the renaming loses nothing."""
    server.files["model.pt"] = Served(BODY)
    url = server.url("model.pt")
    (path,) = fetch(url)
    facts = path.with_name(".model.pt.json")
    known = json.loads(facts.read_text())
    path.rename(path.with_name("model.pt.part"))
    facts.rename(path.with_name(".model.pt.part.json"))
    path.with_name(".model.pt.part.json").write_text(
        json.dumps({"url": known["url"], "total": len(BODY), "etag": '"1"', "modified": None})
    )
    assert fetch(url)[0].read_bytes() == BODY
    assert len(server.requests) == 1


def test_passing_errors_of_the_server_are_waited_out(server: Server) -> None:
    """429 and 5xx are tried again, a few times."""
    server.files["model.pt"] = Served(BODY, statuses=[503, 429, 500, 200])
    assert fetch(server.url("model.pt"))[0].read_bytes() == BODY
    server.files["other.pt"] = Served(BODY, statuses=[503] * 10)
    with pytest.raises(DownloadError, match="answers with status 503"):
        fetch(server.url("other.pt"))
    assert len(server.files["other.pt"].statuses) == 6


@pytest.mark.parametrize(
    "status, words",
    [
        (404, "not there"),
        (410, "not there"),
        (401, "refused"),
        (403, "refused"),
        (400, "unexpected answer"),
        (204, "unexpected answer"),
    ],
)
def test_lasting_errors_of_the_server_are_said_at_once(
    server: Server, status: int, words: str
) -> None:
    """What trying again cannot mend is not tried again."""
    server.files["model.pt"] = Served(BODY, statuses=[status])
    refusal(server.url("model.pt"), words, f"status {status}")
    assert len(server.requests) == 1


def test_a_body_that_is_shorter_than_announced_is_not_accepted(server: Server) -> None:
    """Content-Length is held against what came, every time."""
    server.files["model.pt"] = Served(BODY, ranges=False, breaks=[len(BODY) - 1] * 9)
    refusal(server.url("model.pt"), "connection")


def test_a_file_of_unannounced_length_is_accepted_unless_its_size_is_known(server: Server) -> None:
    """Without Content-Length the end of the answer is the end, and `size` decides."""
    server.files["model.pt"] = Served(BODY, length=False)
    assert fetch(server.url("model.pt"))[0].read_bytes() == BODY
    server.files["cut.bin"] = Served(BODY[:-1], length=False)
    with pytest.raises(DownloadError, match="has 1048575 bytes, 1048576 are expected"):
        fetch(server.url("cut.bin"), size=len(BODY))


# the wrong file


def test_size_and_hash_are_checked(server: Server) -> None:
    """A file of another size is not even fetched; one of another hash is not kept."""
    server.files["model.pt"] = Served(BODY)
    url = server.url("model.pt")
    refusal(url, "the server offers 1048576 bytes, 7 are expected", size=7)
    refusal(url, f"has SHA-256 {SHA}", "is expected", sha256="ab" * 32)
    assert not left_over()
    assert fetch(url, size=len(BODY), sha256=SHA)[0].read_bytes() == BODY


def test_a_cached_file_with_another_hash_is_fetched_again(server: Server) -> None:
    """A cached file that is not the expected one is replaced."""
    server.files["model.pt"] = Served(BODY)
    (path,) = fetch(server.url("model.pt"))
    path.write_bytes(BODY[::-1])
    assert fetch(server.url("model.pt"), sha256=SHA)[0].read_bytes() == BODY


def test_the_hash_in_a_file_name_is_checked(server: Server) -> None:
    """Names like torch hub's, resnet50-0676ba61.pth, promise the beginning of the SHA-256."""
    server.files[f"model-{SHA[:8]}.pth"] = Served(BODY)
    assert fetch(server.url(f"model-{SHA[:8]}.pth"))[0].read_bytes() == BODY
    server.files["model-0676ba61.pth"] = Served(BODY)
    refusal(server.url("model-0676ba61.pth"), SHA[:8], "0676ba61 is expected")
    server.files["model-20230601.pth"] = Served(BODY)
    assert fetch(server.url("model-20230601.pth"))[0].read_bytes() == BODY


@pytest.mark.parametrize("type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_not_taken_for_a_checkpoint(server: Server, type: str) -> None:
    """A login page with status 200 is recognised by its type or by its first bytes."""
    server.files["model.pt"] = Served(b"\n<!DOCTYPE html><html>Sign in</html>", type=type)
    refusal(server.url("model.pt"), "web page", "login")


def test_a_file_that_torch_hub_cached_is_used(server: Server) -> None:
    """A cached file of unknown origin is used when its size is the server's, else replaced."""
    server.files["model.pt"] = Served(BODY)
    cache_folder().mkdir(parents=True)
    (cache_folder() / "model.pt").write_bytes(BODY)
    fetch(server.url("model.pt"))
    fetch(server.url("model.pt"))
    assert [method for method, *_ in server.requests] == ["HEAD"]
    server.files["other.pt"] = Served(BODY)
    (cache_folder() / "other.pt").write_bytes(b"something else")
    assert fetch(server.url("other.pt"))[0].read_bytes() == BODY


def test_no_room_is_said_before_it_is_needed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of a file is held against the free space first."""
    server.files["model.pt"] = Served(BODY)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    refusal(server.url("model.pt"), "needs 1048576 bytes", "1000 free", "TORCH_HOME")


def test_a_cache_that_cannot_be_written_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the cache folder should be gives a message, not a traceback."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    server.files["model.pt"] = Served(BODY)
    refusal(server.url("model.pt"), "cannot be stored", "TORCH_HOME")


# offline


def test_no_server_is_said_with_the_way_out(server: Server) -> None:
    """Without a connection the message names the address and what to do instead."""
    refusal("http://127.0.0.1:9/model.pt", "cannot be reached", "give the path")


def test_the_cache_serves_offline(server: Server) -> None:
    """Known files need no server; unknown ones are used unless offline_ok is off."""
    url = server.url("model.pt")
    server.files["model.pt"] = Served(BODY)
    (path,) = fetch(url)
    gone = "http://127.0.0.1:9/torch.pt"
    path.with_name("torch.pt").write_bytes(BODY)
    server.shutdown()
    assert fetch(url) == [path]
    assert fetch(gone)[0].read_bytes() == BODY
    with pytest.raises(DownloadError, match="to compare"):
        fetch(gone, offline_ok=False)


# names and secrets


@pytest.mark.parametrize(
    "path, name",
    [
        ("a/%2e%2e%2f%2e%2e%2fevil.pt", "evil.pt"),
        ("..%5c..%5cevil.pt", "evil.pt"),
        ("x/.hidden", "hidden"),
        ("", "checkpoint"),
        ("a%00b.pt", "a_b.pt"),
        ("m.pt/?x=1", "m.pt"),
    ],
)
def test_no_address_leaves_the_cache_folder(server: Server, path: str, name: str) -> None:
    """The file name from a URL is one plain name, whatever the URL holds."""
    assert download._file_name(server.url(path)) == name
    assert download._file_name(server.url("x" * 999)) == "x" * 150


@pytest.mark.parametrize("flaw", ["missing", "refused", "html", "broken", "hash", "unreachable"])
def test_secrets_of_an_address_are_never_shown_nor_stored(server: Server, flaw: str) -> None:
    """User, password, query and fragment stay out of messages, chained errors and files."""
    status = {"missing": [404], "refused": [403], "broken": [503] * 9}.get(flaw, [])
    kind = "text/html" if flaw == "html" else "application/octet-stream"
    server.files["model.pt"] = Served(BODY, statuses=status, type=kind)
    port = 9 if flaw == "unreachable" else server.server_address[1]
    url = f"http://user:s3cret@127.0.0.1:{port}/model.pt?token=s3cret#s3cret"
    with pytest.raises(DownloadError) as caught:
        fetch(url, sha256="00" * 32)
    assert "s3cret" not in str(caught.value) and "/model.pt" in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    server.files["model.pt"] = Served(BODY)
    if flaw != "unreachable":
        fetch(url)
        assert server.authorizations[-1] is not None
    for file in cache_folder().rglob("*"):
        assert file.is_dir() or b"s3cret" not in file.read_bytes()


def test_locations_are_shown_without_secrets() -> None:
    """What messages and reports show of a location."""
    assert without_secrets("https://u:p@host:1/a/b.pt?x=y#z") == "https://host:1/a/b.pt"
    assert without_secrets("hf://org/name/file@main") == "hf://org/name/file@main"
    assert without_secrets(Path("/a/b?c.pt")) == "/a/b?c.pt"


@pytest.mark.parametrize("location", ["ftp://host/x.pt", "s3://bucket/x.pt", "file:///x.pt"])
def test_other_schemes_are_refused_in_words(location: str) -> None:
    """A scheme that is not read says what is."""
    with pytest.raises(CheckpointError, match="is not supported"):
        fetch(location)


def test_an_address_that_is_none_is_refused(server: Server) -> None:
    """Garbled URLs give a message."""
    for url in ("http://[bad/x.pt", "http:///x.pt", "http://host:port/x.pt"):
        with pytest.raises(CheckpointError):
            fetch(url)


# two processes

CODE = (
    "import sys; from conversions.core.reading.download import fetch; print(fetch(sys.argv[1])[0])"
)


def run(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_fetch_a_file_once(server: Server) -> None:
    """The second process waits for the first and uses its file."""
    server.files["model.pt"] = Served(BODY)
    processes = [run(CODE, server.url("model.pt")) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert {out.strip() for out, _ in answers} == {str(cache_folder() / "model.pt")}, answers
    assert len(server.requests) == 1


def test_a_killed_download_leaves_no_file(server: Server) -> None:
    """Killed in the middle, nothing bears the name; the next run completes it."""
    server.files["model.pt"] = Served(BODY * 64)
    slow = CODE.replace(
        "print(fetch(sys.argv[1])[0])",
        "import time; fetch(sys.argv[1], lambda *_: time.sleep(0.2))",
    )
    process = run(slow, server.url("model.pt"))
    part = cache_folder() / "model.pt.part"
    for _ in range(500):
        if part.exists() and part.stat().st_size:
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert part.exists() and not (cache_folder() / "model.pt").exists()
    assert fetch(server.url("model.pt"))[0].read_bytes() == BODY * 64
    assert server.ranges()[-1] is not None


# the hub


def hub(server: Server, location: str, tmp_path: Path, **environment: str) -> tuple[list[str], str]:
    """Paths and error message of fetching from a hub that the local server plays."""
    code = (
        "import sys\nfrom conversions.core.reading.download import fetch\n"
        "from conversions.core.errors import DownloadError\n"
        "try:\n    print(*fetch(sys.argv[1]), sep='\\n')\n"
        "except DownloadError as error:\n    print(error, file=sys.stderr)\n"
    )
    settings = {
        "HF_ENDPOINT": server.url("").rstrip("/"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_s3cret",
        **environment,
    }
    out, errors = run(code, location, **settings).communicate(timeout=60)
    assert "Traceback" not in errors and "s3cret" not in errors
    return out.split(), errors


def on_hub(server: Server, file: str, body: bytes, revision: str = "main") -> None:
    headers = {"X-Repo-Commit": "0" * 40, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
    for name in (revision, "0" * 40):
        server.files[f"org/name/resolve/{name}/{file}"] = Served(body, etag=None, headers=headers)


def test_hub_files_are_fetched_and_cached(server: Server, tmp_path: Path) -> None:
    """hf://REPO/FILE@REVISION honours HF_ENDPOINT, HF_HOME and HF_TOKEN, and works offline."""
    on_hub(server, "weights/model.pt", BODY, "v1")
    (path,), _ = hub(server, "hf://org/name/weights/model.pt@v1", tmp_path)
    assert Path(path).read_bytes() == BODY
    assert path.startswith(str(tmp_path / "hf"))
    assert "Bearer hf_s3cret" in server.authorizations
    offline = {"HF_HUB_OFFLINE": "1"}
    (path,), _ = hub(server, "hf://org/name@v1/weights/model.pt", tmp_path, **offline)
    assert Path(path).read_bytes() == BODY
    _, errors = hub(server, "hf://org/name/other.pt", tmp_path, **offline)
    assert "is not in the cache" in errors and "HF_HUB_OFFLINE" in errors


def test_a_hub_index_brings_its_shards(server: Server, tmp_path: Path) -> None:
    """All shards of an index on the hub end up beside it."""
    names = [f"model-0000{i}-of-00002.bin" for i in (1, 2)]
    index = json.dumps({"weight_map": dict(zip("ab", names, strict=True))}).encode()
    on_hub(server, "sub/model.bin.index.json", index)
    for name in names:
        on_hub(server, f"sub/{name}", name.encode())
    paths, errors = hub(server, "hf://org/name/sub/model.bin.index.json", tmp_path)
    assert [Path(path).name for path in paths] == ["model.bin.index.json", *names], errors
    assert len({Path(path).parent for path in paths}) == 1


@pytest.mark.parametrize(
    "status, code, words",
    [
        (401, "RepoNotFound", "no such repository"),
        (403, "GatedRepo", "HF_TOKEN"),
        (404, "RevisionNotFound", "no such revision"),
        (404, "EntryNotFound", "has no such file"),
    ],
)
def test_refusals_of_the_hub_are_said_in_words(
    server: Server, tmp_path: Path, status: int, code: str, words: str
) -> None:
    """Missing, private and gated repositories, revisions and files are told apart."""
    server.files["org/name/resolve/v1/model.pt"] = Served(
        b"", statuses=[status] * 9, headers={"X-Error-Code": code, "X-Error-Message": "no"}
    )
    paths, errors = hub(server, "hf://org/name/model.pt@v1", tmp_path)
    assert not paths and words in errors and "hf://org/name/model.pt@v1" in errors


@pytest.mark.parametrize(
    "error, words",
    [
        (errors.LocalEntryNotFoundError("s3cret"), "cannot be reached"),
        (errors.HFValidationError("s3cret"), "not the name of a repository"),
        (TimeoutError("s3cret"), "TimeoutError"),
    ],
)
def test_failures_of_the_hub_client_are_said_in_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """Whatever the client raises becomes a message with the location and without its details."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(DownloadError) as caught:
        fetch("hf://org/name/model.pt")
    assert words in str(caught.value) and "hf://org/name/model.pt" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("location", ["hf://", "hf://org", "hf://org/name", "hf://org/name/"])
def test_a_hub_location_without_a_file_is_refused(location: str) -> None:
    """A repository alone is answered with an example."""
    with pytest.raises(CheckpointError, match="names no file"):
        fetch(location)
