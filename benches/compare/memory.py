"""What one hostile client costs in memory: the proxy's growth over a few of them."""

import select
import socket
import ssl
import time
from contextlib import ExitStack, closing

import frames
import measure
import proc
from products import Way

CLIENTS = 4  # at a time; each has up to 100 answers of 100 MB under way
WARM_REQUESTS = 200
HOLD_SECONDS = 4
LOOK_SECONDS = 0.1
READ_BYTES = 65_536


def cost(bench, product, attack):
    """The peak over `HOLD_SECONDS`, on a process that has served ordinary requests."""
    way = Way(attack.front, answers="held")
    with bench.running(product, way) as running, ExitStack() as held:
        warm(running, attack)
        before = settled(running)
        clients = [connect(running, attack, held) for _ in range(CLIENTS)]
        sent = sum(send(client, attack) for client in clients) / CLIENTS
        peak = watch(running, attack, clients)
        return {
            "kib_each": max(0, peak - before) / CLIENTS,
            "sent_bytes": sent,
            "ratio": max(0, peak - before) * 1024 / CLIENTS / sent,
            "alive": sum(stands(client) for client in clients),
            "clients": CLIENTS,
        }


def warm(running, attack):
    """Faults in the code and fills the pools; none of that is a client's price."""
    kind = measure.Http1 if attack.protocol == "http/1.1" else measure.Curl
    count = WARM_REQUESTS if kind is measure.Http1 else WARM_REQUESTS // 20
    with closing(kind(running)) as connection:
        for user in range(count):
            measure.fetch(connection, "/", user)


def settled(running):
    """The memory once it has stopped moving."""
    time.sleep(1)
    return proc.memory_kib(running.pid)


def connect(running, attack, held):
    """The client's connection; one that does not read has a small socket buffer."""
    plain = socket.socket()
    held.callback(plain.close)
    if not attack.reads:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(5)
    plain.connect(("127.0.0.1", running.port))
    if attack.front != "tls":
        return plain
    trust = ssl.create_default_context(cafile=running.certificate)
    trust.set_alpn_protocols([attack.protocol])
    wrapped = trust.wrap_socket(plain, server_hostname="127.0.0.1")
    held.callback(wrapped.close)
    return wrapped


def send(client, attack):
    """Sends all of it, or as much as the proxy takes; how many bytes that were."""
    scheme = frames.SCHEME_HTTPS if attack.front == "tls" else frames.SCHEME_HTTP
    request = attack.sends(scheme)
    try:
        client.sendall(request)
    except OSError:
        pass  # turned away while it was still sending: `stands` tells
    client.settimeout(0)
    return len(request)


def watch(running, attack, clients):
    """The most memory seen while the clients stay."""
    peak = 0
    until = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < until:
        peak = max(peak, proc.memory_kib(running.pid))
        if attack.reads:
            for client in clients:
                drain(client)
        time.sleep(LOOK_SECONDS)
    return peak


def drain(client):
    """Takes what there is."""
    try:
        while client.recv(READ_BYTES):
            pass
    except (OSError, ValueError):
        pass  # nothing more now, or ever: `stands` tells


def stands(client):
    """Whether the proxy has left the connection open."""
    if client.fileno() < 0:
        return False
    look = select.poll()
    look.register(client.fileno(), select.POLLRDHUP)
    return not any(event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR)
                   for _, event in look.poll(0))
