"""What the server hands out: boot file and media whole, a node's boot script, nothing to strangers."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from provision.certificate import CERTIFICATE
from provision.inventory import Lab, Node
from provision.journal import Evidence
from provision.server_plan import HTTP_ROOT, TFTP_ROOT, secure_url, service_url

pytestmark = pytest.mark.step("server")

BOOT_FILE = "snponly.efi"
PACKAGE_SUMS = "/var/lib/dpkg/info/ipxe.md5sums"
"""What dpkg unpacked, by Debian's own checksums."""

STRANGER = "02:00:5e:00:53:01"
QUESTION = (
    '{"$schema":{"version":"1.0"},"product":{"product":"pve"},"network_interfaces":'
    '[{"link":"eno1","mac":"%s"}]}'
)


def test_boot_file_by_tftp(server_host: Host, lab: Lab) -> None:
    """TFTP hands out the boot file byte for byte as Debian built it."""
    path = f"{TFTP_ROOT}/{BOOT_FILE}".lstrip("/")
    built = server_host.check_output("grep -F %s %s", f"  {path}", PACKAGE_SUMS).split()[0]
    fetched = f"curl -fsS --max-time 10 tftp://{lab.server.address}/{BOOT_FILE}"
    assert server_host.check_output(f"{fetched} | md5sum").split()[0] == built


@pytest.mark.parametrize("file", ["vmlinuz", "initrd.img", "iso"])
def test_install_medium_is_whole(server_host: Host, lab: Lab, evidence: Evidence, file: str) -> None:
    """HTTP hands out each file of the install media, as large as the one that was brought here."""
    for system in lab.media:
        brought = evidence.facts["media"][system]
        name = next(name for name in brought if name.endswith(file))
        headers = server_host.check_output(f"curl -fsSI {service_url(lab)}/media/{system}/{name}")
        assert f"content-length: {brought[name]}\n" in headers.lower().replace("\r", "")


@pytest.mark.parametrize("file", ["vmlinuz", "initrd.img", "iso"])
def test_install_medium_is_what_was_prepared(
    server_host: Host, lab: Lab, evidence: Evidence, file: str
) -> None:
    """The server has each file of the install media byte for byte as it was prepared."""
    for system in lab.media:
        prepared = evidence.facts["media_sha256"][system]
        name = next(name for name in prepared if name.endswith(file))
        there = server_host.check_output(f"sha256sum {HTTP_ROOT}/{system}/{name}")
        assert there.split()[0] == prepared[name], f"{system}: {name}"


def test_boot_script_of_node(server_host: Host, lab: Lab, node: Node) -> None:
    """A node without leave to install is told, by name, to boot from its disk."""
    script = server_host.check_output(f"curl -fsS {service_url(lab)}/boot/{node.mac}")
    assert script.startswith("#!ipxe\n")
    assert f"{node.name} boots from its disk" in script
    assert "kernel" not in script


def test_stranger_gets_no_boot_script(server_host: Host, lab: Lab) -> None:
    """A MAC that the lab file does not have is refused."""
    assert _status(server_host, f"{service_url(lab)}/boot/{STRANGER}") == "404"


def test_stranger_gets_no_install(server_host: Host, lab: Lab) -> None:
    """A made-up path is refused, and not a byte of an answer comes with it."""
    url = f"--cacert {CERTIFICATE} {secure_url(lab)}/answer/made-up-by-a-check"
    body = server_host.check_output("curl -sS -X POST -H 'Content-Type: application/json' -d %s " + url,
                                    QUESTION % STRANGER)  # fmt: skip
    assert "root-password" not in body
    assert _status(server_host, f"-X POST -H 'Content-Type: application/json' -d '{{}}' {url}") in (
        "403",
        "404",
    )


def _status(host: Host, what: str) -> str:
    return str(host.check_output(f"curl -sS -o /dev/null -w '%{{http_code}}' {what}"))
