"""Servers in processes of their own."""

from __future__ import annotations

import socket
import time
import urllib.request

from deadline import PATIENCE


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def wait_for(server, port, said=lambda: ""):
    """Wait until a server answers that it is ready; fail with what it said where it ends or never answers."""
    until = time.monotonic() + PATIENCE
    while True:
        assert server.poll() is None, said()
        assert time.monotonic() < until, said()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE)
        except OSError:
            time.sleep(0.25)
        else:
            return
