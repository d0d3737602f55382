"""The rack's keys: one SSH key, the server's host key, and a CA that signs every console's certificate."""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import bcrypt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS = datetime.timedelta(days=3650)
_PEM = serialization.Encoding.PEM
_SIGNING = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
_SERVING = x509.KeyUsage(True, False, False, False, False, False, False, False, False)


@dataclass(frozen=True, slots=True)
class MadeUp:
    """The secrets of a rack whose lab file refers to none that are set."""

    bmc_user: str
    bmc_password: str
    root_password: str
    viewer_password: str
    operator_password: str
    iso_token: str


def made_up(path: Path) -> MadeUp:
    """This rack's own secrets, each made the first time that it is asked for."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    new = {field.name: secrets.token_urlsafe(12) for field in fields(MadeUp)} | {"bmc_user": "ADMIN"}
    made = MadeUp(**{**new, **kept})
    if asdict(made) != kept:
        write_private(path, json.dumps(asdict(made), indent=1).encode())
    return made


def ssh_key(path: Path, comment: str) -> str:
    """The public key of the key pair at `path`, made the first time."""
    public = path.with_suffix(".pub")
    if not public.exists():
        key = ed25519.Ed25519PrivateKey.generate()
        openssh = serialization.PrivateFormat.OpenSSH
        write_private(path, key.private_bytes(_PEM, openssh, serialization.NoEncryption()))
        line = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        public.write_text(f"{line.decode()} {comment}\n")
    return public.read_text().strip()


class Authority:
    """The rack's CA; its certificate is at `path`, its key beside it."""

    def __init__(self, path: Path, name: str) -> None:
        key_path = path.with_suffix(".key")
        if not path.exists():
            _make_authority(path, key_path, name)
        self._certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def sign(self, certificate: Path, key_path: Path, *, names: Iterable[str], address: str) -> None:
        """Write a certificate for a console's names and address, and its key, unless they are there."""
        if certificate.exists():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        known_as: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        known_as.append(x509.IPAddress(ipaddress.ip_address(address)))
        builder = _builder(_name(address), self._certificate.subject, key.public_key())
        signed = (
            builder.add_extension(x509.SubjectAlternativeName(known_as), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_SERVING, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        write_private(key_path, _key_pem(key))
        certificate.write_bytes(signed.public_bytes(_PEM))


def users_file(path: Path, user: str, password: str) -> None:
    """Write an htpasswd file with one user.

    The password's hash is the cheapest that bcrypt has: every request is checked against it.
    """
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    write_private(path, f"{user}:{hashed}\n".encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can ever read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _make_authority(path: Path, key_path: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = _name(name)
    certificate = (
        _builder(own, own, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNING, critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(key_path, _key_pem(key))
    path.write_bytes(certificate.public_bytes(_PEM))


def _builder(own: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer, own, key, x509.random_serial_number(), now - datetime.timedelta(hours=1), now + _YEARS
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
