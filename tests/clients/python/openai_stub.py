"""An OpenAI-compatible server that answers from a table instead of a model.

Models the part of the API that instrumentations read: chat completions (plain, streamed with
usage, with tool calls), embeddings, cached and reasoning tokens, errors. Answers depend on the
request alone, so that a run can be repeated and its token counts computed in advance.
Standard library only; listens on loopback.

What the caller steers by the request: a model name starting with `missing` gives 404,
`overloaded` 429, `broken` 500; `tools` in the request makes the first answer a tool call.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ERRORS = {
    "missing": (404, "model_not_found", "The model does not exist"),
    "overloaded": (429, "rate_limit_exceeded", "Rate limit reached, try again later"),
    "broken": (500, "server_error", "The server had an error"),
}
CHUNK_PAUSE_SECONDS = 0.005


def usage_of(request: dict[str, Any]) -> dict[str, Any]:
    """Token counts of a chat request, a function of its text: inclusive as the API has it."""
    digest = hashlib.sha256(json.dumps(request.get("messages", []), sort_keys=True).encode()).digest()
    prompt = 80 + digest[0]
    completion = 20 + digest[1] % 64
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": digest[2] % 64, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": digest[3] % 16,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def served_model(requested: str) -> str:
    """The dated name under which the service answers."""
    return f"{requested}-2026-01-01"


class _OpenAi(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
        model = request.get("model", "")
        for prefix, (status, code, message) in ERRORS.items():
            if model.startswith(prefix):
                self._json(status, {"error": {"message": message, "type": code, "code": code, "param": None}})
                return
        if self.path.endswith("/chat/completions"):
            self._chat(request)
        elif self.path.endswith("/embeddings"):
            self._embeddings(request)
        else:
            self._json(404, {"error": {"message": "unknown path", "type": "not_found", "code": "not_found"}})

    def _chat(self, request: dict[str, Any]) -> None:
        wants_tool = request.get("tools") and not any(message.get("role") == "tool" for message in request["messages"])
        if wants_tool:
            tool = request["tools"][0]["function"]["name"]
            call = {
                "id": "call_1",
                "type": "function",
                "function": {"name": tool, "arguments": json.dumps({"city": "Zürich"})},
            }
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            finish = "tool_calls"
        else:
            asked = request["messages"][-1].get("content") or ""
            message = {"role": "assistant", "content": f"A considered answer to: {asked}"}
            finish = "stop"
        head = {
            "id": "chatcmpl-" + hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12],
            "created": int(time.time()),
            "model": served_model(request["model"]),
            "service_tier": "default",
            "system_fingerprint": "fp_stub",
        }
        if request.get("stream"):
            self._stream(request, head, message, finish)
            return
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        self._json(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage_of(request)})

    def _stream(self, request: dict[str, Any], head: dict[str, Any], message: dict[str, Any], finish: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if message.get("tool_calls"):
            deltas = [{"role": "assistant", "tool_calls": [{"index": 0, **message["tool_calls"][0]}]}]
        else:
            words = message["content"].split(" ")
            deltas = [{"role": "assistant", "content": ""}]
            deltas += [{"content": word + " "} for word in words]
        chunk = {**head, "object": "chat.completion.chunk"}
        for delta in deltas:
            time.sleep(CHUNK_PAUSE_SECONDS)
            self._event({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self._event({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if request.get("stream_options", {}).get("include_usage"):
            self._event({**chunk, "choices": [], "usage": usage_of(request)})
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _embeddings(self, request: dict[str, Any]) -> None:
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        data = []
        for index, text in enumerate(texts):
            digest = hashlib.sha256(str(text).encode()).digest()
            vector = [byte / 255 - 0.5 for byte in digest[:8]]
            data.append({"object": "embedding", "index": index, "embedding": vector})
        tokens = sum(len(str(text).split()) for text in texts)
        self._json(
            200,
            {
                "object": "list",
                "model": served_model(request["model"]),
                "data": data,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            },
        )

    def _event(self, value: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _json(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent: the client under test reports what it saw."""


class OpenAiStub:
    """The server on a free loopback port; use as a context manager."""

    def __init__(self, port: int = 0) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _OpenAi)
        self._server.daemon_threads = True

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> OpenAiStub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with OpenAiStub(options.port) as stub:
        print(stub.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
