"""The rules that a lab obeys as a whole, checked on whatever part of its file can be understood."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import combinations, islice
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError

from provision.errors import Mistake
from provision.inventory import boot_chains, inline, ubuntu
from provision.inventory.document import Document, Place
from provision.inventory.install_rules import install_rules
from provision.inventory.light import light_rules
from provision.inventory.models import SELECTORS, DhcpRange, Network, Node
from provision.inventory.words import MANAGEMENT, did_you_mean, parse_mac

COMPRESSED = frozenset({".bz2", ".gz", ".lz4", ".tar", ".xz", ".zip", ".zst"})
FALSE = frozenset({"0", "f", "false", "n", "no", "off"})
"""What the models read as false."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that only one machine of a lab can have: who claims it, and where in the file."""

    value: Any
    owner: str
    what: str
    place: Place


def mistakes(given: Mapping[str, Any], found: Document) -> list[Mistake]:
    """Every broken rule that spans parts of the lab; `given` is the file's data, short forms expanded."""
    networks = _networks(given.get("networks"))
    nodes = dict(_mappings(given.get("nodes")))
    addresses = list(_addresses(given, nodes))
    told = [
        *_needed(given, nodes),
        *_network_rules(given, networks),
        *_server_rules(given, networks),
        *_twice(_macs(nodes)),
        *_twice([claim for claim in addresses if not _is_gateway(claim, networks)]),
        *_twice(_names(given, nodes)),
        *_twice(_serials(nodes)),
        *_outside(addresses, networks),
        *_node_rules(nodes, networks, _part(given, "networks")),
        *_system_rules(given, nodes),
        *install_rules(nodes, _part(_part(given, "ceph"), "osds")),
        *_chain_rules(nodes),
        *light_rules(given, nodes),
        *_cluster_rules(given, nodes),
        *_ceph_rules(given, nodes),
        *_first_boot_rules(given, nodes),
        *_template_rules(given),
        *(_told(place, message) for place, message in inline.private_keys(given)),
        *_installer_rules(found.data),
    ]
    return [_placed(found, *mistake) for mistake in told]


Told = tuple[Place, str, Place | None]
"""Where, what, and the other place that it is about."""


def _placed(found: Document, place: Place, message: str, other: Place | None) -> Mistake:
    line = found.line(other) if other else None
    return found.mistake(place, f"{message} (line {line})" if line else message)


def _told(place: Place, message: str, other: Place | None = None) -> Told:
    return place, message, other


# What of the file can be understood


def _part(body: object, key: str) -> dict[str, Any]:
    part = body.get(key) if isinstance(body, Mapping) else None
    return part if isinstance(part, dict) else {}


def _mappings(part: object) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, Mapping):
        yield from ((name, body) for name, body in part.items() if isinstance(body, dict))


def _listed(given: object) -> list[object]:
    """The items of a list, or the only word in its place."""
    return given if isinstance(given, list) else [given] if isinstance(given, str) else []


def _networks(part: object) -> dict[str, Network]:
    """The networks that have at least a CIDR, without those of their keys that are wrong."""
    found = {name: _sound_network(name, body) for name, body in _mappings(part)}
    return {name: network for name, network in found.items() if network is not None}


def _sound_network(name: str, body: Mapping[str, Any]) -> Network | None:
    known = {key: value for key, value in body.items() if key in Network.model_fields}
    try:
        return Network.model_validate({"bridge": "vmbr0", **known})
    except ValidationError as error:
        wrong = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
    needed = {"name", "cidr"}
    return (
        None if wrong & needed else _sound_network(name, {k: v for k, v in known.items() if k not in wrong})
    )


def _address(text: object) -> IPv4Address | None:
    try:
        return IPv4Address(text.strip()) if isinstance(text, str) else None
    except ValueError:
        return None


def _addresses(given: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Claim]:
    """Every address of a machine; `what` is the network that it must be in."""
    if server := _address(_part(given, "server").get("address")):
        yield Claim(server, "the server", MANAGEMENT, ("server", "address"))
    for name, body in nodes.items():
        for network, text in _part(body, "addresses").items():
            if address := _address(text):
                yield Claim(address, name, network, ("nodes", name, "addresses", network))
        if address := _address(_part(body, "bmc").get("address")):
            yield Claim(address, f"the BMC of {name}", MANAGEMENT, ("nodes", name, "bmc", "address"))


