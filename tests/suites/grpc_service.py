"""A service of gRPC as Google makes them, without a compiler of protocols: messages are bytes. Its methods are all kinds of
calls; what an answer is, the request says."""

import sys
import threading
import time
from concurrent import futures

import grpc

# What it does with every unary call, if it is told: `fail CODE DETAILS` or `sleep SECONDS`.
ALWAYS = sys.argv[1].encode() if sys.argv[1:] else None
# The files of its certificate and key, if it speaks TLS.
PAIR = [open(path, "rb").read() for path in sys.argv[2:4]]
CANCELLED = {"count": 0}


def fail(context, text):
    """`fail CODE DETAILS`, from a request or from metadata."""
    _, code, details = text.split(" ", 2)
    for status in grpc.StatusCode:
        if status.value[0] == int(code):
            context.set_trailing_metadata((("x-why-bin", b"\x00\xff"), ("x-why", "because")))
            context.abort(status, details)
    raise ValueError(code)


def unary(request, context):
    request = ALWAYS or request
    if request.startswith(b"fail "):
        fail(context, request.decode())
    if request.startswith(b"sleep "):
        ended = threading.Event()
        context.add_callback(ended.set)
        if ended.wait(float(request.split(b" ")[1])):
            CANCELLED["count"] += 1
        return b"slept"
    if request == b"deadline":
        return str(context.time_remaining()).encode()
    if request == b"cancelled":
        return str(CANCELLED["count"]).encode()
    if request == b"metadata":
        pairs = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-echo")]
        context.send_initial_metadata(pairs)
        context.set_trailing_metadata([(key.replace("x-echo", "x-trailing"), value) for key, value in pairs])
        return b"metadata"
    return request


def server_stream(request, context):
    """`COUNT SECONDS`: so many messages, so far apart."""
    count, seconds = request.split(b" ")
    ended = threading.Event()
    context.add_callback(ended.set)
    for n in range(int(count)):
        if ended.wait(float(seconds)):
            CANCELLED["count"] += 1
            return
        yield b"%d" % n


def client_stream(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def bidi(requests, context):
    for request in requests:
        if request.startswith(b"fail "):
            fail(context, request.decode())
        yield b"echo " + request


def check(request, context):
    """grpc.health.v1: a response whose field 1 is SERVING."""
    return b"\x08\x01"


def generic(service, handlers):
    return grpc.method_handlers_generic_handler(service, handlers)


server = grpc.server(
    futures.ThreadPoolExecutor(64),
    options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)],
)
server.add_generic_rpc_handlers(
    (
        generic(
            "story.Service",
            {
                "Unary": grpc.unary_unary_rpc_method_handler(unary),
                "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
                "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
                "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
            },
        ),
        generic("grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}),
    )
)
if PAIR:
    certificate, key = PAIR
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
else:
    port = server.add_insecure_port("127.0.0.1:0")
print(port, flush=True)
server.start()
for _ in sys.stdin:
    pass
server.stop(0)
