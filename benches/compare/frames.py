"""HTTP/2 frames, written by hand: what no ordinary client would send (RFC 9113)."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

SETTINGS, HEADERS, WINDOW_UPDATE, CONTINUATION = 0x4, 0x1, 0x8, 0x9
END_STREAM, END_HEADERS = 0x1, 0x4
INITIAL_WINDOW_SIZE = 0x4
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME = 16384  # that every server has to take

# HPACK's static table (RFC 7541, appendix A); 62 is the first entry of our own.
AUTHORITY, METHOD_GET, PATH, SCHEME_HTTP, SCHEME_HTTPS, COOKIE = 1, 2, 4, 6, 7, 32
FIRST_DYNAMIC = 62


def frame(kind, flags, stream, payload=b""):
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**window):
    """The client's first bytes, with the window that each stream begins with."""
    payload = struct.pack(">HI", INITIAL_WINDOW_SIZE, window["window"]) if window else b""
    return PREFACE + frame(SETTINGS, 0, 0, payload)


def window_update(stream, more):
    """Room for `more` bytes of answers; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def headers(stream, block):
    """A request without a body, in as many frames as its header block needs."""
    pieces = [block[at:at + LARGEST_FRAME] for at in range(0, len(block), LARGEST_FRAME)]
    sent = b""
    for number, piece in enumerate(pieces):
        last = END_HEADERS if number == len(pieces) - 1 else 0
        if number == 0:
            sent += frame(HEADERS, END_STREAM | last, stream, piece)
        else:
            sent += frame(CONTINUATION, last, stream, piece)
    return sent


def indexed(index):
    """A whole field out of a table: one byte."""
    return bytes([0x80 | index])


def literal(name, value, remembered=False):
    """A field whose name is an index or bytes; `remembered` puts it into the table
    of the connection, where it is number 62 from then on."""
    if isinstance(name, int):
        prefix = 6 if remembered else 4
        head = _integer(name, prefix, 0x40 if remembered else 0x00)
    else:
        head = (b"\x40" if remembered else b"\x00") + _text(name)
    return head + _text(value)


def _text(value):
    return _integer(len(value), 7, 0x00) + value


def _integer(value, prefix, first):
    most = 2**prefix - 1
    if value < most:
        return bytes([first | value])
    sent, value = [first | most], value - most
    while value >= 128:
        sent.append(value % 128 + 128)
        value //= 128
    return bytes([*sent, value])
