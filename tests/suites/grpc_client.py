"""A client of gRPC as Google makes them: does STORY against the service of grpc_service.py at ADDRESS, and fails if anything
is not as it should be."""

import os
import queue
import sys
import threading
import time

import grpc

address, story = sys.argv[1:3]
arguments = sys.argv[3:]
options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
if "CA" in os.environ:  # the file of whom it trusts, over TLS
    with open(os.environ["CA"], "rb") as authority:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.read()), options)
else:
    channel = grpc.insecure_channel(address, options)
LIMIT = 15

unary = channel.unary_unary("/story.Service/Unary")
server_stream = channel.unary_stream("/story.Service/ServerStream")
client_stream = channel.stream_unary("/story.Service/ClientStream")
bidi = channel.stream_stream("/story.Service/Bidi")


def failing(call):
    """The error by which a call ends."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def kinds():
    assert unary(b"hello", timeout=LIMIT) == b"hello"
    assert unary(b"", timeout=LIMIT) == b""
    assert list(server_stream(b"100 0", timeout=LIMIT)) == [b"%d" % n for n in range(100)]
    assert list(server_stream(b"0 0", timeout=LIMIT)) == []
    assert client_stream(iter([b"ab"] * 100), timeout=LIMIT) == b"200"
    assert client_stream(iter([]), timeout=LIMIT) == b"0"
    assert list(bidi(iter([b"a", b"b"]), timeout=LIMIT)) == [b"echo a", b"echo b"]
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=LIMIT) == b"\x08\x01"


def interleaved():
    sent = queue.Queue()
    answers = bidi(iter(sent.get, None), timeout=LIMIT)
    for n in range(50):
        sent.put(b"%d" % n)  # only once the one before has been answered
        assert next(answers) == b"echo %d" % n
    sent.put(None)
    assert list(answers) == []


def large():
    message = bytes(range(256)) * (4 << 12)  # 4 MiB
    assert unary(message, timeout=LIMIT) == message
    assert client_stream(iter([message] * 4), timeout=LIMIT) == b"%d" % (4 * len(message))
    assert [len(answer) for answer in bidi(iter([message] * 3), timeout=LIMIT)] == [5 + len(message)] * 3


def many():
    calls = [unary.future(b"%d" % n, timeout=LIMIT) for n in range(300)]
    assert [call.result() for call in calls] == [b"%d" % n for n in range(300)]


def metadata():
    pairs = [("x-echo", "text"), ("x-echo-bin", b"\x00\x01\xfe\xff"), ("x-echo-bin", b"again")]
    answer, call = unary.with_call(b"metadata", metadata=pairs, timeout=LIMIT)
    assert answer == b"metadata"
    initial = [tuple(pair) for pair in call.initial_metadata() if pair.key.startswith("x-echo")]
    assert sorted(initial, key=str) == sorted(pairs, key=str), initial
    trailing = [tuple(pair) for pair in call.trailing_metadata() if pair.key.startswith("x-trailing")]
    assert sorted(trailing, key=str) == sorted(((k.replace("x-echo", "x-trailing"), v) for k, v in pairs), key=str), trailing


def errors():
    for status in list(grpc.StatusCode)[1:]:
        code = status.value[0]
        for call in (
            lambda: unary(b"fail %d it's 100%% broken" % code, timeout=LIMIT),
            lambda: list(bidi(iter([b"fine", b"fail %d it's 100%% broken" % code]), timeout=LIMIT)),
        ):
            error = failing(call)
            assert error.code() == status, (error.code(), status)
            assert error.details() == "it's 100% broken", error.details()
            assert ("x-why-bin", b"\x00\xff") in [tuple(pair) for pair in error.trailing_metadata()], error


def deadlines():
    remaining = float(unary(b"deadline", timeout=9))
    assert 5 < remaining <= 9.1, remaining
    since = time.monotonic()
    error = failing(lambda: unary(b"sleep 10", timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert time.monotonic() - since < 3


def until_cancelled(count):
    """Waits until the service has seen so many calls end early, for a second at most."""
    since = time.monotonic()
    while int(unary(b"cancelled", timeout=LIMIT)) < count:
        assert time.monotonic() - since < 1, "the service has not heard of it"
        time.sleep(0.01)  # between two looks


def cancels():
    call = unary.future(b"sleep 10")
    time.sleep(0.3)  # what is cancelled before it is sent nobody would hear of
    call.cancel()
    until_cancelled(1)
    call = server_stream(b"1000 0.05")
    assert next(call) == b"0"
    call.cancel()
    until_cancelled(2)


def told():
    """CODE DETAILS [RETRY_AFTER]: what tidegate itself says to each kind of call."""
    code, details = arguments[:2]
    for call in (
        lambda: unary(b"hello", timeout=LIMIT),
        lambda: list(server_stream(b"1 0", timeout=LIMIT)),
        lambda: client_stream(iter([b"a"] * 10), timeout=LIMIT),
        lambda: list(bidi(iter([b"a"]), timeout=LIMIT)),
    ):
        error = failing(call)
        assert error.code().name == code, (error.code(), error.details())
        assert error.details() == details, error.details()
        metadata = dict(error.trailing_metadata())
        assert metadata["proxy-status"].startswith("tidegate"), metadata
        assert arguments[2:] in ([], [metadata.get("retry-after")]), metadata


def calls():
    """COUNT REQUEST: so many unary calls, each by another user; tells how they ended."""
    count, request = int(arguments[0]), arguments[1].encode()
    timeout = float(arguments[2]) if arguments[2:] else LIMIT
    futures = [unary.future(request, metadata=[("x-user-id", str(n))], timeout=timeout) for n in range(count)]
    ends = {}
    for future in futures:
        end = future.code().name
        ends[end] = ends.get(end, 0) + 1
    print(sorted(ends.items()))


def silent():
    """Streams on which nobody says anything for SECONDS at first, and goes on then."""
    seconds = float(arguments[0])
    assert list(server_stream(b"2 %f" % seconds)) == [b"0", b"1"]

    def slow():
        yield b"a"
        time.sleep(seconds)
        yield b"b"

    assert list(bidi(slow())) == [b"echo a", b"echo b"]
    assert client_stream(slow()) == b"2"


def broken():
    """CODE [DETAILS]: how a stream ends that breaks off in the middle."""
    call = server_stream(b"1000 0.05")
    assert next(call) == b"0"
    print("begun", flush=True)
    error = failing(lambda: list(call))
    assert error.code().name == arguments[0], (error.code(), error.details())
    assert arguments[1:] in ([], [error.details()]), error.details()


{function.__name__: function for function in (
    kinds, interleaved, large, many, metadata, errors, deadlines, cancels, told, calls, silent, broken,
)}[story]()
channel.close()
