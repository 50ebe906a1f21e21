"""A WebSocket server that sends back what it is sent, as the Autobahn cases want it. It passes all of them by itself, so
that what fails behind tidegate is tidegate's.

It speaks RFC 6455 by wsproto over its own sockets, with permessage-deflate if the client offers it."""

import common
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Message, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import RemoteProtocolError


async def echo(reader, writer):
    connection = WSConnection(ConnectionType.SERVER)
    parts = []
    while not writer.is_closing():
        data = await reader.read(1 << 16)
        try:
            connection.receive_data(data or None)
            for event in connection.events():
                for answer in answers(event, parts):
                    writer.write(connection.send(answer))
        except RemoteProtocolError as error:
            if error.event_hint:
                writer.write(connection.send(error.event_hint))
            await writer.drain()
            return
        await writer.drain()
        if not data or connection.state.name in ("CLOSED", "REJECTING"):
            return


def answers(event, parts):
    if isinstance(event, Request):
        yield AcceptConnection(subprotocol=next(iter(event.subprotocols), None), extensions=[PerMessageDeflate()])
    elif isinstance(event, (TextMessage, BytesMessage)):
        parts.append(event.data)
        if event.message_finished:
            whole = type(event.data)().join(parts)
            parts.clear()
            yield Message(data=whole)
    elif isinstance(event, Ping) or (isinstance(event, CloseConnection) and event.code != CloseReason.ABNORMAL_CLOSURE):
        yield event.response()


if __name__ == "__main__":
    common.main(echo)
