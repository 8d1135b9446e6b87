"""A stand-in for the hub on this machine: the calls that its library makes to read and to write repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub import HfApi, constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Repositories by kind and name, as ``models/me/plan``, each file name to content, and what was asked for.

    Attributes:
        files: repository -> file -> content.
        requests: method and path of every call.
    """

    def __init__(self, files: Mapping[str, Mapping[str, bytes]]) -> None:
        self.files = {name: dict(each) for name, each in files.items()}
        self.requests: list[str] = []

    def _of(self, path: str) -> tuple[str, dict[str, bytes] | None]:
        """Return what of the path follows the repository, and its files; None where there is no such repository."""
        parts = path.strip("/").split("/")
        if parts[:1] == ["api"]:
            name, rest = "/".join(parts[1:4]), parts[4:]
        elif parts[:1] == ["datasets"]:
            name, rest = "/".join(parts[:3]), parts[3:]
        else:
            name, rest = "models/" + "/".join(parts[:2]), parts[2:]
        return "/".join(rest), self.files.get(name)

    def read(self, path: str) -> tuple[int, bytes, bool]:
        """Answer a call that reads: status, content, and whether it is a file."""
        rest, files = self._of(path)
        known = rest.split("/")[1] in ("main", COMMIT) if "/" in rest else True
        if files is None or not known:
            return 404, b"{}", False
        if rest.startswith("resolve/"):
            content = files.get(rest.split("/", 2)[2])
            return (404, b"{}", False) if content is None else (200, content, True)
        if rest.startswith("tree/"):
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324 - as git names it
                for name, content in files.items()
            ]
            return 200, json.dumps(rows).encode(), False
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        name = "/".join(path.strip("/").split("/")[2:4])
        info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        return 200, json.dumps(info).encode(), False

    def write(self, path: str, body: bytes) -> tuple[int, object]:
        """Answer a call that writes: status and JSON."""
        if path.startswith("/api/repos/create"):
            asked = json.loads(body)
            name = f"{asked.get('type', 'model')}s/{asked.get('organization') or 'me'}/{asked['name']}"
            status = 409 if name in self.files else 200
            self.files.setdefault(name, {})
            return status, {"url": f"{constants.ENDPOINT}/{name.removeprefix('models/')}", "name": name}
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---\n")[1]
            return 200, {
                "errors": [] if isinstance(yaml.safe_load(front), dict) else [{"message": "no YAML"}],
                "warnings": [],
            }
        rest, files = self._of(path)
        if files is None:
            return 404, {}
        if rest.startswith("preupload/"):
            asked = json.loads(body)["files"]
            return 200, {
                "files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            }
        if rest.startswith("commit/"):
            name = "/".join(path.strip("/").split("/")[1:4])
            rows = [json.loads(line) for line in body.splitlines() if line.strip()]
            for row in rows:
                if row["key"] == "file":
                    files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                elif row["key"] == "deletedFile":
                    del files[row["value"]["path"]]
            url = f"{constants.ENDPOINT}/{name.removeprefix('models/')}/commit/{COMMIT}"
            return 200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""}
        return 404, {}


def _renew_clients(monkeypatch) -> None:
    """Let the clients that libraries made when they were imported ask the address of now."""
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", constants.ENDPOINT)
    if "transformers" in sys.modules:
        monkeypatch.setattr("transformers.utils.hub._hf_api", HfApi(), raising=False)


@contextmanager
def serving(monkeypatch, folder, files: Mapping[str, Mapping[str, bytes]]) -> Iterator[HubServer]:
    """Let the hub's library ask this server alone, and keep what it fetches in a folder."""
    hub = HubServer(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, content: bytes, *, is_file: bool = False, head: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            if is_file:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound" if "/api/" in self.path else "EntryNotFound")
            self.end_headers()
            if not head:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"HEAD {path}")
            status, content, is_file = hub.read(path)
            self._answer(status, content, is_file=is_file, head=True)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"GET {path}")
            status, content, is_file = hub.read(path)
            self._answer(status, content, is_file=is_file)

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"POST {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = hub.write(path, body)
            self._answer(status, json.dumps(answer).encode())

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        _renew_clients(monkeypatch)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", value=True)
        try:
            yield hub
        finally:  # a thread that serves on would keep the process from its end
            server.shutdown()
            thread.join()
