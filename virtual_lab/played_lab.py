"""The lab as the rack plays it: what the lab file leaves open, or only metal has, filled in by the rack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from provision.inventory.models import (
    Bmc,
    Deadlines,
    Image,
    InstallMedia,
    Lab,
    Node,
    Person,
    Server,
    Template,
)
from provision.inventory.secret import Secret, SecretMissing
from virtual_lab import internet, keys, light, media
from virtual_lab.places import Places
from virtual_lab.plan import INTERNET

# Seconds that a played machine needs at most, on a slow machine; metal needs minutes.
_DEADLINES = Deadlines(
    server=180, power=30, dhcp=30, boot_script=20, answer=30, installed=90, first_boot=60, registered=60,
    cluster=120, join=90, ceph=300, templates=300,
)  # fmt: skip
_EMULATED = {"dhcp": 240.0, "boot_script": 120.0, "answer": 180.0}
"""Of nodes with real firmware, which runs on a processor that may be emulated, whatever the lab file says."""


def played(lab: Lab, places: Places, files: Mapping[str, media.Media], image: str | None = None) -> Lab:
    """`lab` with the rack's own server, credentials, keys and media, and with deadlines in seconds.

    `files` are the media by operating system, `image` is the SHA-256 of the cloud image that the rack hands
    out in place of every template's own.
    """
    own = credentials(places)
    public = places.ssh_key.with_suffix(".pub").read_text().strip()
    nodes = {name: _node(node, places, own, public) for name, node in lab.nodes.items()}
    server = _light_server(lab.server, places) if lab.is_light else _server(lab.server, places, own)
    templates = {vmid: _template(each, image) for vmid, each in lab.templates.items()}
    people = {name: _person(person, own) for name, person in lab.people.items()}
    given = {
        name: InstallMedia(vmlinuz=each.vmlinuz, initrd=each.initrd, iso=each.iso)
        for name, each in files.items()
    }
    # A lab that was written for a rack may have media of its own; those of metal are not played.
    own_media = {name: each for name, each in lab.media.items() if lab.virtual and name not in lab.images}
    return lab.model_copy(
        update={
            "virtual": True, "server": server, "nodes": nodes,
            "people": people, "templates": templates,
            "media": given | own_media, "images": {}, "deadlines": _deadlines(lab),
        }
    )  # fmt: skip


def credentials(places: Places) -> keys.MadeUp:
    """The secrets that the rack makes up, used wherever the lab file's references lead to nothing."""
    return keys.made_up(places.made_up_secrets)


def known(secret: Secret, otherwise: str) -> Secret:
    """The secret itself if its value can be had, else one with the value `otherwise`."""
    try:
        secret.reveal()
    except SecretMissing:
        return Secret.known(otherwise, reference=secret.reference)
    return secret


def _server(server: Server, places: Places, own: keys.MadeUp) -> Server:
    tokens = {name: known(token, own.iso_token) for name, token in server.iso_tokens.items()}
    host_key = (places.rack / "server_host_key.pub").read_text().strip()
    return server.model_copy(
        update={
            "host": f"ssh:root@{server.address}", "host_key": host_key, "identity": places.ssh_key,
            "lan": "lan0", "wan": "wan0", "wan_probe": INTERNET.ip, "iso_tokens": tokens,
        }
    )  # fmt: skip


def _light_server(server: Server, places: Places) -> Server:
    """There is none; only the key is, by which the nodes let in."""
    return server.model_copy(update={"identity": places.ssh_key})


def _node(node: Node, places: Places, own: keys.MadeUp, public: str) -> Node:
    return node.model_copy(
        update={
            "bmc": _bmc(node.bmc, places.ca, own),
            "root_password": known(node.root_password, own.root_password),
            "ssh_keys": (*node.ssh_keys, *(() if public in node.ssh_keys else (public,))),
            "host_key": _host_key(node, places),
        }
    )


def _host_key(node: Node, places: Places) -> str | None:
    own = (places.machine(node.name) / light.HOST_KEY).with_suffix(".pub")
    return own.read_text().strip() if node.kind == "light" else node.host_key


def _person(person: Person, own: keys.MadeUp) -> Person:
    made_up = own.viewer_password if person.role == "viewer" else own.operator_password
    return person.model_copy(update={person.proof: known(person.secret, made_up)})


def _template(template: Template, checksum: str | None) -> Template:
    if checksum is None:
        return template
    image = Image(url=internet.address_of(template.image.url), sha256=checksum)
    return template.model_copy(update={"image": image})


def _bmc(bmc: Bmc, ca: Path, own: keys.MadeUp) -> Bmc:
    return bmc.model_copy(
        update={
            "user": known(bmc.user, own.bmc_user), "password": known(bmc.password, own.bmc_password),
            "trust": "ca", "ca": ca, "fingerprint": None,
        }
    )  # fmt: skip


def _deadlines(lab: Lab) -> Deadlines:
    fields = Deadlines.model_fields
    shorter = {name: min(getattr(lab.deadlines, name), getattr(_DEADLINES, name)) for name in fields}
    slow = any(node.real_firmware for node in lab.nodes.values())
    return Deadlines(**{**shorter, **(_EMULATED if slow else {})})
