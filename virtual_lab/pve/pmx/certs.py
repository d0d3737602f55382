"""Keys and certificates of the cluster and of the node, made by openssl.

Proxmox takes RSA keys of 2048 and, for its CA, 4096 bits. Here the ticket key is RSA 2048, as tickets
show its size; the others are P-256: an RSA 4096 key costs 2 to 4 s of a core, an RSA 2048 key 0.2 s.
"""

from __future__ import annotations

import datetime
import re
import ssl
import uuid
from pathlib import Path

from .cluster import BASE, PRIVATE, cluster_lock, write_file
from .errors import Failure
from .run import run

AUTH_KEY, AUTH_PUBLIC = PRIVATE / "authkey.key", BASE / "authkey.pub"
WWW_KEY = BASE / "pve-www.key"
CA_KEY, CA_SERIAL, CA_CERTIFICATE = (
    PRIVATE / "pve-root-ca.key",
    PRIVATE / "pve-root-ca.srl",
    BASE / "pve-root-ca.pem",
)
CA_DAYS, NODE_DAYS = 3650, 730


def ensure_auth_key() -> None:
    """The cluster's key that signs tickets."""
    if AUTH_KEY.exists():
        return
    with cluster_lock("authkey"):
        if not AUTH_KEY.exists():
            key = run(["openssl", "genrsa", "2048"])
            write_file(AUTH_KEY, key)
            write_file(AUTH_PUBLIC, run(["openssl", "rsa", "-pubout"], stdin=key))


def ensure_key(place: Path) -> None:
    """A private key at `place`."""
    if not place.exists():
        write_file(
            place, run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
        )


def ensure_ca() -> bool:
    """The cluster's CA; whether it had to be made."""
    if CA_KEY.exists() and CA_CERTIFICATE.exists():
        return False
    ensure_key(CA_KEY)
    names = {"CN": "Proxmox Virtual Environment", "OU": str(uuid.uuid4()), "O": "PVE Cluster Manager CA"}
    extensions = {"basicConstraints": "critical,CA:TRUE", "keyUsage": "critical,keyCertSign,cRLSign",
                  "subjectKeyIdentifier": "hash", "authorityKeyIdentifier": "keyid"}  # fmt: skip
    write_file(CA_CERTIFICATE, _certificate(CA_KEY, names, extensions, CA_DAYS))
    return True


def make_node_certificate(node: str, address: str) -> None:
    """A new certificate for the node's API, signed by the cluster's CA."""
    place = BASE / f"nodes/{node}"
    domain = search_domain()
    full_name = f"{node}.{domain}" if domain else node
    names = {"OU": "PVE Cluster Node", "O": "Proxmox Virtual Environment", "CN": full_name}
    hosts = f"IP:127.0.0.1,IP:::1,DNS:localhost,IP:{address},DNS:{node}"
    hosts += f",DNS:{full_name}" if domain else ""
    extensions = {"basicConstraints": "CA:FALSE", "extendedKeyUsage": "serverAuth", "subjectAltName": hosts,
                  "subjectKeyIdentifier": "hash", "authorityKeyIdentifier": "keyid"}  # fmt: skip
    signed_by = ["-CA", str(CA_CERTIFICATE), "-CAkey", str(CA_KEY), "-set_serial", str(_next_serial())]
    pem = _certificate(place / "pve-ssl.key", names, extensions, NODE_DAYS, *signed_by)
    write_file(place / "pve-ssl.pem", pem)


def search_domain() -> str:
    """The search line of resolv.conf."""
    try:
        match = re.search(r"^search\s+(\S+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return ""
    return match[1] if match else ""


def ensure_node_files(node: str, address: str, *, force: bool = False) -> None:
    """Everything below /etc/pve that the node's API needs."""
    for name in ("priv", "nodes", *(f"nodes/{node}{part}" for part in ("", "/lxc", "/qemu-server", "/priv"))):
        (BASE / name).mkdir(exist_ok=True)
    ensure_auth_key()
    ensure_key(WWW_KEY)
    ensure_key(BASE / f"nodes/{node}/pve-ssl.key")
    new_ca = ensure_ca()
    if force or new_ca or not (BASE / f"nodes/{node}/pve-ssl.pem").exists():
        make_node_certificate(node, address)


def describe(certificate: Path) -> dict[str, object]:
    """What GET certificates/info says of a PEM file."""
    decoded = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    return {
        "filename": certificate.name,
        "subject": _name(decoded["subject"]),
        "issuer": _name(decoded["issuer"]),
        "notbefore": int(ssl.cert_time_to_seconds(decoded["notBefore"])),
        "notafter": int(ssl.cert_time_to_seconds(decoded["notAfter"])),
        "san": [value for _, value in decoded.get("subjectAltName", ())],
        "pem": certificate.read_text(),
    }


def _name(parts: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    short = {"commonName": "CN", "organizationalUnitName": "OU", "organizationName": "O"}
    return "".join(f"/{short.get(key, key)}={value}" for ((key, value),) in parts)


def _next_serial() -> int:
    last = int(CA_SERIAL.read_text().strip() or "0", 16) if CA_SERIAL.exists() else 0
    write_file(CA_SERIAL, f"{last + 1:016X}\n")
    return last + 1


def _certificate(
    key: Path, names: dict[str, str], extensions: dict[str, str], days: int, *signed_by: str
) -> bytes:
    # Valid from yesterday on, as Proxmox has it: a browser's clock may lag.
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    until = start + datetime.timedelta(days=days)
    lines = ["[req]", "distinguished_name=dn", "prompt=no", "x509_extensions=ext", "[dn]"]
    lines += [f"{name}={value}" for name, value in names.items()]
    lines += ["[ext]", *(f"{name}={value}" for name, value in extensions.items())]
    command = ["openssl", "req", "-x509", "-new", "-key", str(key), "-config", "/dev/stdin", *signed_by,
               "-not_before", f"{start:%Y%m%d%H%M%SZ}", "-not_after", f"{until:%Y%m%d%H%M%SZ}"]  # fmt: skip
    try:
        return run(command, stdin="\n".join(lines).encode() + b"\n")
    except Failure as failed:
        raise Failure(f"unable to generate pve ssl certificate:\n{failed.message}") from None