def _macs(nodes: Mapping[str, Any]) -> Iterator[Claim]:
    for name, body in nodes.items():
        bmc = _part(body, "bmc").get("mac")
        storage = ((text, name, ("nodes", name, "macs", key)) for key, text in _part(body, "macs").items())
        for text, owner, place in (
            (body.get("mac"), name, ("nodes", name, "mac")),
            *storage,
            *_pinned_macs(name, body),
            (bmc, f"the BMC of {name}", ("nodes", name, "bmc", "mac")),
        ):
            try:
                yield Claim(parse_mac(text or ""), owner, "MAC", place)
            except (ValueError, AttributeError):
                continue


def _pinned_macs(name: str, body: Mapping[str, Any]) -> list[tuple[Any, str, Place]]:
    """Those of NICs whose MAC stands nowhere else in the node; that the others agree is a rule of its own."""
    told = {str(text).lower() for text in (body.get("mac"), *_part(body, "macs").values())}
    pinned = dict.fromkeys(map(str, _part(body, "interface_names").values()))
    at = ("nodes", name, "interface_names")
    return [(text, name, at) for text in pinned if text.replace("-", ":").lower() not in told]


def _names(given: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Claim]:
    server = str(_part(given, "server").get("name", "server")).lower()
    yield Claim(server, "the server", "name", ("server", "name"))
    for name, body in nodes.items():
        yield Claim(name.lower(), name, "name", ("nodes", name))
        bmc = str(_part(body, "bmc").get("name", f"console-{name}")).lower()
        yield Claim(bmc, f"the BMC of {name}", "name", ("nodes", name, "bmc", "name"))


def _serials(nodes: Mapping[str, Any]) -> Iterator[Claim]:
    """What tells one board or one system disk from all others; a glob may well fit several."""
    for name, body in nodes.items():
        if isinstance(serial := body.get("serial"), str):
            yield Claim(("board", serial), name, "serial", ("nodes", name, "serial"))
        for key in ("serial", "wwn"):
            text = _part(body, "disk").get(key)
            if isinstance(text, str) and not set(text) & set("*?["):
                yield Claim((key, text), name, f"disk's {key}", ("nodes", name, "disk", key))
        for serial in dict.fromkeys(map(str, _listed(_part(body, "disk").get("serials")))):
            yield Claim(("serial", serial), name, "disk's serial", ("nodes", name, "disk", "serials"))


# The rules


def _needed(given: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Told]:
    if isinstance(given.get("nodes"), dict) and not given["nodes"]:
        yield _told(("nodes",), "has no node")
    if isinstance(given.get("networks"), dict) and MANAGEMENT not in given["networks"]:
        yield _told(("networks",), f'has no network named "{MANAGEMENT}", the one that nodes boot from')
    for name, body in nodes.items():
        if not any(body.get("disk", {}).get(key) for key in SELECTORS if isinstance(body.get("disk"), dict)):
            yield _told(("nodes", name, "disk"), "does not say which disk: give serial, wwn or model")


def _twice(claims: Iterable[Claim]) -> Iterator[Told]:
    first: dict[Any, Claim] = {}
    for claim in claims:
        earlier = first.setdefault(claim.value, claim)
        if earlier is not claim:
            what = "address" if isinstance(claim.value, IPv4Address) else claim.what
            value = claim.value[1] if isinstance(claim.value, tuple) else claim.value
            yield _told(claim.place, f'"{value}" is also the {what} of {earlier.owner}', earlier.place)


def _is_gateway(claim: Claim, networks: Mapping[str, Network]) -> bool:
    return claim.owner == "the server" and claim.value in {network.gateway for network in networks.values()}


def _network_rules(given: Mapping[str, Any], networks: Mapping[str, Network]) -> Iterator[Told]:
    for name, network in networks.items():
        yield from _own_rules(name, network)
    management = _part(_part(given, "networks"), MANAGEMENT)
    if management and management.get("gateway") is None:
        # The Proxmox installer takes no answer without one.
        yield _told(("networks", MANAGEMENT, "gateway"), "is missing: it is the nodes' default route")
    for one, two in combinations(networks.values(), 2):
        if one.cidr.overlaps(two.cidr):
            where, other = ("networks", two.name, "cidr"), ("networks", one.name, "cidr")
            yield _told(where, f'"{two.cidr}" overlaps {one.name}, {one.cidr}', other)
        if one.bridge == two.bridge and "bridge" in _part(given, "networks").get(two.name, {}):
            where, other = ("networks", two.name, "bridge"), ("networks", one.name, "bridge")
            yield _told(where, f'"{two.bridge}" is also the bridge of {one.name}', other)


