"""The programs that make the load: wrk, h2load and our own `connections`.

Each function is one run on the load's core and gives the exact figures as a
dict: `requests` (or what stands for them), `micros`, `errors` and, where the
program tells them, `p50_us`, `p99_us` and `mean_us`.
"""

import json
import os
import re
import subprocess

import proc
from products import BULK_BYTES, HERE, ROOT

# What h2load is told; wrk learns the same from openssl.cnf.
CIPHER = "TLS_AES_128_GCM_SHA256"
GROUP = "X25519"
USER = 1025  # whom h2load speaks for: its headers are the same in every request
CONNECTIONS = ROOT / "target/release/examples/connections"


def on_core(core, argv, **env):
    """The program's output, once it has ended well."""
    done = subprocess.run(["taskset", "-c", str(core), *map(str, argv)],
                          capture_output=True, text=True, env={**os.environ, **env})
    if done.returncode != 0:
        raise proc.Problem(f"{argv[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def result_line(name, output):
    """The line of JSON that our own script and program end with."""
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    result = json.loads(found.group(1)) if found else {"requests": 0}
    if result["requests"] == 0:
        raise proc.Problem(f"{name} got no answer at all:\n{output}")
    return result


def wrk(url, seconds, connections, core):
    """HTTP/1.1 over kept-alive connections, 1000 users in turn."""
    output = on_core(
        core,
        ["wrk", "--threads", 1, "--connections", connections, "--duration", f"{seconds}s",
         "--latency", "--script", HERE / "load.lua", url],
        OPENSSL_CONF=str(HERE / "openssl.cnf"))
    return result_line("wrk", output)


def h2load_argv(url, http1=False):
    """What every run of h2load has in common."""
    return ["h2load", "--threads", 1, "--header", f"x-user-id: {USER}",
            f"--npn-list={'http/1.1' if http1 else 'h2'}",
            f"--no-tls-proto={'http/1.1' if http1 else 'h2c'}",
            f"--tls13-ciphers={CIPHER}", f"--groups={GROUP}", url]


def h2load(url, seconds, connections, streams, core):
    """HTTP/2, one user, `connections` × `streams` requests under way."""
    output = on_core(core, [*h2load_argv(url), "--clients", connections,
                            "--max-concurrent-streams", streams, "--duration", f"{seconds}s"])
    return {**h2load_figures(output), "micros": seconds * 1_000_000}


def download(url, seconds, core, http1):
    """The large answer, again and again over one connection; a request is 1 MB of it.

    A download is over a whole number of answers, so it stops with the one that
    is under way when the time is up.
    """
    micros = received = errors = 0
    while micros < seconds * 1_000_000:
        output = on_core(core, [*h2load_argv(url + "bulk", http1), "--clients", 1,
                                "--max-concurrent-streams", 1, "--requests", DOWNLOADS])
        figures = h2load_figures(output)
        micros += figures["micros"]
        errors += figures["errors"]
        received += figures["requests"] * BULK_BYTES
    return {"requests": received / 1e6, "micros": micros, "errors": errors}


DOWNLOADS = 5  # in a process of h2load: its own start does not count
UNITS = {"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}


def h2load_figures(output):
    """What h2load prints: answers, how long, and the mean time of a request."""
    finished = re.search(r"finished in ([\d.]+)(us|ms|s|m)", output)
    done = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", output)
    mean = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s|m)", output)
    if not (finished and done and failed and mean) or int(done.group(1)) == 0:
        raise proc.Problem(f"h2load got no answer at all:\n{output}")
    return {
        "requests": int(done.group(1)),
        "micros": micros(finished),
        "mean_us": micros(mean),
        "errors": sum(map(int, done.groups()[1:])) + int(failed.group(1)),
    }


def micros(found):
    """A number and its unit, as h2load prints them."""
    return float(found.group(1)) * UNITS[found.group(2)]


def steady(url, seconds, connections, rate, core, log):
    """HTTP/1.1 at a fixed rate, every request with its time in `log`: a process
    that is not waited for (`proc.program` takes the argv)."""
    return [*realtime(), "taskset", "-c", str(core),
            *map(str, h2load_argv(url, http1=True)), "--clients", str(connections),
            f"--rps={rate / connections}", "--duration", f"{seconds}s", f"--log-file={log}"]


def realtime():
    """Runs what follows before everything else on its core: the client whose times
    are measured must not wait for the one that makes the noise. root only."""
    return ["chrt", "--fifo", "10"] if os.geteuid() == 0 else []


def connections(port, seconds, core, *options):
    """New connections: see benches/connections.rs for the options."""
    if not CONNECTIONS.is_file():
        raise proc.Problem(f"{CONNECTIONS} is missing: cargo build --release --example connections")
    output = on_core(core, [CONNECTIONS, f"127.0.0.1:{port}", "--seconds", seconds, *options])
    return result_line("connections", output)


def check_resumed(running, figures, resumed, parallel):
    """The handshakes were all of the kind that is counted, but for the first of each
    of the `parallel` clients, which has nothing to resume."""
    full = figures["requests"] - figures["resumed"]
    wrong = max(0, full - parallel) if resumed else figures["resumed"]
    if wrong > figures["requests"] / 100:
        raise proc.Problem(f"{running.product.label}: {wrong} of {figures['requests']} handshakes "
                           f"were {'full' if resumed else 'resumed'}")
