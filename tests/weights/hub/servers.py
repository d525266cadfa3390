"""Servers on the loopback interface: a site of files with every fault of a network, and a Hugging Face hub."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import time

BLOCK = 1 << 12


@dataclasses.dataclass
class File:
    """A file of a site, and how the site serves it.

    Attributes:
      content: the bytes.
      tag: of the version, without quotes; "": none is sent, and nothing is continued.
      cuts: of each of the next answers only so many bytes are sent, and the connection is closed.
      statuses: of the next answers, without a body.
      length: that is stated; None: the true one; -1: none, in pieces.
      kind: the Content-Type.
      location: redirects there.
      pause: seconds before each block.
      ranges: whether a part can be asked for.
      headers: further ones.
    """

    content: bytes
    tag: str = "v1"
    cuts: list = dataclasses.field(default_factory=list)
    statuses: list = dataclasses.field(default_factory=list)
    length: int | None = None
    kind: str = "application/octet-stream"
    location: str = ""
    pause: float = 0.0
    ranges: bool = True
    headers: dict = dataclasses.field(default_factory=dict)


class Site:
    """Files by path, and the requests that were made: (method, path, headers)."""

    def __init__(self):
        self.files, self.requests = {}, []
        self.url = ""

    def find(self, path):
        """Returns the file at a path; None: there is none."""
        return self.files.get(path)

    def asked(self, header):
        """Returns the values of a header of all requests that had it."""
        return [headers[header] for _, _, headers in self.requests if header in headers]

    def post(self, path, body, headers):
        """Answers a POST or PUT: (status, JSON, further headers)."""
        return 404, {}, {}


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def do_POST(self):
        self._note()
        status, answer, headers = self.site.post(self.path, self._body(), dict(self.headers))
        self._send_json(status, answer, headers)

    do_PUT = do_POST  # noqa: N815

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _note(self):
        self.site.requests.append((self.command, self.path, dict(self.headers)))

    def _send_json(self, status, answer, headers):
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _answer(self, body):
        self._note()
        found = self.site.find(self.path.partition("?")[0])
        if isinstance(found, tuple):
            return self._send_json(*found)
        if found is None:
            return self.send_error(404)
        if found.statuses:
            return self.send_error(found.statuses.pop(0))
        if found.location:
            self.send_response(302)
            for name, value in {"Location": found.location, "Content-Length": 0, **found.headers}.items():
                self.send_header(name, str(value))
            return self.end_headers()
        start = self._start(found)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", found.kind)
        if found.tag:
            self.send_header("ETag", f'"{found.tag}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(found.content) - 1}/{len(found.content)}")
        if found.length != -1:
            self.send_header("Content-Length", str(found.length or len(found.content) - start))
        for name, value in found.headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self._send(found, found.content[start:])

    def _start(self, found):
        """Returns at which byte the answer begins."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", f'"{found.tag}"') == f'"{found.tag}"'
        return int(match[1]) if match and same and found.ranges else 0

    def _send(self, found, content):
        if found.cuts:
            content = content[: found.cuts.pop(0)]
        with contextlib.suppress(OSError):  # the client has gone
            for begin in range(0, len(content), BLOCK):
                if found.pause:
                    time.sleep(found.pause)
                self.wfile.write(content[begin : begin + BLOCK])
        self.close_connection = True


@contextlib.contextmanager
def serving(site):
    """Serves a site on a port of 127.0.0.1; its address is `site.url`."""
    handler = type("Handler", (_Handler,), {"site": site})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/?]+)")
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")


@dataclasses.dataclass
class Repository:
    """A repository of the hub: its last commit, its files, and what its card states."""

    files: dict = dataclasses.field(default_factory=dict)
    card: dict = dataclasses.field(default_factory=dict)
    private: bool = False
    gated: bool = False

    @property
    def commit(self):
        names = b"".join(name.encode() + file.content for name, file in sorted(self.files.items()))
        return hashlib.sha1(names).hexdigest()


class Hub(Site):
    """What of the hub its client uses here: metadata, downloads, and commits with large files."""

    def __init__(self, token="hf_test"):
        super().__init__()
        self.repositories, self.token, self.stored = {}, token, {}

    def add(self, repo, files, **card):
        """Adds a repository with files by name, {name: bytes}."""
        self.repositories[repo] = Repository({name: File(content) for name, content in files.items()}, card)
        return self.repositories[repo]

    def find(self, path):
        """Returns a file of a repository, or the answer (status, JSON, headers) of the interface for programs."""
        if match := INFO.fullmatch(path):
            return self._info(match[1])
        if not (match := RESOLVE.fullmatch(path)):
            return None
        repo, revision, name = match.groups()
        repository = self.repositories.get(repo)
        if repository is None or (repository.private and not self._has_token()):
            return 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if repository.gated and not self._has_token():
            return 403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"}
        if revision not in ("main", repository.commit):
            return 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"}
        if name not in repository.files:
            return (
                404,
                {"error": "Entry not found"},
                {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit},
            )
        found = repository.files[name]
        content = found.content
        large = name.endswith((".safetensors", ".bin"))
        tag = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": len(content)} if large else {}
        return dataclasses.replace(
            found, tag=tag, headers={"X-Repo-Commit": repository.commit, **linked, **found.headers}
        )

    def _has_token(self):
        return (
            self.requests[-1][2].get("authorization", self.requests[-1][2].get("Authorization"))
            == f"Bearer {self.token}"
        )

    def _info(self, repo):
        repository = self.repositories.get(repo)
        if repository is None:
            return 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        info = {"_id": "1", "id": repo, "modelId": repo, "sha": repository.commit, "private": repository.private}
        return 200, info | {"cardData": repository.card, "tags": [], "siblings": []}, {}

    def post(self, path, body, headers):
        """Answers what a push sends."""
        if path.startswith("/lfs/"):
            self.stored[path.removeprefix("/lfs/")] = body
            return 200, {}, {}
        if headers.get("authorization", headers.get("Authorization")) != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}, {}
        path = path.partition("?")[0]
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        values = [json.loads(line) for line in body.splitlines()]
        if path == "/api/repos/create":
            return self._create(values[0])
        if path.endswith(".git/info/lfs/objects/batch"):
            uploads = [
                each | {"actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}}
                for each in values[0]["objects"]
            ]
            return 200, {"transfer": "basic", "objects": uploads}, {}
        if match := COMMIT.fullmatch(path):
            return self._preupload(values[0]) if match[2] == "preupload" else self._commit(match[1], values)
        return 404, {"error": "no such thing"}, {}

    def _create(self, asked):
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{repo}"}, {}
        self.repositories[repo] = Repository(private=asked.get("visibility") == "private")
        return 200, {"url": f"{self.url}/{repo}"}, {}

    def _preupload(self, asked):
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for each in asked["files"]
        ]
        return 200, {"files": modes}, {}

    def _commit(self, repo, lines):
        repository = self.repositories[repo]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = File(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = File(self.stored[value["oid"]])
        commit = repository.commit
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit, "success": True}, {}


@contextlib.contextmanager
def asked_hub(monkeypatch, tmp_path):
    """Serves a hub that its client asks in place of huggingface.co, with a cache and a token of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "client"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol needs a server of its own
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
