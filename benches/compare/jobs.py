"""The jobs that the products are compared at, one paragraph of `--help` each."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import clients
from products import HTTP1, Way


@dataclass(frozen=True)
class Unit:
    """What is counted, and the heads of its columns."""

    rate: str
    cpu: str
    name: str
    cpu_scale: float = 1.0  # from µs to what `cpu` says


REQUESTS = Unit("requests/s", "CPU µs/request", "request")
HANDSHAKES = Unit("handshakes/s", "CPU µs/handshake", "handshake")
MEGABYTES = Unit("MB/s", "CPU s/GB", "MB", 1e-3)


@dataclass(frozen=True)
class Job:
    """One table of the report."""

    key: str
    title: str
    says: str  # in --help, and above the table


@dataclass(frozen=True)
class Load(Job):
    """As much as the proxy can take, in alternating rounds."""

    way: Way
    unit: Unit
    generate: Callable  # (running, seconds, args) → the figures of clients.py


def _wrk(running, seconds, args):
    return clients.wrk(running.url, seconds, args.connections, args.load_core)


def _h2load(running, seconds, args):
    return clients.h2load(running.url, seconds, args.h2_connections, args.h2_streams,
                          args.load_core)


def _handshakes(*options):
    def generate(running, seconds, args):
        figures = clients.connections(running.port, seconds, args.load_core, "--tls",
                                      "--parallel", args.connections, *options)
        clients.check_resumed(running, figures, "--resume" in options,
                              args.connections)
        return figures

    return generate


def _download(http1):
    def generate(running, seconds, args):
        return clients.download(running.url, seconds, args.load_core, http1)

    return generate


HTTP1_JOB = Load(
    "http1", "HTTP/1.1",
    "wrk, --connections kept-alive connections, HTTP/1.1 on both sides; memory of idle connections "
    "and system calls as well.",
    HTTP1, REQUESTS, _wrk)
CHURN = Job(
    "churn", "New connections beside a steady load",
    "h2load keeps --steady-rate HTTP/1.1 requests/s on 32 connections; after 10 s others open --churn "
    "connections a second for --churn-seconds s, each for one request, from 24 addresses. p99 of the "
    "steady requests before and during. The row `no proxy` is the backend itself: what the load core adds.")
MEMORY = Job(
    "memory", "What one hostile client costs",
    "Four clients each, on a fresh process: growth at its peak within 4 s, by client, and its ratio to the "
    "bytes that the client sent. Bombs are 100 streams of requests with many one-byte fields and windows "
    "of 0; the others ask for 100 answers of 100 MB (one, over HTTP/1.1) that they do not take.")

JOBS = (
    HTTP1_JOB,
    Load("h2", "HTTP/2 from clients (h2c)",
         "h2load, --h2-connections x --h2-streams requests under way, h2c by prior knowledge; HTTP/1.1 to "
         "the backends. All requests are one user's, whom the rule sends to old.",
         Way("h2c"), REQUESTS, _h2load),
    Load("h2-backend", "HTTP/2 on both sides",
         "The same with h2c to the backends. nginx speaks no HTTP/2 to backends.",
         Way("h2c", "h2"), REQUESTS, _h2load),
    Load("tls", "HTTP/1.1 over TLS", "As http1, over TLS.", Way("tls"), REQUESTS, _wrk),
    Load("tls-h2", "HTTP/2 over TLS", "As h2, over TLS by ALPN.", Way("tls"), REQUESTS, _h2load),
    Load("handshakes", "TLS handshakes, full",
         "benches/connections.rs: --connections under way, each a handshake and an orderly close, no "
         "request. The client checks no signature, so that the proxy is busy before it is.",
         Way("tls"), HANDSHAKES, _handshakes()),
    Load("resumptions", "TLS handshakes, resumed",
         "The same with the ticket of the client's last connection (TLS 1.3, with a key exchange).",
         Way("tls"), HANDSHAKES, _handshakes("--resume")),
    Load("bulk", "Large answers over TLS, HTTP/1.1",
         "h2load takes an answer of 100 MB again and again over one connection.",
         Way("tls", answers="bulk"), MEGABYTES, _download(http1=True)),
    Load("bulk-h2", "Large answers over TLS, HTTP/2",
         "The same over HTTP/2, with windows as large as they can be.",
         Way("tls", answers="bulk"), MEGABYTES, _download(http1=False)),
    Load("bulk-h2c", "Large answers over HTTP/2 in the clear", "The same without TLS.",
         Way("h2c", answers="bulk"), MEGABYTES, _download(http1=False)),
    CHURN,
    MEMORY,
)
BY_KEY = {job.key: job for job in JOBS}


def described(width=79):
    """All jobs, for --help."""
    return "\n".join(
        textwrap.fill(f"{job.key:12} {job.says}", width, initial_indent="  ",
                      subsequent_indent=" " * 15)
        for job in JOBS)
