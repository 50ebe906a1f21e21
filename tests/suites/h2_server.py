"""An HTTP/2 backend that keeps to the protocol and is a burden all the same, in the way that it is told.

What holds for each connection is said by arguments:
    max_streams=N    so many at a time (SETTINGS_MAX_CONCURRENT_STREAMS); more are refused
    window=N         so much of a request's body before it asks for more
    stall            never asks for more
    goaway_after=N   the Nth request of a connection is the last that it takes (GOAWAY); it answers what it took
    drop_after=N     the same, and the next request that comes nevertheless is under the GOAWAY that crosses it
    refuse_every=N   each Nth request of all is refused unprocessed (RST_STREAM REFUSED_STREAM)
    cert=PATH key=PATH   TLS, with h2 by ALPN

What is done with a request is said by its path:
    /reset?code=N    RST_STREAM with that code instead of an answer; with &after=N after so many bytes of the body
    /leave           GOAWAY that says that this was looked at, and the end of the connection; with &code=N for that reason
    /early           413 before the request has ended, then RST_STREAM NO_ERROR
    /trailers        an answer with x-end: 1 in its trailers
    /only-trailers   an answer that is a head with END_STREAM and grpc-status: 5
    /slow?ms=N       an answer after so long
    /drip?n=N&ms=N   so many single bytes, so far apart
    /large?n=N       so many bytes
    /hang            no answer at all
    /interim?n=N     so many 103 before the answer
    anything else    a JSON object on what came: connection, stream, nth, headers, body (its length), trailers

On stdin `stats` asks for a line of JSON: connections, requests, refused, cancelled (RST_STREAM that came), running."""

import asyncio
import collections
import json
import ssl
import sys
from urllib.parse import parse_qs, urlsplit

import common
import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
stats = collections.Counter(connections=0, requests=0, refused=0, cancelled=0, running=0)


def number(name):
    return int(given[name]) if name in given else None


class Stream:
    def __init__(self, headers, trailers=None):
        self.headers, self.trailers, self.body, self.ended = headers, trailers, 0, asyncio.Event()
        self.room, self.task = asyncio.Event(), None

    def header(self, name):
        return next((value for found, value in self.headers if found == name), "")


