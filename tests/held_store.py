"""A store that speaks as much S3 as a farm does, and answers PUTs and GETs when the test lets it."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HeldStore:
    """It counts what it is asked at a time, and holds it while `let` is unset."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.let = threading.Event()
        self.let.set()
        self.asked = self.most = 0
        self._lock = threading.Lock()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                store.hold()
                store.objects[self.path] = data
                self._answer(200)

            def do_GET(self) -> None:
                if "list-type=2" in self.path:
                    self._answer(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
                    return
                store.hold()
                data = store.objects.get(self.path.partition("?")[0])
                if data is None:
                    self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                else:
                    self._answer(206, data, f"bytes 0-{len(data) - 1}/{len(data)}")

            def do_DELETE(self) -> None:
                store.objects.pop(self.path.partition("?")[0], None)
                self._answer(204)

            def _answer(self, status: int, body: bytes = b"", content_range: str = "") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if content_range:
                    self.send_header("Content-Range", content_range)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def hold(self) -> None:
        with self._lock:
            self.asked += 1
            self.most = max(self.most, self.asked)
        self.let.wait(60)
        with self._lock:
            self.asked -= 1

    def stop(self) -> None:
        self.let.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
