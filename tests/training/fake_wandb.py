"""Local server that answers the W&B requests of a run until it is stopped."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import wandb

from diffusion_lab.tracking.wandb_run import end_service

KEY = "a" * 40


class FakeWandb(ThreadingHTTPServer):
    """Knows one account. ``history`` holds the lines of metrics that were sent to it, ``artifacts`` the new ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.history: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.artifacts: list[dict[str, Any]] = []
        self.silent = threading.Event()
        self.known_account = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, body: bytes) -> dict[str, Any]:
        asked = json.loads(body)
        text, variables = asked["query"], asked.get("variables", {})
        account = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        data: dict[str, Any] = {"viewer": account if self.known_account else None}
        if "upsertBucket" in text:
            project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "me"}}
            run = {"id": "r", "name": variables.get("name"), "displayName": variables.get("name"), "project": project}
            data["upsertBucket"] = {
                "bucket": {**run, "description": "", "config": "{}", "sweepName": None, "historyLineCount": 0},
                "inserted": True,
            }
        if "upsertView" in text:
            data["upsertView"] = {"view": {"id": "v", "name": variables["name"]}, "inserted": True}
        if "createRunFiles" in text:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables.get("files", [])]
            data["createRunFiles"] = {"runID": "r", "uploadHeaders": [], "files": files}
        data |= self._answer_about_artifacts(text, variables)
        if "RunResumeStatus" in text:
            data["model"] = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": self._known_run()}
        return {"data": data}

    def _answer_about_artifacts(self, text: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return what a client needs that adds an artifact: each is new, and every file of it is wanted."""
        if "query ArtifactType" in text:
            return {"project": {"artifact": None}}
        if "createArtifactManifest(" in text:
            file = {"id": "f", "uploadUrl": f"{self.url}/upload/manifest", "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if "createArtifact(" in text:
            self.artifacts.append(variables["input"])
            new = {"id": "a", "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"createArtifact": {"artifact": new}}
        if "createArtifactFiles(" in text:
            nodes = [
                {
                    "storagePath": file["name"],
                    "uploadUrl": f"{self.url}/upload/artifact/{file['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": "a"},
                }
                for file in variables["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if "commitArtifact(" in text:
            return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        return {}

    def _known_run(self) -> dict[str, Any] | None:
        """Return the response for a client that resumes the run."""
        if not self.history:
            return None
        last = json.dumps(self.history[-1])
        return {
            "id": "r",
            "name": "run",
            "displayName": "run",
            "summaryMetrics": last,
            "historyTail": json.dumps([last]),
            "historyLineCount": len(self.history),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "config": "{}",
            "tags": [],
            "wandbConfig": json.dumps({"t": {}}),
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeWandb

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        while self.server.silent.is_set():
            threading.Event().wait(0.05)
        self.server.requests.append(f"{self.command} {self.path} {body.decode(errors='replace')}")
        if self.path.endswith("file_stream"):
            lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.server.history.extend(map(json.loads, lines))
        response = json.dumps(self.server.answer(body) if re.search("graphql", self.path) else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def fake_wandb() -> Iterator[FakeWandb]:
    """Serve until the end of the block."""
    server = FakeWandb()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.silent.clear()
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def logged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """Serve until the end of the block, as the server at which W&B is logged in."""
    wandb.teardown()  # it keeps the address of an earlier test
    with fake_wandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
        end_service()