class Connection:
    def __init__(self, reader, writer):
        stats["connections"] += 1
        self.nth, self.taken, self.highest, self.last = stats["connections"], 0, 0, None
        self.reader, self.writer, self.streams = reader, writer, {}
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_inbound_headers=True)
        self.h2 = h2.connection.H2Connection(config)

    async def run(self):
        said = {SettingCodes.MAX_CONCURRENT_STREAMS: number("max_streams"), SettingCodes.INITIAL_WINDOW_SIZE: number("window")}
        said = {code: value for code, value in said.items() if value is not None}
        self.h2.local_settings = Settings(client=False, initial_values=said)
        self.h2.initiate_connection()
        # The library ends a connection with too many streams; servers refuse the stream, since the news may cross it.
        self.h2.local_settings._settings[SettingCodes.MAX_CONCURRENT_STREAMS] = collections.deque([1 << 20])
        self.flush()
        try:
            while data := await self.reader.read(1 << 16):
                for event in self.h2.receive_data(data):
                    self.take(event)
                self.flush()
                await self.writer.drain()
        finally:
            for stream in self.streams.values():
                stream.task.cancel()

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    def take(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RequestReceived):
            self.take_request(event)
        elif isinstance(event, h2.events.WindowUpdated):
            for each in self.streams.values() if event.stream_id == 0 else filter(None, [stream]):
                each.room.set()
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            for each in self.streams.values():
                each.room.set()
        elif stream is None:
            return
        elif isinstance(event, h2.events.DataReceived):
            stream.body += len(event.data)
            if "stall" not in given:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = event.headers
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended.set()
        elif isinstance(event, h2.events.StreamReset):
            stats["cancelled"] += 1
            stream.task.cancel()

    def take_request(self, event):
        stats["requests"] += 1
        self.taken += 1
        number_of_last = number("goaway_after") or number("drop_after")
        if self.last is not None and event.stream_id > self.last:
            return  # it was told
        is_one_too_many = len(self.streams) >= (number("max_streams") or 1 << 20)
        if is_one_too_many or (every := number("refuse_every")) and stats["requests"] % every == 0:
            stats["refused"] += 1
            return self.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
        if "drop_after" in given and self.taken > number_of_last:
            return self.go_away()
        self.streams[event.stream_id] = stream = Stream(event.headers)
        self.highest = event.stream_id
        stream.task = asyncio.create_task(self.answer(event.stream_id, stream))
        if "goaway_after" in given and self.taken == number_of_last:
            self.go_away()

    def go_away(self, code=0):
        """Written by hand: the library takes its own GOAWAY for the end of everything."""
        self.last = self.highest
        self.flush()
        frame = self.last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.writer.write(len(frame).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + frame)

    async def answer(self, id, stream):
        stats["running"] += 1
        nth = stats["requests"]
        try:
            await self.answer_as_asked(id, stream, nth)
        except (h2.exceptions.ProtocolError, ConnectionError):
            pass  # the other side has reset the stream or left
        finally:
            stats["running"] -= 1
            self.streams.pop(id, None)
            if self.last is not None and not self.streams:
                self.writer.write_eof() if self.writer.can_write_eof() else self.writer.close()

    async def answer_as_asked(self, id, stream, nth):
        asked = urlsplit(stream.header(":path"))
        told = {name: int(values[0]) for name, values in parse_qs(asked.query).items() if values[0].isdigit()}
        if asked.path == "/early":
            self.head(id, "413", end_stream=True)
            self.h2.reset_stream(id, ErrorCodes.NO_ERROR)
            return self.flush()
        if asked.path == "/leave":
            self.go_away(told.get("code", 0))
            return self.writer.close()
        if asked.path == "/reset":
            if after := told.get("after"):
                self.head(id, "200")
                await self.send(id, stream, b"x" * after, end=False)
            self.h2.reset_stream(id, told["code"])
            return self.flush()
        if asked.path == "/hang":
            return await asyncio.Event().wait()
        await stream.ended.wait()
        await asyncio.sleep(told.get("ms", 0) / 1000)
        if asked.path == "/only-trailers":
            self.h2.send_headers(id, [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "5")], end_stream=True)
            return self.flush()
        if asked.path == "/interim":
            for _ in range(told["n"]):
                self.h2.send_headers(id, [(":status", "103"), ("link", "</style.css>")])
                self.flush()
        if asked.path == "/trailers":
            self.head(id, "200", ("trailer", "x-end"))
            await self.send(id, stream, b"hello", end=False)
            self.h2.send_headers(id, [("x-end", "1")], end_stream=True)
            return self.flush()
        self.head(id, "200")
        if asked.path == "/drip":
            for _ in range(told["n"]):
                await self.send(id, stream, b"x", end=False)
                await asyncio.sleep(told["ms"] / 1000)
            return await self.send(id, stream, b"", end=True)
        if asked.path == "/large":
            return await self.send(id, stream, b"x" * told["n"], end=True)
        came = {
            "connection": self.nth,
            "stream": id,
            "nth": nth,
            "headers": [list(header) for header in stream.headers],
            "body": stream.body,
            "trailers": [list(header) for header in stream.trailers or []],
        }
        await self.send(id, stream, json.dumps(came).encode(), end=True)

    def head(self, id, status, *more, end_stream=False):
        fields = [(":status", status), ("x-connection", str(self.nth)), *more]
        self.h2.send_headers(id, fields, end_stream=end_stream)
        self.flush()

    async def send(self, id, stream, body, end):
        body = memoryview(body)
        while body:
            stream.room.clear()
            most = min(self.h2.local_flow_control_window(id), self.h2.max_outbound_frame_size)
            if most <= 0:
                await stream.room.wait()
                continue
            self.h2.send_data(id, bytes(body[:most]))
            body = body[most:]
            self.flush()
            await self.writer.drain()
        if end:
            self.h2.end_stream(id)
            self.flush()


def told(line):
    if line == "stats":
        print(json.dumps(stats), flush=True)


async def connected(reader, writer):
    try:
        await Connection(reader, writer).run()
    except h2.exceptions.ProtocolError as error:
        print(f"h2_server: {error!r}", file=sys.stderr)


def tls():
    if "cert" not in given:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given["cert"], given["key"])
    context.set_alpn_protocols(["h2"])
    return context


common.main(connected, told=told, ssl=tls())