def _own_rules(name: str, network: Network) -> Iterator[Told]:
    at = ("networks", name)
    if name in Node.model_fields:
        yield _told(at, f'"{name}" is a key of every node, so it cannot name a network')
    if network.gateway is not None:
        if name != MANAGEMENT:
            message = f"only {MANAGEMENT} has a gateway: a node has one default route"
            yield _told((*at, "gateway"), message)
        yield from _placed_in(network.gateway, network, (*at, "gateway"))
    if network.dhcp is not None:
        if name != MANAGEMENT:
            yield _told((*at, "dhcp"), f"only {MANAGEMENT} has DHCP: it is the network that nodes boot from")
        yield from _dhcp_rules(network.dhcp, network, (*at, "dhcp"))


def _dhcp_rules(dhcp: DhcpRange, network: Network, at: Place) -> Iterator[Told]:
    for end in (dhcp.start, dhcp.end):
        yield from _placed_in(end, network, at)
    if network.gateway is not None and network.gateway in dhcp:
        yield _told(at, f"the gateway {network.gateway} is inside the range {dhcp}")


def _template_rules(given: Mapping[str, Any]) -> Iterator[Told]:
    bridges = {str(body["bridge"]) for _, body in _mappings(given.get("networks")) if body.get("bridge")}
    first: dict[str, str] = {}
    for vmid, body in _mappings(given.get("templates")):
        at, bridge, name = ("templates", vmid), str(body.get("bridge", "vmbr0")), str(body.get("name"))
        if bridges and bridge not in bridges:
            hint = did_you_mean(bridge, bridges)
            yield _told((*at, "bridge"), f'"{bridge}" is not a bridge of this lab{hint}')
        if first.setdefault(name, vmid) != vmid:
            yield _told((*at, "name"), f'"{name}" is also the name of {first[name]}')
        yield from _template_storage(at, body, given)
        yield from _image_rules(at, _part(body, "image"))
        if isinstance(text := body.get("cloud_init"), str) and (wrong := _cloud_init_mistake(text)):
            yield _told((*at, "cloud_init"), wrong)


def _template_storage(at: Place, body: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Told]:
    """A pool of Ceph must be one that becomes a storage; what other storages there are only Proxmox knows."""
    storage, pools = body.get("storage", "rbd"), _part(_part(given, "ceph"), "pools")
    if "storage" not in body and storage not in pools:
        yield _told(
            (*at, "storage"), 'is "rbd" unless it is given, and this lab has no Ceph pool of that name'
        )
    elif str(_part(pools, str(storage)).get("storage", "true")).lower() in FALSE:
        other = ("ceph", "pools", str(storage), "storage")
        yield _told((*at, "storage"), f'"{storage}" is a pool that is no storage', other)


def _image_rules(at: Place, image: Mapping[str, Any]) -> Iterator[Told]:
    for place, url in _addresses_of((*at, "image"), image):
        if PurePosixPath(urlsplit(str(url)).path).suffix.lower() in COMPRESSED:
            yield _told(
                place, f'"{url}" is packed; Proxmox imports a disk image as it is: qcow2, raw or vmdk'
            )


def _installer_rules(written: Mapping[str, Any]) -> Iterator[Told]:
    media = _part(written, "media")
    for system, image in _mappings(written.get("images")):
        at = ("images", system)
        if system in media:
            yield _told(at, f'"{system}" has its files under media already: keep one', ("media", system))
        if image.get("grub") and not system.startswith("proxmox"):
            yield _told((*at, "grub"), f"is for Proxmox alone: {system} fetches its ISO by itself")


def _addresses_of(at: Place, image: Mapping[str, Any]) -> Iterator[tuple[Place, object]]:
    yield (*at, "url"), image.get("url")
    yield from (((*at, "mirrors", str(i)), url) for i, url in enumerate(_listed(image.get("mirrors"))))


