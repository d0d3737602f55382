"""What the server hands out: boot file and media whole, a node's boot script, nothing to strangers."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from provision.certificate import CERTIFICATE
from provision.inventory import Lab, Node
from provision.inventory.boot_chains import CHAINS, PACKAGES, SOURCES
from provision.journal import Evidence
from provision.server_plan import (
    DNSMASQ_CONF,
    HTTP_ROOT,
    boot_line,
    firmware_url,
    secure_url,
    service_url,
)

pytestmark = pytest.mark.step("server")

PACKAGE_SUMS = "/var/lib/dpkg/info"
"""What dpkg unpacked, by Debian's own checksums; a package's file may bear its architecture in its name."""

STRANGER = "02:00:5e:00:53:01"
QUESTION = (
    '{"$schema":{"version":"1.0"},"product":{"product":"pve"},"network_interfaces":'
    '[{"link":"eno1","mac":"%s"}]}'
)


@pytest.mark.parametrize("way", ["tftp", "http"])
def test_boot_files_are_whole(server_host: Host, lab: Lab, node: Node, way: str) -> None:
    """TFTP and HTTP hand out the boot files of the node's chain byte for byte as Debian built them."""
    where = f"tftp://{lab.server.address}" if way == "tftp" else firmware_url(lab)
    for file in CHAINS[node.firmware].files:
        fetched = server_host.check_output(f"curl -fsS --max-time 10 {where}/{file} | md5sum").split()[0]
        assert fetched == _built(server_host, file), file


def test_dhcp_names_the_boot_file(server_host: Host, lab: Lab, node: Node) -> None:
    """DHCP sends the node's firmware to the first file of its chain, by each way that firmware may ask."""
    lines = server_host.file(DNSMASQ_CONF).content_string.splitlines()
    for door in CHAINS[node.firmware].doors:
        assert boot_line(lab, node, door) in lines


@pytest.mark.parametrize("way", ["tftp", "http"])
def test_grub_is_sent_on(server_host: Host, lab: Lab, way: str) -> None:
    """GRUB, by TFTP or HTTP, finds a configuration that leads to the node's own."""
    config = server_host.check_output(f"curl -fsS --max-time 10 {way}://{lab.server.address}/grub/grub.cfg")
    assert f"configfile '(http,{lab.server.address})/grub/'\"$net_default_mac\"" in config


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


@pytest.mark.parametrize("loader", ["boot", "grub"])
def test_boot_script_of_node(server_host: Host, lab: Lab, node: Node, loader: str) -> None:
    """A node without leave to install is told, by name, to boot from its disk: iPXE as GRUB."""
    script = server_host.check_output(f"curl -fsS {service_url(lab)}/{loader}/{node.mac}")
    assert script.startswith("#!ipxe\n") or loader == "grub"
    assert f"{node.name} has no leave to install" in script
    assert not any(line.startswith(("kernel", "linux")) for line in script.splitlines())


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


def _built(host: Host, file: str) -> str:
    """The MD5 sum that the file's package has of it."""
    path, sums = SOURCES[file].lstrip("/"), f"{PACKAGE_SUMS}/{PACKAGES[file]}*.md5sums"
    return str(host.check_output(f"grep -hF '  {path}' {sums}").split()[0])


def _status(host: Host, what: str) -> str:
    return str(host.check_output(f"curl -sS -o /dev/null -w '%{{http_code}}' {what}"))
