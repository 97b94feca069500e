"""A real server among clients that keep it waiting."""

import socket
from contextlib import ExitStack

import httpx
import pytest
from servers import PATH, server


@pytest.mark.slow
def test_bodies_that_never_end_keep_nobody_out(tmp_path):
    """Each of them would hold one of the places that Ray Serve gives to requests."""
    with server(tmp_path / "log") as running, ExitStack() as stack:
        port = int(running.address.rsplit(":", 1)[1])
        head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{{\r\n"
        stuck = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(300)]
        for one in stuck:
            one.sendall(head.encode())
        assert httpx.post(f"{running.address}{PATH}", json={"class": 1, "steps": 1}, timeout=60).status_code == 200
        assert all(one.recv(1000).startswith(b"HTTP/1.1 408") for one in stuck)
        assert httpx.get(f"{running.address}/healthz", timeout=60).status_code == 200
    assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")
