"""The server's certificate: made once, kept while it is right, made anew when anything about it is not."""

from __future__ import annotations

import shlex
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from provision import certificate
from provision.certificate import Certificate, ensure, recalled, standing
from provision.errors import LabError
from provision.inventory import Lab, load
from provision.journal import Evidence
from provision.remote import LocalRemote

LAB_FILE = Path(__file__).parents[2] / "labs" / "virtual.yaml"


@pytest.fixture
def lab() -> Lab:
    return load(LAB_FILE, {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tls"
    monkeypatch.setattr(certificate, "FOLDER", str(folder))
    monkeypatch.setattr(certificate, "KEY", str(folder / "server.key"))
    monkeypatch.setattr(certificate, "CERTIFICATE", str(folder / "server.crt"))
    return folder


SERVER = LocalRemote("server")


def made(lab: Lab) -> tuple[Certificate, bool]:
    """The certificate, and whether it was found that it had to be made."""
    stands = standing(lab, SERVER)
    found = ensure(lab, SERVER)
    assert stands in (None, found)
    return found, stands is None


def test_it_is_made_once_and_kept(lab: Lab, folder: Path) -> None:
    first, new = made(lab)
    assert new
    assert made(lab) == (first, False)
    assert [path.name for path in sorted(folder.iterdir())] == ["server.crt", "server.key"]
    assert (folder / "server.key").stat().st_mode & 0o777 == 0o600


def test_to_look_for_it_makes_none(lab: Lab, folder: Path) -> None:
    assert standing(lab, SERVER) is None
    assert not folder.exists()


def test_it_is_the_servers_own_and_nobody_elses_authority(lab: Lab, folder: Path) -> None:
    found = x509.load_pem_x509_certificate(made(lab)[0].pem.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == ["10.10.1.1"]
    assert names.get_values_for_type(x509.DNSName) == ["server.lab.example.net", "server"]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (found.not_valid_after_utc - found.not_valid_before_utc).days == 3650


def another_address(lab: Lab, _folder: Path) -> Lab:
    return lab.model_copy(update={"server": lab.server.model_copy(update={"name": "other"})})


def a_key_that_others_could_read(lab: Lab, folder: Path) -> Lab:
    (folder / "server.key").chmod(0o640)
    return lab


def no_key(lab: Lab, folder: Path) -> Lab:
    (folder / "server.key").unlink()
    return lab


def another_key(lab: Lab, folder: Path) -> Lab:
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-out", str(folder / "server.key"))  # fmt: skip
    return lab


def a_broken_certificate(lab: Lab, folder: Path) -> Lab:
    (folder / "server.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return lab


def one_that_ends_soon(lab: Lab, folder: Path) -> Lab:
    names = "subjectAltName=IP:10.10.1.1,DNS:server.lab.example.net,DNS:server"
    openssl("req", "-x509", "-new", "-key", str(folder / "server.key"), "-subj", "/CN=x", "-days", "80",
            "-addext", names, "-out", str(folder / "server.crt"))  # fmt: skip
    return lab


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


WRONG: list[Callable[[Lab, Path], Lab]] = [
    another_address,
    a_key_that_others_could_read,
    no_key,
    another_key,
    a_broken_certificate,
    one_that_ends_soon,
]


@pytest.mark.parametrize("spoil", WRONG)
def test_it_is_made_anew_when_something_is_wrong(
    spoil: Callable[[Lab, Path], Lab], lab: Lab, folder: Path
) -> None:
    first, _ = made(lab)
    lab = spoil(lab, folder)
    second, new = made(lab)
    assert new
    assert second.fingerprint != first.fingerprint
    assert made(lab) == (second, False)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
        folder / "server.crt", folder / "server.key"
    )


def test_the_fingerprint_is_openssls(lab: Lab, folder: Path) -> None:
    found, _ = made(lab)
    show = ["openssl", "x509", "-in", str(folder / "server.crt"), "-noout", "-fingerprint", "-sha256"]
    shown = LocalRemote("server").check(shlex.join(show))
    assert shown.partition("=")[2].strip().replace(":", "").lower() == found.fingerprint


def test_an_install_needs_what_the_server_step_proved(lab: Lab, folder: Path) -> None:
    proved, _ = made(lab)
    assert recalled(evidence(certificate=proved.facts)) == proved
    with pytest.raises(LabError, match="left no certificate"):
        recalled(evidence())


def evidence(**facts: object) -> Evidence:
    return Evidence("virtual", "server", "run-1", 0.0, 0.0, [], [], facts, {})
