"""Boot chains: what each firmware is handed, what is refused when the lab file is read, what the page says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trustme
import yaml

from provision import server_plan
from provision.certificate import Certificate
from provision.errors import InventoryError
from provision.inventory import Lab, boot_chains, load
from provision.inventory.boot_chains import ARCHITECTURES, CHAINS, PACKAGES, SOURCES, Firmware
from provision.server_facts import parse

ROOT = Path(__file__).parents[2]
FACTS = parse("== digests\n== units\n\n== root\n0\n")
CERTIFICATE = Certificate(trustme.CA().cert_pem.bytes().decode())


def lab_of(folder: Path, firmware: str | None, system: str = "ubuntu-24.04", *, default: bool = False) -> Lab:
    """The default lab, without what only Proxmox has; node1 or every node has this firmware."""
    text = yaml.safe_load((ROOT / "labs/virtual.yaml").read_text())
    for part in ("cluster", "ceph", "templates", "people"):
        del text[part]
    text["defaults"]["os"] = system
    if firmware is not None:
        (text["defaults"] if default else text["nodes"]["node1"])["firmware"] = firmware
    file = folder / "lab.yaml"
    file.write_text(yaml.safe_dump(text))
    return load(file, {})


def content(lab: Lab, path: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of the server, as it is rendered for this lab."""
    for name in ("BMC_USER", "BMC_PASSWORD"):
        monkeypatch.setenv(f"RACKPROOF_{name}", "canary")
    files = {file.path: file for part in server_plan.parts(lab, FACTS, CERTIFICATE) for file in part.files}
    return files[path].content.decode()


FILES = "http://10.10.1.1/firmware"
HANDED = {
    "uefi": ["is_uefi,tag:!is_ipxe,snponly.efi", f"is_http,tag:!is_ipxe,{FILES}/snponly.efi", "is_ipxe,"],
    "bios": ["is_bios,tag:!is_ipxe,undionly.kpxe", "is_ipxe,"],
    "secure-boot": ["is_uefi,tag:!is_ipxe,shimx64.efi", f"is_http,tag:!is_ipxe,{FILES}/shimx64.efi"],
}
HANDED["uefi-http"] = HANDED["uefi"]


@pytest.mark.parametrize("firmware", CHAINS)
def test_dhcp_hands_firmware_the_first_file_of_its_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, firmware: Firmware
) -> None:
    text = content(lab_of(tmp_path, firmware), server_plan.DNSMASQ_CONF, monkeypatch)
    lines = [line for line in text.splitlines() if line.startswith("dhcp-boot=tag:node1,")]
    assert len(lines) == len(HANDED[firmware])
    for line, wanted in zip(lines, HANDED[firmware], strict=True):
        assert line.startswith(f"dhcp-boot=tag:node1,tag:{wanted}")


def test_only_firmware_of_the_labs_own_nodes_is_told_that_an_offer_is_for_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = content(lab_of(tmp_path, "bios"), server_plan.DNSMASQ_CONF, monkeypatch)
    lines = [line for line in text.splitlines() if "vendor-class" in line]
    assert lines == [
        f"dhcp-option-force=tag:node{n},tag:is_http,tag:!is_ipxe,option:vendor-class,HTTPClient"
        for n in (2, 3, 4)
    ]


def test_every_door_is_told_from_its_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = content(lab_of(tmp_path, None), server_plan.DNSMASQ_CONF, monkeypatch)
    matches = {line for line in text.splitlines() if line.startswith("dhcp-match=")}
    assert matches == {
        f"dhcp-match=set:is_{name},option:client-arch,{number}"
        for name, number in (("bios", 0), ("uefi", 7), ("uefi", 9), ("http", 16))
    }
    assert {door for chain in CHAINS.values() for door in chain.doors} == set(ARCHITECTURES)


def test_the_tftp_folder_has_the_labs_boot_files_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(tmp_path, "secure-boot", default=True)
    text = content(lab, server_plan.BOOT_FILES_CONF, monkeypatch)
    links = {line.split()[1].rpartition("/")[2]: line.split()[0] for line in text.splitlines()[1:]}
    assert links == {
        "tftp": "d", "snponly.efi": "r", "undionly.kpxe": "r", "shimx64.efi": "L+", "grubx64.efi": "L+",
    }  # fmt: skip
    assert server_plan.boot_files(lab) == ("shimx64.efi", "grubx64.efi")


@pytest.mark.parametrize("there", [("snponly.efi",), ("snponly.efi", "shimx64.efi", "grubx64.efi", "grub")])
def test_a_boot_file_that_somebody_removed_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    monkeypatch.setenv("RACKPROOF_BMC_USER", "canary")
    monkeypatch.setenv("RACKPROOF_BMC_PASSWORD", "canary")
    facts = replace(FACTS, boot_files=there)
    part = server_plan.parts(lab_of(tmp_path, "secure-boot"), facts, CERTIFICATE)[-1]
    assert (part.name, part.in_force) == ("dnsmasq", "grubx64.efi" in there)


def test_every_boot_file_has_a_package_and_a_place_in_it() -> None:
    files = {file for chain in CHAINS.values() for file in chain.files}
    assert files == set(SOURCES) == set(PACKAGES)


def test_the_labs_own_packages_are_asked_for_beside_those_of_every_server(tmp_path: Path) -> None:
    files = server_plan.boot_files(lab_of(tmp_path, "secure-boot"))
    packages = {PACKAGES[file] for file in files}
    assert packages == {"ipxe", "shim-signed", "grub-efi-amd64-signed"}


def test_firmware_is_uefi_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    assert {node.firmware for node in lab_of(tmp_path, None).nodes.values()} == {"uefi"}


@pytest.mark.parametrize("default", [False, True])
def test_proxmox_under_secure_boot_is_refused_with_what_to_do(tmp_path: Path, *, default: bool) -> None:
    with pytest.raises(InventoryError) as caught:
        lab_of(tmp_path, "secure-boot", "proxmox-9", default=default)
    (mistake,) = caught.value.mistakes
    assert mistake.place == ("defaults.firmware" if default else "nodes.node1.firmware")
    assert '"secure-boot" is not for proxmox-9' in mistake.message
    assert "write firmware: uefi" in mistake.message
    assert mistake.line is not None


def test_unknown_firmware_is_one_mistake_that_names_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(InventoryError) as caught:
        lab_of(tmp_path, "efi")
    (mistake,) = caught.value.mistakes
    assert (mistake.place, "uefi-http" in mistake.message) == ("nodes.node1.firmware", True)


@pytest.mark.parametrize("firmware", CHAINS)
def test_a_chain_that_refuses_a_system_says_why(firmware: Firmware) -> None:
    refused = CHAINS[firmware].refused
    assert {system: boot_chains.why_not(firmware, system) for system in refused} == dict(refused)
    assert boot_chains.why_not(firmware, "ubuntu-24.04") is None
