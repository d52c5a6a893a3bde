#!/usr/bin/env python3
"""A TCP proxy that makes a way longer: delay_proxy.py LISTEN_HOST:PORT UPSTREAM_HOST:PORT RTT_MS

Each direction holds what it carries for half of the round trip. It shares nothing with the distance that Outrider emulates in
its transport, so that the one can be held against the other (tests/distance.py).
"""

import queue
import socket
import sys
import threading
import time


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def receive(source, held, delay_s):
    """Gives each chunk the time at which it may go on."""
    while True:
        try:
            chunk = source.recv(1 << 16)
        except OSError:
            chunk = b""
        held.put((time.monotonic() + delay_s, chunk))
        if not chunk:
            return


def forward(held, sink):
    while True:
        due, chunk = held.get()
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if not chunk:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(chunk)
        except OSError:
            return


def main():
    listen, upstream, delay_s = address(sys.argv[1]), address(sys.argv[2]), float(sys.argv[3]) / 2e3
    server = socket.create_server(listen)
    while True:
        near, _ = server.accept()
        far = socket.create_connection(upstream)
        for source, sink in ((near, far), (far, near)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            held = queue.Queue()
            threading.Thread(target=receive, args=(source, held, delay_s), daemon=True).start()
            threading.Thread(target=forward, args=(held, sink), daemon=True).start()


if __name__ == "__main__":
    main()
