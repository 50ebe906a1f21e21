"""Starting, watching and ending programs; free ports; what /proc says of them."""

import os
import resource
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Problem(Exception):
    """Something that ends the comparison, said in words that help."""


# ---- ports and limits ------------------------------------------------------


def port_numbers(first=18000, last=32000):
    """Free ports, one after the other, each only once.

    They lie below the range that Linux takes outgoing ports from: a port found
    by binding to 0 could be taken by one of our thousands of client sockets
    between the look and the proxy's start.
    """
    for port in range(first, last):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
    raise Problem(f"no free port left between {first} and {last}")


def raise_file_limit(wanted):
    """Allows this process and its children `wanted` open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError) as error:
        raise Problem(
            f"{wanted} open files are needed and {hard} allowed: "
            f"raise `ulimit -n` or lower --idle ({error})"
        ) from None


# ---- what /proc says -------------------------------------------------------


def _stat(pid):
    """The fields of /proc/PID/stat after the name: [0] state, [1] parent, ..."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def tree(root):
    """The pids of `root` and of all that descend from it (nginx's workers)."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(_stat(entry)[1])
            except OSError:
                continue  # it ended while we looked
    found = [root]
    for pid in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def cpu_seconds(root):
    """User and system seconds that the tree has used, all threads included.

    The kernel scales the two to the exact run time, so their sum is finer than
    the 10 ms tick; how it is divided between them is sampled at the tick.
    """
    user = system = 0
    for pid in tree(root):
        fields = _stat(pid)
        user += int(fields[11])
        system += int(fields[12])
    return user / TICKS_PER_SECOND, system / TICKS_PER_SECOND


def memory_kib(root):
    """Proportional resident memory of the tree: a page that nginx's master and
    its worker share is counted once, which a plain sum of RSS would not do."""
    total = 0
    for pid in tree(root):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def core_probe(core):
    """Milliseconds that a fixed piece of arithmetic takes on this core now.

    A virtual core's speed depends on what its neighbours on the host do, which
    neither the load average nor the steal time shows. This does.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        start = time.perf_counter()
        total = 0
        for number in range(500_000):
            total += number
        return (time.perf_counter() - start) * 1000
    finally:
        os.sched_setaffinity(0, allowed)


# ---- programs --------------------------------------------------------------


def end(process, patience=10):
    """Ends a program that we started and whatever it started, all by pid."""
    if process.poll() is not None:
        return
    started_at = {pid: _stat(pid)[19] for pid in tree(process.pid)}
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, start in started_at.items():
        try:
            if _stat(pid)[19] == start:  # still the same process, not a reused pid
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # gone, as it should be


@contextmanager
def program(argv, log, env=None):
    """Runs `argv` in the background, its output in `log`, until the block ends."""
    with open(log, "wb") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # Ctrl-C reaches this script only, which ends it
        )
    try:
        yield process
    finally:
        end(process)


def wait_for(what, process, log, ready, patience=15):
    """Waits until `ready()` is true; a program that dies first is a Problem."""
    deadline = time.monotonic() + patience
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Problem(obituary(what, process, log))
        time.sleep(0.05)


def obituary(what, process, log):
    """Why a program is of no use any more, with the end of its log."""
    code = process.poll()
    how = "is not ready" if code is None else f"ended by itself with {code}"
    return f"{what} {how}; its last words:\n{Path(log).read_text(errors='replace')[-2000:]}"


def port_answers(port):
    """Whether something accepts connections on this port."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
