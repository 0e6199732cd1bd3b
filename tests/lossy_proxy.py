"""A TCP proxy that lets the service do its work and then loses the answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


@contextlib.contextmanager
def lossy_proxy(url: str, num_lost: int) -> Iterator[tuple[str, list[bytes]]]:
    """Pass connections on to `url`; of the first `num_lost` ones the answer is swallowed and the connection closed.

    Yields:
        The proxy's URL, and the swallowed answers.
    """
    target = urlsplit(url)
    lost: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                inner, _ = listener.accept()
            except OSError:
                return  # closed: the test is over
            with inner, socket.create_connection((str(target.hostname), int(target.port or 80))) as outer:
                # Requests of these tests are small, but headers and body may come in two pieces: read both.
                request = inner.recv(65_536)
                while not _is_whole(request):
                    request += inner.recv(65_536)
                outer.sendall(request)
                answer = outer.recv(65_536)
                while not _is_whole(answer):
                    answer += outer.recv(65_536)
                if len(lost) < num_lost:
                    lost.append(answer)
                else:
                    inner.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lost
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _is_whole(message: bytes) -> bool:
    head, ended, body = message.partition(b"\r\n\r\n")
    if not ended:
        return False
    lengths = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    return len(body) >= int(lengths[0]) if lengths else True
