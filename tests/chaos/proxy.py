"""A proxy before Redis that loses replies, for clients whose connections are not ours to change."""

import socket
import threading
from contextlib import suppress


class CuttingProxy:
    """Stands between a client and Redis, and cuts the connection instead of passing on the n-th reply.

    Clients of ours ask and wait, so what arrives from Redis in one piece is the reply to one request.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._replies = 0
        self._cut_at = -1
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, reply: int) -> None:
        """Cut the connection at that reply from now on, counted from 0."""
        with self._lock:
            self._replies, self._cut_at = 0, reply

    @property
    def has_cut(self) -> bool:
        return 0 <= self._cut_at < self._replies

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self._target_port))
                for source, sink, counted in ((client, upstream, False), (upstream, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if counted and self._is_cut():
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _is_cut(self) -> bool:
        with self._lock:
            self._replies += 1
            return self._replies - 1 == self._cut_at
