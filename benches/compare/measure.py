"""The measurements: is the job done right, and what does it cost."""

import http.client
import ipaddress
import json
import re
import shutil
import statistics
import subprocess
import time
from contextlib import ExitStack, closing
from pathlib import Path

import proc
from products import BODY, HERE

FIRST_BATCH = 200  # connections opened before memory is counted
SETTLE_SECONDS = 3
STRACE_SECONDS = 3


# ---- is the job done right -------------------------------------------------


def side_of(user):
    """The rule that every proxy has to follow."""
    return "new" if user % 100 < 10 else "old"


def fetch(connection, path, user, **headers):
    """One GET as this user: the answer's headers and its text."""
    connection.request("GET", path, headers={"x-user-id": str(user), **headers})
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise proc.Problem(f"user {user}: GET {path} answered {answer.status}")
    return answer.headers, text


def check(running):
    """Raises a Problem unless the proxy does the whole job that is compared."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
    with closing(connection):
        try:
            for user in range(200):
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
                    check_headers(connection, running.port, user)
        except (proc.Problem, OSError, ValueError, http.client.HTTPException) as error:
            raise proc.Problem(f"{running.product.label} fails the check: {error}") from None


def check_headers(connection, port, user):
    """The header rules are on, and the backend's connections are reused."""
    for request_id in (None, "kept-4711"):
        extra = {"x-request-id": request_id} if request_id else {}
        _, text = fetch(connection, "/headers", user, **extra)
        seen = dict(line.split("=", 1) for line in text.splitlines())
        expected = {
            "x-tidegate-rollout": "default",
            "x-tidegate-side": side_of(user),
            "x-tidegate-reason": "bucket",
            "x-forwarded-proto": "http",
            "x-forwarded-host": f"127.0.0.1:{port}",
            "protocol": "HTTP/1.1",
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


def wrk(port, seconds, connections, core):
    """One run of the load generator: its exact figures."""
    done = subprocess.run(
        ["taskset", "-c", str(core), "wrk", "--threads", "1",
         "--connections", str(connections), "--duration", f"{seconds}s", "--latency",
         "--script", str(HERE / "load.lua"), f"http://127.0.0.1:{port}/"],
        capture_output=True, text=True,
    )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not found:
        raise proc.Problem(f"wrk failed:\n{done.stdout}{done.stderr}")
    result = json.loads(found.group(1))
    if result["requests"] == 0:
        raise proc.Problem("wrk got no answer at all")
    return result


def load(running, seconds, warmup, connections, core, proxy_core):
    """One measured run after a short warm-up that fills pools and caches."""
    wrk(running.port, warmup, connections, core)
    probe_before = proc.core_probe(proxy_core)
    user_before, system_before = proc.cpu_seconds(running.pid)
    result = wrk(running.port, seconds, connections, core)
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
    names = ("rps", "user_us", "system_us", "cpu_us", "busy", "p50_us", "p99_us")
    summary = {name: statistics.median(run[name] for run in runs) for name in names}
    for name in ("rps", "cpu_us"):
        summary[f"{name}_min"] = min(run[name] for run in runs)
        summary[f"{name}_max"] = max(run[name] for run in runs)
    summary["errors"] = sum(run["errors"] for run in runs)
    return summary


# ---- memory ----------------------------------------------------------------


def open_idle(running, count, held):
    """Opens `count` connections, uses each once and leaves it open in `held`."""
    for user in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
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
    wrk(running.port, 1, connections, core)
    pids = proc.tree(running.pid)
    table, log = Path(scratch) / "strace.out", Path(scratch) / "strace.log"
    argv = [shutil.which("strace"), "-f", "-c", "-o", str(table)]
    argv += [part for pid in pids for part in ("-p", str(pid))]
    with proc.program(argv, log) as tracer:
        proc.wait_for(
            "strace", tracer, log,
            lambda: log.read_text().count(" attached") >= len(pids),
        )
        requests = wrk(running.port, STRACE_SECONDS, connections, core)["requests"]
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
