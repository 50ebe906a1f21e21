"""The results as a Markdown section, ready for benches/RESULTS.md."""

import os
import platform
import shlex
import subprocess
from datetime import datetime, timezone
from pathlib import Path

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
        "command": shlex.join(argv),
    }


def _wrk_version():
    # wrk -v exits with 1 and prints its usage after the version
    text = subprocess.run(["wrk", "-v"], capture_output=True, text=True)
    words = (text.stdout + text.stderr).split()
    return words[1].removeprefix("debian/") if len(words) > 1 else "unknown"


COLUMNS = (
    "proxy", "version", "requests/s (min–max)", "CPU µs/request (min–max)", "user µs", "system µs",
    "p50 µs", "p99 µs", "proxy core busy", "KiB/idle connection", "base MiB",
    "system calls/request",
)


def markdown(results):
    """The whole section."""
    rows = [_row(row) for row in results["products"] if "summary" in row]
    lines = [
        *_table(COLUMNS, rows),
        "",
        *(f"- {row['label']}: {row['skipped']}"
          for row in results["products"] if "skipped" in row),
        *_notes(results),
        "",
        *_environment_lines(results),
    ]
    return "\n".join(lines)


def _table(head, rows):
    align = ["---", "---"] + ["---:"] * (len(head) - 2)
    return ["| " + " | ".join(cells) + " |" for cells in (head, align, *rows)]


def _row(row):
    summary, memory, calls = row["summary"], row.get("memory"), row.get("calls")
    return (
        row["label"],
        row["version"],
        f"{summary['rps']:,.0f} ({summary['rps_min']:,.0f}–{summary['rps_max']:,.0f})",
        f"{summary['cpu_us']:.1f} ({summary['cpu_us_min']:.1f}–{summary['cpu_us_max']:.1f})",
        f"{summary['user_us']:.1f}",
        f"{summary['system_us']:.1f}",
        f"{summary['p50_us']:,.0f}",
        f"{summary['p99_us']:,.0f}",
        f"{summary['busy']:.0%}" + ("" if summary["busy"] >= SATURATED else " *"),
        f"{memory['kib_each']:.1f}" if memory else "–",
        f"{memory['base_kib'] / 1024:.1f}" if memory else "–",
        f"{calls['total']:.2f}" if calls else "–",
    )


def _notes(results):
    """What a reader has to know to read the table rightly."""
    measured = [row for row in results["products"] if "summary" in row]
    settings = results["settings"]
    lines = [
        f"- Medians of {settings['rounds']} alternating rounds of {settings['seconds']} s, "
        f"{settings['connections']} connections in a closed loop (so the latency is mostly "
        "the queue: connections ÷ requests/s), 128-byte answers, one worker each on core "
        f"{settings['proxy_core']}; wrk and both backends share core {settings['load_core']}.",
    ]
    if results.get("ceiling_rps"):
        lines.append(
            f"- wrk straight to a backend, no proxy: {results['ceiling_rps']:,.0f} requests/s: "
            "about the most that the load core can give."
        )
    if any(row["summary"]["busy"] < SATURATED for row in measured):
        lines.append(
            "- \\* The proxy did not fill its core: the load core, or something else on the "
            "machine, was the bottleneck. Compare CPU µs/request; these requests/s are a lower "
            "bound."
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
        f"- {row['label']}: wrk counted {row['summary']['errors']} errors."
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


def _environment_lines(results):
    where = results["environment"]
    return [
        f"{where['date']}; {where['cpu']}, {where['cores']} cores; Linux {where['kernel']}; "
        f"wrk {where['wrk']}; load average at the start {where['load_average']:.2f}.",
        "",
        "```sh",
        where["command"],
        "```",
    ]
