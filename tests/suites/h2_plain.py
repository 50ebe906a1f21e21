"""A server of HTTP/2 that answers every request with 200 and `plain`, and takes no extended CONNECT."""

import common
import h2.config
import h2.connection
import h2.events


async def answer(reader, writer):
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    while data := await reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-length", "5")])
                connection.send_data(event.stream_id, b"plain", end_stream=True)
        writer.write(connection.data_to_send())
        await writer.drain()


if __name__ == "__main__":
    common.main(answer)
