"""The certificate that all products show: ECDSA on P-256, made for one run."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import proc


@dataclass(frozen=True)
class Certificate:
    """Its files, in the forms that the products want."""

    chain: Path
    key: Path
    both: Path  # HAProxy reads a single file


def make(folder):
    """A self-signed one for 127.0.0.1 and localhost, in `folder`."""
    chain, key, both = (Path(folder) / name for name in ("tls.crt", "tls.key", "tls.pem"))
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-sha256", "-nodes", "-days", "7", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", str(key), "-out", str(chain)],
        capture_output=True, text=True,
    )
    if done.returncode != 0:
        raise proc.Problem(f"openssl made no certificate:\n{done.stderr}")
    both.write_text(chain.read_text() + key.read_text())
    return Certificate(chain, key, both)
