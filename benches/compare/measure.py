"""The measurements: is the job done right, and what does it cost."""

import http.client
import ipaddress
import shutil
import ssl
import statistics
import subprocess
import time
from contextlib import ExitStack, closing
from pathlib import Path

import clients
import proc
from products import BODY

FIRST_BATCH = 200  # connections opened before memory is counted
SETTLE_SECONDS = 3
STRACE_SECONDS = 3


# ---- is the job done right -------------------------------------------------


def side_of(user):
    """The rule that every proxy has to follow."""
    return "new" if user % 100 < 10 else "old"


class Curl:
    """One request a process: Python's library has no HTTP/2."""

    def __init__(self, running):
        how = (["--http2", "--cacert", str(running.certificate)]
               if running.way.front == "tls" else ["--http2-prior-knowledge"])
        self.argv = ["curl", "--silent", "--show-error", "--include", "--max-time", "5", *how]
        self.root = running.url

    def get(self, path, headers):
        """Status, headers and text of the answer."""
        fields = [part for field in headers.items() for part in ("--header", ": ".join(field))]
        done = subprocess.run([*self.argv, *fields, self.root + path[1:]],
                              capture_output=True)
        head, _, text = done.stdout.decode().partition("\r\n\r\n")
        status, *lines = head.split("\r\n")
        if done.returncode != 0 or not status.startswith("HTTP/2 "):
            raise proc.Problem(f"curl: {status!r} {done.stderr.decode()}")
        return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), text

    def close(self):
        """Nothing is kept."""


class Http1:
    """One kept-alive connection, over TLS if the way is."""

    def __init__(self, running):
        if running.way.front == "tls":
            trust = ssl.create_default_context(cafile=running.certificate)
            self.connection = http.client.HTTPSConnection(
                "127.0.0.1", running.port, timeout=5, context=trust)
        else:
            self.connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)

    def get(self, path, headers):
        """Status, headers and text of the answer."""
        self.connection.request("GET", path, headers=headers)
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()

    def close(self):
        """Ends the connection."""
        self.connection.close()


def fetch(connection, path, user, **headers):
    """One GET as this user: the answer's headers and its text."""
    status, seen, text = connection.get(path, {"x-user-id": str(user), **headers})
    if status != 200:
        raise proc.Problem(f"user {user}: GET {path} answered {status}")
    return seen, text


def check(running):
    """Raises a Problem unless the proxy does the whole job that is compared, with
    every protocol that clients may speak to it on this way."""
    if running.way.front != "h2c":
        check_with(Http1, running, range(200))
    if running.way.front != "http1":
        check_with(Curl, running, range(0, 200, 9))


def check_with(client, running, users):
    """The check by one kind of client."""
    with closing(client(running)) as connection:
        try:
            for user in users:
                headers, body = fetch(connection, "/", user)
                expected = side_of(user) if running.product.splits else "old"
                if headers["x-backend"] != expected:
                    raise proc.Problem(
                        f"user {user} went to {headers['x-backend']}, not to {expected}"
                    )
                if body != BODY:
                    raise proc.Problem(f"user {user} got a changed body: {body!r}")
            if running.product.splits:
                for user in (7, 77):
                    check_headers(connection, running, user)
        except (proc.Problem, OSError, ValueError, http.client.HTTPException) as error:
            raise proc.Problem(f"{running.product.label} fails the check: {error}") from None


def check_headers(connection, running, user):
    """The header rules are on, and the backend's connections are reused."""
    for request_id in (None, "kept-4711"):
        extra = {"x-request-id": request_id} if request_id else {}
        _, text = fetch(connection, "/headers", user, **extra)
        seen = dict(line.split("=", 1) for line in text.splitlines())
        expected = {
            "x-tidegate-rollout": "default",
            "x-tidegate-side": side_of(user),
            "x-tidegate-reason": "bucket",
            "x-forwarded-proto": "https" if running.way.front == "tls" else "http",
            "x-forwarded-host": f"127.0.0.1:{running.port}",
            "protocol": "HTTP/2.0" if running.way.back == "h2" else "HTTP/1.1",
        }
        if request_id:
            expected["x-request-id"] = request_id
        for name, value in expected.items():
            if seen[name] != value:
                raise proc.Problem(f"the backend saw {name}: {seen[name]!r}, not {value!r}")
        if not seen["x-request-id"]:
            raise proc.Problem("no x-request-id was made")
        # Any address will do: Envoy puts its machine's own in a loopback one's place.
        ipaddress.ip_address(seen["x-forwarded-for"])
        if int(seen["requests-on-connection"]) < 2:
            raise proc.Problem("connections to the backend are not reused")