def _cloud_init_mistake(text: str) -> str | None:
    """What is wrong with further cloud-config, which is merged with what rackproof writes itself."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1} of it" if mark else ""
        return f"is no YAML: {getattr(error, 'problem', None) or error}{where}"
    if not isinstance(data, dict):
        return "must be a YAML mapping of cloud-config keys, such as packages: [tmux]"
    if not isinstance(data.get("runcmd", []), list):
        return "has a runcmd that is no list"
    return inline.plain_password(data)


def _placed_in(address: IPv4Address, network: Network, place: Place) -> Iterator[Told]:
    other = ("networks", network.name, "cidr")
    if address not in network.cidr:
        yield _told(place, f'"{address}" is outside {network.name}, {network.cidr}', other)
    elif address == network.cidr.network_address:
        yield _told(place, f'"{address}" is the address of the network {network.name} itself')
    elif address == network.cidr.broadcast_address:
        yield _told(place, f'"{address}" is the broadcast address of {network.name}')


def _outside(addresses: Iterable[Claim], networks: Mapping[str, Network]) -> Iterator[Told]:
    for claim in addresses:
        network = networks.get(claim.what)
        if network is None:
            continue
        yield from _placed_in(claim.value, network, claim.place)
        if network.dhcp is not None and claim.value in network.dhcp:
            other = ("networks", network.name, "dhcp")
            yield _told(claim.place, f'"{claim.value}" is inside the DHCP range {network.dhcp}', other)
        if claim.value == network.gateway and claim.owner != "the server":
            other = ("networks", network.name, "gateway")
            yield _told(claim.place, f'"{claim.value}" is the gateway of {network.name}', other)


def _server_rules(given: Mapping[str, Any], networks: Mapping[str, Network]) -> Iterator[Told]:
    server = _part(given, "server")
    if server.get("lan") and server.get("lan") == server.get("wan"):
        yield _told(("server", "wan"), f'"{server["wan"]}" is the lan interface too', ("server", "lan"))
    if server.get("firewall") is not None and not server.get("wan"):
        yield _told(("server", "firewall"), "has no interface to guard: give wan, the one to the outside")
    bridge, wan = _part(server, "bridge"), server.get("wan")
    if wan and wan in (bridge.get("name"), *_listed(bridge.get("ports"))):
        yield _told(("server", "bridge"), f'has "{wan}", the interface to the outside', ("server", "wan"))
    management = networks.get(MANAGEMENT)
    probe = _address(server.get("wan_probe"))
    if probe and management and probe in management.cidr:
        yield _told(("server", "wan_probe"), f'"{probe}" is in {MANAGEMENT}, so reaching it proves no NAT')


def _node_rules(
    nodes: Mapping[str, Any], networks: Mapping[str, Network], written: Mapping[str, Any]
) -> Iterator[Told]:
    for name, body in nodes.items():
        addresses = _part(body, "addresses")
        if written.get(MANAGEMENT) is not None and MANAGEMENT not in addresses:
            yield _told(("nodes", name), f"has no address in {MANAGEMENT}; give {MANAGEMENT}: ADDRESS")
        for part in ("addresses", "nics", "macs"):
            yield from _known_networks(("nodes", name, part), _part(body, part), written)
        yield from _nic_rules(name, body, written)


def _known_networks(at: Place, keys: Iterable[str], networks: Mapping[str, Any]) -> Iterator[Told]:
    for key in keys:
        if networks and key not in networks:
            yield _told((*at, key), f'"{key}" is not a network of this lab{did_you_mean(key, networks)}')


def _nic_rules(name: str, body: Mapping[str, Any], networks: Mapping[str, Any]) -> Iterator[Told]:
    nics, at = _part(body, "nics"), ("nodes", name)
    for network in _part(body, "addresses"):
        if network in networks and network not in nics:
            yield _told((*at, "addresses", network), f"has no NIC; give nic: in networks.{network}")
    first: dict[str, str] = {}
    for network, nic in nics.items():
        if isinstance(nic, str) and first.setdefault(nic, network) != network:
            yield _told((*at, "nics", network), f'"{nic}" is also the NIC of {first[nic]}')
    if MANAGEMENT in _part(body, "macs"):
        yield _told((*at, "macs", MANAGEMENT), f"the MAC in {MANAGEMENT} stands under mac")


def _system_rules(given: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Told]:
    """What a node can only do with Proxmox, and what only Proxmox's installer can do."""
    for part in ("cluster", "ceph", "templates"):
        if nodes and given.get(part) and not _of_proxmox(nodes):
            yield _told((part,), "needs nodes with proxmox-9, and this lab has none")
    for name, body in nodes.items():
        disk, at = _part(body, "disk"), ("nodes", name)
        for key in () if _is_ubuntu(body) else ubuntu.KEYS:
            if key in body:
                yield _told((*at, key), f"is for Ubuntu; {name} has {body.get('os')}", (*at, "os"))
        if _is_ubuntu(body) and disk.get("filesystem", "ext4") != "ext4":
            wrong = f'"{disk["filesystem"]}" is not for {body["os"]}: only ext4'
            yield _told((*at, "disk", "filesystem"), wrong)


def _is_ubuntu(body: Mapping[str, Any]) -> bool:
    return str(body.get("os", "")).startswith("ubuntu")


def _of_proxmox(nodes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body for name, body in nodes.items() if not _is_ubuntu(body)}


