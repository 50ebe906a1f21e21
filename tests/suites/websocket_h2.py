"""A client that opens a stream of HTTP/2 for WebSocket (RFC 8441) and says what it was answered.

    websocket_h2.py HOST:PORT echo|early|wait|other|none

`early` sends before it is answered; `wait` sends once it is and waits until the other side closes; `other` and `none` want
another protocol, or say none."""

import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings

FRAME = b"\x81\x85\0\0\0\0hello"


def main(address, mode):
    host, port = address.rsplit(":", 1)
    sock = socket.create_connection((host, int(port)), timeout=60)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
    connection.initiate_connection()
    sock.sendall(connection.data_to_send())
    status, received = "reset", b""
    asked = sent = False
    while True:
        data = sock.recv(65536)
        if mode == "wait" and status == "200":
            # The library takes a GOAWAY for the end of what still runs: from here on it is not asked.
            received += data
            if b"\x88\x02\x03\xe9" in received or not data:
                return print(status, "closed 1001" if data else "ended")
            continue
        for event in connection.receive_data(data) if data else [h2.events.ConnectionTerminated()]:
            if isinstance(event, h2.events.RemoteSettingsChanged) and not asked:
                enabled = connection.remote_settings.enable_connect_protocol
                assert enabled == 1, f"the setting is {enabled}"
                connection.send_headers(1, head(address, mode))
                asked = True
                if mode == "early":
                    connection.send_data(1, FRAME)
            elif isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers)[b":status"].decode()
                if status == "200" and mode in ("echo", "wait") and not sent:
                    connection.send_data(1, FRAME)
                    sent = True
            elif isinstance(event, h2.events.DataReceived):
                received += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, 1)
                if mode == "echo" and event.data and received == FRAME:
                    connection.end_stream(1)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                print(status, (received[6:] if received == FRAME else received).decode(errors="replace"))
                return
        sock.sendall(connection.data_to_send())


def head(address, mode):
    fields = [(":method", "CONNECT"), (":scheme", "http"), (":path", "/chat"), (":authority", address)]
    if mode == "none":
        return [(":method", "CONNECT"), (":authority", address)]
    protocol = "connect-udp" if mode == "other" else "websocket"
    return [*fields, (":protocol", protocol), ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")]


main(*sys.argv[1:])