# ---- load ------------------------------------------------------------------


def load(running, generate, seconds, warmup, proxy_core):
    """One measured run after a short warm-up that fills pools and caches.

    `generate(running, seconds)` is the run of a client (clients.py).
    """
    generate(running, warmup)
    probe_before = proc.core_probe(proxy_core)
    user_before, system_before = proc.cpu_seconds(running.pid)
    result = generate(running, seconds)
    user_after, system_after = proc.cpu_seconds(running.pid)
    probe_after = proc.core_probe(proxy_core)

    requests, elapsed = result["requests"], result["micros"] / 1e6
    user, system = user_after - user_before, system_after - system_before
    return {
        **result,
        "rps": requests / elapsed,
        "user_us": user / requests * 1e6,
        "system_us": system / requests * 1e6,
        "cpu_us": (user + system) / requests * 1e6,
        "busy": (user + system) / elapsed,
        "probe_ms": (probe_before + probe_after) / 2,
    }


def summarize(runs):
    """The median of each figure over the rounds, and the range of two of them."""
    names = ("rps", "user_us", "system_us", "cpu_us", "busy", "p50_us", "p99_us", "mean_us")
    summary = {name: statistics.median(run[name] for run in runs)
               for name in names if name in runs[0]}  # not every client tells all of them
    for name in ("rps", "cpu_us"):
        summary[f"{name}_min"] = min(run[name] for run in runs)
        summary[f"{name}_max"] = max(run[name] for run in runs)
    summary["errors"] = sum(run["errors"] for run in runs)
    return summary


# ---- memory ----------------------------------------------------------------


def open_idle(running, count, held):
    """Opens `count` connections, uses each once and leaves it open in `held`."""
    for user in range(count):
        connection = Http1(running)
        held.callback(connection.close)
        fetch(connection, "/", user)


def idle_memory(running, count):
    """What an idle kept-alive connection costs, on a proxy just started.

    A first batch is opened before the first reading: it faults in the code, the
    allocator's first arenas and the pool to the backends, none of which is a
    price per connection.
    """
    with ExitStack() as held:
        open_idle(running, FIRST_BATCH, held)
        time.sleep(SETTLE_SECONDS)
        base = proc.memory_kib(running.pid)
        open_idle(running, count, held)
        time.sleep(SETTLE_SECONDS)
        full = proc.memory_kib(running.pid)
    return {"base_kib": base, "connections": count, "kib_each": (full - base) / count}


# ---- system calls ----------------------------------------------------------


def calls_per_request(running, scratch, connections, core):
    """System calls a request by name, of a short load run under strace.

    strace slows the proxy down a lot, so more connections are ready at each
    epoll_wait than in a run without it: read epoll_wait as a lower bound. The
    reads and writes do not depend on the pace.
    """
    clients.wrk(running.url, 1, connections, core)
    pids = proc.tree(running.pid)
    table, log = Path(scratch) / "strace.out", Path(scratch) / "strace.log"
    argv = [shutil.which("strace"), "-f", "-c", "-o", str(table)]
    argv += [part for pid in pids for part in ("-p", str(pid))]
    with proc.program(argv, log) as tracer:
        proc.wait_for(
            "strace", tracer, log,
            lambda: log.read_text().count(" attached") >= len(pids),
        )
        requests = clients.wrk(running.url, STRACE_SECONDS, connections, core)["requests"]
        proc.end(tracer)  # SIGTERM: it detaches and writes its table
    calls = {name: count / requests for name, count in parse_strace(table.read_text()).items()}
    return {"total": sum(calls.values()), "requests": requests, "calls": calls}


def parse_strace(text):
    """`strace -c` rows: % time, seconds, usecs/call, calls, [errors], name."""
    counts = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) in (5, 6) and fields[3].isdigit() and fields[-1] != "total":
            counts[fields[-1]] = int(fields[3])
    if not counts:
        raise proc.Problem(f"strace counted nothing:\n{text}")
    return counts