def _chain_rules(nodes: Mapping[str, Any]) -> Iterator[Told]:
    for name, body in nodes.items():
        firmware, system = str(body.get("firmware")), str(body.get("os"))
        if why := boot_chains.why_not(firmware, system):
            other = ("nodes", name, "os")
            yield _told(("nodes", name, "firmware"), f'"{firmware}" is not for {system}, which {why}', other)


def _cluster_rules(given: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Told]:
    cluster = _part(given, "cluster")
    primary, links, migration = (cluster.get(key) for key in ("primary", "links", "migration"))
    yield from _known_node(("cluster", "primary"), primary, nodes)
    named = _listed(links)
    places: list[tuple[Place, object]] = [
        (("cluster", "links", str(index)), name) for index, name in enumerate(named)
    ]
    places += [(("cluster", "migration"), migration)]
    for place, name in places:
        yield from _network_of_all(place, name, given, nodes)


def _network_of_all(
    place: Place, name: object, given: Mapping[str, Any], nodes: Mapping[str, Any]
) -> Iterator[Told]:
    """The name must be that of a network in which every node of Proxmox has an address."""
    networks = _part(given, "networks")
    if not isinstance(name, str) or not networks:
        return
    if name not in networks:
        yield _told(place, f'"{name}" is not a network of this lab{did_you_mean(name, networks)}')
        return
    without = [node for node, body in _of_proxmox(nodes).items() if name not in _part(body, "addresses")]
    for node in without:
        yield _told(("nodes", node), f"has no address in {name}, which {'.'.join(place[:2])} needs", place)


def _ceph_rules(given: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Told]:
    ceph = _part(given, "ceph")
    if not ceph:
        return
    if (members := len(_of_proxmox(nodes))) < 3:
        yield _told(("ceph",), f"needs at least three nodes; this lab has {members}")
    if not given.get("cluster"):
        yield _told(("ceph",), "needs a cluster, and this lab has none")
    for key, default in (("public", "storage"), ("cluster", None)):
        yield from _network_of_all(("ceph", key), ceph.get(key, default), given, nodes)
    yield from _daemon_rules(ceph, nodes)
    yield from _osd_rules(_part(ceph, "osds"), nodes)


def _first_boot_rules(given: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Told]:
    """A cluster has one firewall and one backup job, and the firewall must not lock this machine out."""
    asked = {name: _part(body, "first_boot") for name, body in nodes.items()}
    for key in ("firewall", "backup") if given.get("cluster") else ():
        first = next(iter(asked), "")
        others = (name for name, wishes in asked.items() if wishes.get(key) != asked[first].get(key))
        for name in islice(others, 1):
            message = f"is the whole cluster's, and {first} and {name} ask for different ones"
            yield _told(("nodes", name, "first_boot", key), message)
    if str(_part(given, "server").get("host")).startswith("ssh:"):
        closed = (name for name, wishes in asked.items() if "firewall" in wishes and not _allowed(wishes))
        for name in islice(closed, 1):
            message = "may lock out this machine, which reaches the lab by SSH; name its network under allow"
            yield _told(("nodes", name, "first_boot", "firewall"), message)


def _allowed(wishes: Mapping[str, Any]) -> object:
    return _part(wishes, "firewall").get("allow")


def _daemon_rules(ceph: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Told]:
    lists: list[tuple[Place, object]] = [
        (("ceph", "monitors"), ceph.get("monitors")),
        (("ceph", "managers"), ceph.get("managers")),
    ]
    lists += [(("ceph", "cephfs", "mds"), _part(ceph, "cephfs").get("mds"))]
    for place, names in lists:
        for index, name in enumerate(_listed(names)):
            yield from _known_node((*place, str(index)), name, nodes)
    monitors = _listed(ceph.get("monitors"))
    if monitors and (len(monitors) < 3 or len(monitors) % 2 == 0):
        yield _told(("ceph", "monitors"), f"must be an odd number, three or more; there are {len(monitors)}")


def _osd_rules(osds: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[Told]:
    for part in ("disks", "db", "wal"):
        for name in _part(osds, part):
            if name != "all":
                yield from _known_node(("ceph", "osds", part, name), name, nodes)


def _known_node(place: Place, name: object, nodes: Mapping[str, Any]) -> Iterator[Told]:
    if isinstance(name, str) and nodes and name not in nodes:
        yield _told(place, f'"{name}" is not a node of this lab{did_you_mean(name, nodes)}')
    elif isinstance(name, str) and _is_ubuntu(nodes.get(name, {})):
        wrong = f'"{name}" has {nodes[name]["os"]}, and {place[0]} is of nodes with proxmox-9'
        yield _told(place, wrong, ("nodes", name, "os"))
