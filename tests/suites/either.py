"""A server of TLS that speaks what is agreed on there: HTTP/2 as h2_plain.py does, or HTTP/1.1 as websocket_echo.py does.

    either.py CERTIFICATE KEY

On stdin `agreed` asks for a line of JSON: how many connections have agreed on which."""

import collections
import json
import ssl
import sys

import common
import h2_plain
import websocket_echo

agreed = collections.Counter({"h2": 0, "http/1.1": 0})


async def serve(reader, writer):
    protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    agreed[protocol] += 1
    await (h2_plain.answer if protocol == "h2" else websocket_echo.echo)(reader, writer)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[1:])
context.set_alpn_protocols(["h2", "http/1.1"])
common.main(serve, told=lambda line: print(json.dumps(agreed), flush=True), ssl=context)
