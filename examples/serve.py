"""Serve an exported policy over HTTP: python serve.py [folder [port]]

    GET  /      the card
    POST /act   frames, uint8 [B, S, H, W, 3] in C order, as bytes -> {"action": [[...], ...]}

It needs NumPy and ONNX Runtime. The client keeps the frames of its episode; the server keeps
nothing, so that any number of clients and servers can go together.
"""

import contextlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
CARD = json.loads((FOLDER / "card.json").read_text())
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = 1  # a policy is small, and each request has a thread of its own
POLICY = onnxruntime.InferenceSession(FOLDER / "policy.onnx", OPTIONS)
STACK = CARD["input"]["shape"][1:]
BYTES, MOST = int(np.prod(STACK)), 256  # of one stack; stacks of one request


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/"
        self.answer(200 if found else 404, CARD if found else {"error": "GET / or POST /act"})

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if self.path != "/act":
            self.answer(404, {"error": "GET / or POST /act"})
        elif size == 0 or size % BYTES or size > MOST * BYTES:
            wanted = f"uint8 [B, {', '.join(map(str, STACK))}] with B from 1 to {MOST}"
            self.answer(400, {"error": f"the body must be {wanted}, got {size} bytes"})
        else:
            frames = np.frombuffer(self.rfile.read(size), np.uint8).reshape(-1, *STACK)
            (action,) = POLICY.run(["action"], {"frames": frames})
            self.answer(200, {"action": action.tolist()})

    def answer(self, code: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("", PORT), Handler)
    print(f"{CARD['task']} on port {server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
