"""Thousands of new connections a second: what the clients notice that were there.

A steady load of kept-alive clients, at a rate far below what the proxy can take,
is timed request by request; after a while others begin to open connections, each
for one request. The steady clients' p99 before and during that is compared.
"""

import os
import time
from pathlib import Path

import clients
import proc

LEAD_SECONDS = 2  # of the steady load before it counts
BEFORE_SECONDS = 10
RAMP_SECONDS = 1  # of the new connections before their time counts
STEADY_CONNECTIONS = 32


def run(running, scratch, args):
    """One run: percentiles of the steady clients, and what the others got."""
    log = Path(scratch) / "steady.tsv"
    output = Path(scratch) / "steady.log"
    seconds = LEAD_SECONDS + BEFORE_SECONDS + RAMP_SECONDS + args.churn_seconds + 2
    argv = clients.steady(running.url, seconds, STEADY_CONNECTIONS, args.steady_rate,
                          args.load_core, log)
    with proc.program(argv, output) as steady:
        started = time.time()
        time.sleep(LEAD_SECONDS + BEFORE_SECONDS)
        cpu_before = sum(proc.cpu_seconds(running.pid))
        churn_started = time.time()
        new = clients.connections(running.port, RAMP_SECONDS + args.churn_seconds,
                                  args.load_core, "--rate", args.churn)
        churn_ended = time.time()
        cpu = sum(proc.cpu_seconds(running.pid)) - cpu_before
        if steady.wait(30) != 0:
            raise proc.Problem(proc.obituary("h2load", steady, output))
    times = read(log)
    before = percentiles(times, started + LEAD_SECONDS, churn_started)
    during = percentiles(times, churn_started + RAMP_SECONDS, churn_ended)
    return {
        "before": before,
        "during": during,
        "ratio": during["p99_us"] / before["p99_us"],
        "new_per_second": new["requests"] / (new["micros"] / 1e6),
        "new_errors": new["errors"],
        "new_p99_us": new["p99_us"],
        "busy": cpu / (churn_ended - churn_started),
    }


def read(log):
    """h2load's rows as (start in seconds, status, microseconds)."""
    rows = (line.split("\t") for line in log.read_text().splitlines())
    return [(int(row[0]) / 1e6, int(row[1]), int(row[2])) for row in rows]


def percentiles(times, since, until):
    """Of the requests that began then; one without a 200 counts as the slowest."""
    took = sorted(took if status == 200 else 10**9
                  for start, status, took in times if since <= start < until)
    if len(took) < 1000:
        raise proc.Problem(f"h2load made only {len(took)} requests in {until - since:.0f} s")
    return {"p50_us": took[len(took) // 2], "p99_us": took[len(took) * 99 // 100],
            "requests": len(took)}


def prefer(pid):
    """The backend before everything else on its core, as the timed client is."""
    if os.geteuid() == 0:
        for each in proc.tree(pid):
            os.sched_setscheduler(each, os.SCHED_FIFO, os.sched_param(10))
