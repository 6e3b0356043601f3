"""Certificates for tests and demos, made by openssl when they are needed; none is ever kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunneld.lab import process
from tunneld.lab.netns import require_tool

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, both PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority.

    Args:
        directory: where the files go; made if it is not there.
        name: of the authority.

    Attributes:
        certificate: what clients are given as their CA file.
    """

    def __init__(self, directory: Path, name: str = "ca") -> None:
        require_tool("openssl", "openssl")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._name = name
        cert, key = directory / f"{name}.pem", directory / f"{name}.key"
        self.certificate = Certificate(cert, key)
        where = ["-keyout", str(key), "-out", str(cert)]
        process.run(["openssl", "req", "-x509", *_KEY, *where, "-subj", f"/CN={name}"])

    def issue(
        self, name: str, *, hosts: tuple[str, ...] = ("IP:127.0.0.1",), days: int = 2
    ) -> Certificate:
        """Make a certificate for servers and clients.

        Args:
            name: common name, and name of the files.
            hosts: subject alternative names, as openssl writes them.
            days: of validity from now; negative: it has expired.
        """
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request, extensions = cert.with_suffix(".csr"), cert.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={','.join(hosts)}\n")
        where = ["-keyout", str(key), "-out", str(request)]
        process.run(["openssl", "req", "-new", *_KEY, *where, "-subj", f"/CN={name}"])
        process.run(
            [
                *("openssl", "x509", "-req", "-in", str(request), "-out", str(cert)),
                *("-CA", str(self.certificate.cert), "-CAkey", str(self.certificate.key)),
                *("-CAcreateserial", "-days", str(days), "-extfile", str(extensions)),
            ]
        )
        return Certificate(cert, key)
