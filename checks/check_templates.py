"""VM templates by Proxmox's own word: each as the lab file asks for it, ready to be cloned on every node."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from testinfra.host import Host

from provision.inventory import Lab, Template

if TYPE_CHECKING:
    from checks.template_facts import Standing
    from provision.pve import Session

pytestmark = [pytest.mark.step("templates"), pytest.mark.templates]


@pytest.fixture(scope="session")
def api(lab: Lab, api_of: Callable[[str], Session]) -> Session:
    """The API of the node that the templates were made on."""
    return api_of(lab.primary.name if lab.cluster else next(iter(lab.proxmox.nodes)))


@pytest.fixture(scope="session")
def found(lab: Lab, template: tuple[int, Template], api: Session) -> Standing:
    """What stands under the template's id; without it every check of it fails."""
    from checks import template_facts  # noqa: PLC0415 (collecting needs no API)

    standing = template_facts.standing(api, lab.proxmox.nodes, template[0])
    assert standing is not None, f"no node has a guest {template[0]}"
    return standing


def test_is_a_template(found: Standing, template: tuple[int, Template]) -> None:
    """It is a template, nothing else holds it, and it has its name."""
    _, asked = template
    assert (found.guest.template, found.guest.lock, found.guest.name) == (True, None, asked.name)


def test_is_on_its_storage(found: Standing, template: tuple[int, Template], api: Session) -> None:
    """Its system disk is on the storage asked for, as a base image, and is really there."""
    from checks import template_facts  # noqa: PLC0415

    vmid, asked = template
    disk = found.drive("scsi0")
    assert disk.get("storage") == asked.storage
    assert f"base-{vmid}-disk-" in disk["volume"]
    assert disk["volume"] in template_facts.volumes(api, found.node, asked.storage)


def test_is_tagged(found: Standing) -> None:
    """It carries rackproof's tag."""
    assert "rackproof" in found.guest.tagset


def test_image_is_the_one_asked_for(found: Standing, template: tuple[int, Template]) -> None:
    """Its notes record the checksum of the image that the lab file names."""
    assert found.image == template[1].image.sha256


def test_agent_is_on(found: Standing) -> None:
    """Proxmox asks the guest's agent."""
    assert found.agent_is_on


def test_boots_by_uefi(found: Standing, template: tuple[int, Template]) -> None:
    """It has UEFI firmware, and a disk for its variables on the same storage."""
    drive = found.drive("efidisk0")
    firmware = (found.config.get("bios"), drive.get("storage"), drive.get("efitype"))
    assert firmware == ("ovmf", template[1].storage, "4m")


def test_has_a_cloud_init_drive(found: Standing, template: tuple[int, Template]) -> None:
    """It has a cloud-init drive, on the same storage."""
    drive = found.drive("scsi1")
    assert (drive.get("storage"), drive.get("media")) == (template[1].storage, "cdrom")
    assert "cloudinit" in drive["volume"]


def test_boots_from_its_disk(found: Standing) -> None:
    """Its system disk is the only thing that it boots from."""
    assert found.config.get("boot") == "order=scsi0"


def test_is_on_its_bridge(found: Standing, template: tuple[int, Template]) -> None:
    """Its network card is on the bridge asked for, in no VLAN."""
    assert found.nic == {"model": "virtio", "bridge": template[1].bridge}


def test_size(found: Standing, template: tuple[int, Template]) -> None:
    """It has the memory, the cores and the disk asked for."""
    _, asked = template
    sizes = (found.config.get("memory"), found.config.get("cores"), found.disk_gib)
    assert sizes == (str(asked.memory), str(asked.cores), asked.disk or found.disk_gib)


def test_lets_its_user_in(found: Standing, template: tuple[int, Template], lab: Lab) -> None:
    """Cloud-init is told the user and the keys asked for, takes an address by DHCP, and upgrades nothing."""
    from checks import template_facts  # noqa: PLC0415

    _, asked = template
    assert (found.config.get("ciuser"), found.keys) == (asked.user, template_facts.keys_asked(lab, asked))
    assert (found.config.get("ipconfig0"), found.config.get("ciupgrade")) == ("ip=dhcp", "0")


def test_snippet_is_on_node(host: Host, found: Standing, template: tuple[int, Template]) -> None:
    """The node has the snippet that the template names, with what the lab file adds to cloud-init."""
    from checks import template_facts  # noqa: PLC0415

    path, text, volume = template_facts.snippet_of(*template)
    assert found.config.get("cicustom") == volume
    assert host.run("cat %s", path).stdout == text


def test_no_clone_is_left(lab: Lab, api: Session) -> None:
    """No guest is left that only tried a template."""
    from checks import template_facts  # noqa: PLC0415

    assert template_facts.clones_left(api, lab.proxmox.nodes) == []
