"""Published files over a real HTTP server on this machine, which breaks off, resumes, and speaks like the Hub."""

import hashlib
import http.server
import re
import threading

import pytest
from commands import help_of, refuse, succeed

from marval_ray.hub import published
from marval_ray.hub.download import SUMS, fetch_file, git_blob
from marval_ray.hub.published import PUBLISHED, File, Published

CONTENT = bytes(range(256)) * 5000
FILES = {"/plain.bin": CONTENT, "/owner/name/resolve/main/weights.bin": CONTENT[:1000]}


class Handler(http.server.BaseHTTPRequestHandler):
    """Files by ranges. The server's `limit` is how many bytes it sends before it hangs up; `asked` is what it was asked for."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        self.server.asked.append((self.path, self.headers.get("Range")))
        if "/gated/" in self.path:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = FILES.get(self.path)
        if content is None:
            self.send_error(404)
            return
        begin = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            begin = int(match[1])
            if begin >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content[begin:][: self.server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.limit, server.asked = None, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def address(server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_file_that_broke_off_goes_on_where_it_was(server, tmp_path):
    file = File("plain.bin", f"{address(server)}/plain.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    server.limit = 400_000
    told = "broke off after 400,000 of 1,280,000 bytes; the same command goes on.*place it from http.*at .*plain.bin"
    with pytest.raises(ValueError, match=told):
        fetch_file(file, tmp_path)
    assert not (tmp_path / "plain.bin").exists()
    server.limit = None
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/plain.bin", None), ("/plain.bin", "bytes=400000-")]
    fetch_file(file, tmp_path)
    assert len(server.asked) == 2  # it is there


def test_a_part_that_is_no_part_of_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "plain.bin.part").write_bytes(CONTENT + b"more")
    assert fetch_file(File("plain.bin", f"{address(server)}/plain.bin", 1), tmp_path).read_bytes() == CONTENT


def test_the_hub_is_asked_through_its_own_library(server, tmp_path):
    path = fetch_file(File("renamed.bin", "hub:owner/name/weights.bin", 1000), tmp_path, hub=address(server))
    assert path.read_bytes() == CONTENT[:1000] and path.name == "renamed.bin"
    with pytest.raises(ValueError, match="place it from https://huggingface.co/owner/name/blob/main/absent.bin at"):
        fetch_file(File("absent.bin", "hub:owner/name/absent.bin", 1), tmp_path, hub=address(server))


def test_a_licence_that_nobody_accepted_yet_is_named(server, tmp_path):
    told = "owner/gated is for those alone who accepted its licence: do so at https://huggingface.co/owner/gated, then `hf auth login`"
    with pytest.raises(ValueError, match=told):
        fetch_file(File("weights.bin", "hub:owner/gated/weights.bin", 1000), tmp_path, hub=address(server))
    assert not list(tmp_path.glob("*.bin"))


def test_other_content_than_stated_or_than_at_the_first_time_is_refused(server, tmp_path):
    source = f"{address(server)}/plain.bin"
    with pytest.raises(ValueError, match="its source states 000000"):
        fetch_file(File("plain.bin", source, 1, sha256="0" * 64), tmp_path)
    fetch_file(File("plain.bin", source, 1), tmp_path)  # notes the sum
    assert hashlib.sha256(CONTENT).hexdigest() in (tmp_path / SUMS).read_text(encoding="utf-8")
    (tmp_path / "plain.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="has of the first time .*remove it to fetch it again"):
        fetch_file(File("plain.bin", source, 1), tmp_path)
    with pytest.raises(ValueError, match="is not the file of its source"):
        fetch_file(File("other.bin", source, 1, git_blob="0" * 40), tmp_path)


def test_git_names_content(tmp_path):
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert git_blob(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_command_lists_plans_and_refuses(server, tmp_path, monkeypatch):
    listed = succeed("jobs/fetch.py", "--list")
    assert all(name in listed for name in PUBLISHED) and "not by MAR's authors" in listed
    planned = succeed("jobs/fetch.py", "mar-b", "kl16", "--plan", "--to", tmp_path / "new" / "models")
    assert "to fetch: 1.93 GB; free at" in planned and not (tmp_path / "new").exists()
    planned = succeed("jobs/fetch.py", "dc-ar-512", "dc-ht", "t5-base", "--plan", "--to", tmp_path)
    assert "to fetch: 893 MB and 3 files of unknown size; free at" in planned and "non-commercial" in planned
    assert "choose of mar-b, mar-l" in refuse("jobs/fetch.py", "mar-x")
    assert "give one name or several" in refuse("jobs/fetch.py")
    monkeypatch.setitem(published.PUBLISHED, "huge", Published((File("huge.bin", f"{address(server)}/plain.bin", 10**18),), "MIT", "tests"))
    assert "has room for" in refuse("jobs/fetch.py", "huge", "--to", tmp_path)
    monkeypatch.setitem(published.PUBLISHED, "plain", Published((File("plain.bin", f"{address(server)}/plain.bin", 1),), "MIT", "tests"))
    assert str(tmp_path / "plain" / "plain.bin") in succeed("jobs/fetch.py", "plain", "--to", tmp_path)
    assert "--plan" in help_of("jobs/fetch.py")


def test_every_entry_says_where_it_comes_from():
    for name, one in PUBLISHED.items():
        assert one.licence and one.purpose and one.files, name
        for file in one.files:
            assert file.page.startswith("https://") and (file.size is None or file.size > 0), (name, file)
            assert file.on_hub is None or all(file.on_hub)
