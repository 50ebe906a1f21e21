"""Two strict HTTP/1.1 request parsers that are not tidegate's, as a service on stdin and stdout.

A line in is a JSON list of byte streams in hex; a line out is a list with what each parser made of each stream: the whole
requests, whether an unfinished one follows, and what was wrong. Nothing is shared between the two.
"""

import json
import sys

import h11
import httptools


def named(headers, name):
    return [value.decode("latin-1") for found, value in headers if found.lower() == name]


def request(method, target, headers, body):
    return {
        "method": method.decode("latin-1"),
        "target": target.decode("latin-1"),
        "ids": named(headers, b"x-id"),
        "body": body.hex(),
    }


def by_h11(stream):
    connection = h11.Connection(our_role=h11.SERVER, max_incomplete_event_size=1 << 20)
    if stream:
        connection.receive_data(stream)
    requests, head, body = [], None, b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                unfinished = head is not None or bool(connection.trailing_data[0])
                return {"requests": requests, "unfinished": unfinished, "error": None}
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if list(event.headers):
                    return {"requests": requests, "unfinished": False, "error": "trailers"}
                requests.append(request(head.method, head.target, list(head.headers), body))
                head = None
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
            else:
                return {"requests": requests, "unfinished": False, "error": repr(event)}
    except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
        return {"requests": requests, "unfinished": False, "error": str(error)}


class Listener:
    def __init__(self):
        self.requests = []
        self.parser = None
        self.open = False

    def on_message_begin(self):
        self.target, self.headers, self.body, self.open = b"", [], b"", True

    def on_url(self, url):
        self.target += url

    def on_header(self, name, value):
        self.headers.append((name, value))

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        method = self.parser.get_method()
        self.requests.append(request(method, self.target, self.headers, self.body))
        self.open = False


def by_httptools(stream):
    listener = Listener()
    listener.parser = httptools.HttpRequestParser(listener)
    error = None
    try:
        if stream:
            listener.parser.feed_data(stream)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as found:
        error = repr(found)
    return {"requests": listener.requests, "unfinished": listener.open, "error": error}


print(json.dumps({"h11": h11.__version__, "httptools": httptools.__version__}), flush=True)
for line in sys.stdin:
    streams = [bytes.fromhex(stream) for stream in json.loads(line)]
    print(json.dumps([[by_h11(stream), by_httptools(stream)] for stream in streams]), flush=True)
