"""The results as Markdown sections, ready for benches/RESULTS.md."""

import os
import platform
import shlex
import statistics
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import jobs

SATURATED = 0.95  # a proxy core less busy than this was not the bottleneck
STEADY = 1.15  # slowest ÷ fastest probe of a core that nothing disturbed


def environment(argv):
    """Where and how the figures were taken; taken before the first run, so that
    the load average tells whether the machine was quiet."""
    cpu = next(
        (line.split(":", 1)[1].strip()
         for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "wrk": _wrk_version(),
        "h2load": _first_line("h2load", "--version").removeprefix("h2load "),
        "openssl": _first_line("openssl", "version").split(" (")[0],
        "command": shlex.join(argv),
    }


def _wrk_version():
    # wrk -v exits with 1 and prints its usage after the version
    text = subprocess.run(["wrk", "-v"], capture_output=True, text=True)
    words = (text.stdout + text.stderr).split()
    return words[1].removeprefix("debian/") if len(words) > 1 else "unknown"


def _first_line(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout.split("\n")[0]


IDLE_COLUMNS = ("KiB/idle connection", "base MiB", "system calls/request")


def markdown(results):
    """All sections, and where they were taken."""
    lines = []
    for section in results["jobs"]:
        job = jobs.BY_KEY[section["job"]]
        lines += [f"### {job.title}", "", *_section(job, section, results["settings"]), ""]
    return "\n".join([*lines, *_environment_lines(results)])


def _section(job, section, settings):
    if job is jobs.CHURN:
        lines = churn_lines(section, settings)
    elif job is jobs.MEMORY:
        lines = memory_lines(section)
    else:
        lines = load_lines(job, section, settings)
    skipped = [f"- {row['label']}: {row['skipped']}"
               for row in section["products"] if "skipped" in row]
    return [*lines, *skipped]


# ---- load ------------------------------------------------------------------


def load_lines(job, section, settings):
    """The table of a job of as much load as can be, and its notes."""
    measured = [row for row in section["products"] if "summary" in row]
    latencies = [name for name in LATENCIES if name in measured[0]["summary"]]
    idle = job is jobs.HTTP1_JOB
    columns = (
        "proxy", "version", f"{job.unit.rate} (min–max)", f"{job.unit.cpu} (min–max)", "user",
        "system", *(LATENCIES[name] for name in latencies), "proxy core busy",
        *(IDLE_COLUMNS if idle else ()),
    )
    rows = [(*_row(job, row, latencies), *(_idle_cells(row) if idle else ())) for row in measured]
    return [*_table(columns, rows), "", *_notes(job, section, measured, settings)]


LATENCIES = {"p50_us": "p50 µs", "p99_us": "p99 µs", "mean_us": "mean µs"}


def _table(head, rows):
    align = ["---", "---"] + ["---:"] * (len(head) - 2)
    return ["| " + " | ".join(cells) + " |" for cells in (head, align, *rows)]


def _row(job, row, latencies):
    summary, scale = row["summary"], job.unit.cpu_scale

    def cpu(name):
        value = summary[name] * scale
        return f"{value:.1f}" if scale == 1 else f"{value:.2f}"

    return (
        row["label"],
        row["version"],
        f"{summary['rps']:,.0f} ({summary['rps_min']:,.0f}–{summary['rps_max']:,.0f})",
        f"{cpu('cpu_us')} ({cpu('cpu_us_min')}–{cpu('cpu_us_max')})",
        cpu("user_us"),
        cpu("system_us"),
        *(f"{summary[name]:,.0f}" for name in latencies),
        f"{summary['busy']:.0%}" + ("" if summary["busy"] >= SATURATED else " *"),
    )


def _idle_cells(row):
    memory, calls = row.get("memory"), row.get("calls")
    return (
        f"{memory['kib_each']:.1f}" if memory else "–",
        f"{memory['base_kib'] / 1024:.1f}" if memory else "–",
        f"{calls['total']:.2f}" if calls else "–",
    )


def _notes(job, section, measured, settings):
    """What a reader has to know to read the table rightly."""
    if job.unit is jobs.MEGABYTES:
        load = "one connection, answers of 100 MB one after the other"
    elif job.unit is jobs.HANDSHAKES:
        load = f"{settings['connections']} handshakes under way in a closed loop"
    elif job.way.front == "h2c" or job.key == "tls-h2":
        load = (f"{settings['h2_connections']} connections of {settings['h2_streams']} requests "
                "under way in a closed loop, one user, 128-byte answers")
    else:
        load = (f"{settings['connections']} connections in a closed loop (so the latency is mostly "
                "the queue: connections ÷ requests/s), 128-byte answers")
    lines = [
        f"- Medians of {settings['rounds']} alternating rounds of {settings['seconds']} s, {load}, "
        f"one worker each on core {settings['proxy_core']}; the clients and both backends share "
        f"core {settings['load_core']}.",
    ]
    if job.way.front == "tls":
        lines.append("- TLS 1.3, TLS_AES_128_GCM_SHA256, X25519, one ECDSA P-256 certificate.")
    if section.get("ceiling_rps"):
        lines.append(
            f"- The same client straight to a backend, no proxy: {section['ceiling_rps']:,.0f} "
            "requests/s: about the most that the load core can give."
        )
    if any(row["summary"]["busy"] < SATURATED for row in measured):
        lines.append(
            "- \\* The proxy did not fill its core: the load core, or something else on the "
            f"machine, was the bottleneck. Compare {job.unit.cpu}; these {job.unit.rate} are a "
            "lower bound."
        )
    lines.append(_steadiness(measured))
    if any("memory" in row for row in measured):
        lines.append(
            "- KiB/idle connection: growth of PSS (the proxy's own memory, not the kernel's "
            "sockets) over connections that were used once, on a fresh process; base MiB is "
            "the process with the first 200 of them. nginx and HAProxy reserve their tables of "
            "connections at the start, in part before the base reading."
        )
    lines += _call_lines(measured)
    lines += [
        f"- {row['label']}: the client counted {row['summary']['errors']} errors."
        for row in measured
        if row["summary"]["errors"]
    ]
    return lines


def _steadiness(measured):
    """How far the proxy core's own speed varied, and what follows for a reader."""
    probes = [run["probe_ms"] for row in measured for run in row["runs"]]
    spread = max(probes) / min(probes)
    line = (f"- A fixed loop on the proxy core, timed around each run, took {min(probes):.0f} to "
            f"{max(probes):.0f} ms: the core's own speed varied by a factor of {spread:.2f}.")
    if spread > STEADY:
        line += (" Something else used the machine: differences within the ranges mean "
                 "nothing, and the lowest CPU figures are the least disturbed.")
    return line


def _call_lines(measured):
    """Which system calls make up a request; the rare ones are left out."""
    traced = [row for row in measured if "calls" in row]
    if not traced:
        return []
    head = ("- System calls a request, under strace (which slows the proxy, so epoll_wait "
            "is a lower bound):")
    lines = [head]
    for row in traced:
        often = sorted(row["calls"]["calls"].items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {count:.2f}" for name, count in often if count >= 0.01)
        lines.append(f"  - {row['label']}: {named}")
    return lines


# ---- churn -----------------------------------------------------------------


CHURN_COLUMNS = (
    "proxy", "version", "p50 µs before", "p50 µs during", "p99 µs before", "p99 µs during",
    "p99 ratio (min–max)", "new connections/s", "their p99 µs", "their errors", "proxy core busy",
)


def churn_lines(section, settings):
    """Percentiles of the steady clients before and during the churn."""
    rows = []
    for row in section["products"]:
        if "runs" not in row:
            continue
        runs = row["runs"]
        ratios = [run["ratio"] for run in runs]

        def median(of, runs=runs):
            return statistics.median(of(run) for run in runs)

        rows.append((
            row["label"], row["version"],
            *(f"{median(lambda run: run[phase][name]):,.0f}"
              for name in ("p50_us", "p99_us") for phase in ("before", "during")),
            f"{median(lambda run: run['ratio']):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            f"{median(lambda run: run['new_per_second']):,.0f}",
            f"{median(lambda run: run['new_p99_us']):,.0f}",
            f"{sum(run['new_errors'] for run in runs):,}",
            f"{median(lambda run: run['busy']):.0%}",
        ))
    return [
        *_table(CHURN_COLUMNS, rows), "",
        f"- Medians of {settings['churn_rounds']} alternating rounds: {settings['steady_rate']:,} "
        f"HTTP/1.1 requests/s on 32 kept-alive connections, for 10 s alone and for "
        f"{settings['churn_seconds']} s beside {settings['churn']:,} new connections a second of one "
        "request each.",
        "- no proxy: the steady clients and the new connections straight to the backend, once. It "
        "shares its core with both of them.",
    ]


# ---- memory ----------------------------------------------------------------


def memory_lines(section):
    """What each attack cost, a product a column."""
    measured = [row for row in section["products"] if "costs" in row]
    rows = []
    for key, title in section["attacks"].items():
        found = [row["costs"].get(key) for row in measured]
        sent = next((cost["sent_bytes"] for cost in found if cost and "sent_bytes" in cost), 0)
        rows.append((title, f"{sent:,.0f}", *map(_cost_cell, found)))
    head = ("client", "bytes sent", *(f"{row['label']} {row['version']}" for row in measured))
    return [
        *_table(head, rows), "",
        "- KiB a client at the peak (times what it sent; how many of the clients were still "
        "connected in the end). PSS, so without the kernel's socket buffers; the bytes are "
        "counted before TLS.",
    ]


def _cost_cell(cost):
    if cost is None:
        return "–"
    if "failed" in cost:
        return "failed"
    return f"{cost['kib_each']:,.0f} ({cost['ratio']:,.1f}x; {cost['alive']} of {cost['clients']})"


# ---- where -----------------------------------------------------------------


def _environment_lines(results):
    where = results["environment"]
    return [
        f"{where['date']}; {where['cpu']}, {where['cores']} cores; Linux {where['kernel']}; "
        f"wrk {where['wrk']}, {where['h2load']}, {where['openssl']}; load average at the start {where['load_average']:.2f}.",
        "",
        "```sh",
        where["command"],
        "```",
    ]
