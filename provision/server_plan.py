"""What a provisioning server should hold for a lab: parts, each a service with its files, tests and start."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.boot_service.hands_config import hands_config
from provision.certificate import CERTIFICATE, KEY, Certificate
from provision.inventory import Lab, Node, boot_chains
from provision.inventory.images import COMBINED
from provision.render import render, word
from provision.server_facts import STATE, TFTP_ROOT, Facts, Unit

STAGED = f"{STATE}/new"
OPTIONS_FILE = "/etc/rackproof/dhcp-options"
HTTP_ROOT = "/srv/rackproof/http"
SOURCE = "/opt/rackproof/src"
PACKAGES = "/opt/rackproof/lib"
OPERATOR_SOCKET = "/run/rackproof/operator.sock"
NODES_SOCKET = "/run/rackproof/nodes.sock"
PEOPLE_SOCKET = "/run/rackproof/people.sock"
NGINX_SOCKET = "/run/rackproof/nginx.sock"
HANDS_SOCKET = "/run/rackproof-hands/hands.sock"
PUBLISHED = "/run/rackproof/published"
LEASES = "/var/lib/misc/dnsmasq.leases"
LEDGER = "/var/lib/rackproof-boot/ledger.sqlite"
LEASE = "1h"

BOOT_SERVICE_OPTIONS = (
    ("--ledger", LEDGER),
    ("--operator-socket", OPERATOR_SOCKET),
    ("--nodes-socket", NODES_SOCKET),
    ("--people-socket", PEOPLE_SOCKET),
    ("--nginx-socket", NGINX_SOCKET),
    ("--hands-socket", HANDS_SOCKET),
    ("--published", PUBLISHED),
    ("--leases", LEASES),
)
"""How the unit starts the boot service, beside --dhcp-journal."""

DNSMASQ_CONF = "/etc/dnsmasq.d/rackproof.conf"
DNSMASQ_UNIT = "/etc/systemd/system/dnsmasq.service.d/rackproof.conf"
BOOT_FILES_CONF = "/etc/tmpfiles.d/rackproof-boot-files.conf"
GRUB_CONF = f"{TFTP_ROOT}/grub/grub.cfg"
"""Where the signed GRUB of Debian and Ubuntu looks for its configuration, by TFTP as by HTTP."""
NGINX_CONF = "/etc/nginx/conf.d/rackproof.conf"
NFT_FILE = "/etc/rackproof/nftables.nft"
SYSCTL_FILE = "/etc/sysctl.d/60-rackproof.conf"
CHRONY_CONF = "/etc/chrony/conf.d/rackproof.conf"
HANDS_CONFIG = "/etc/rackproof/hands.json"
UNITS = "/etc/systemd/system"
EXPORTER_UNIT = f"{UNITS}/prometheus-node-exporter.service.d/rackproof.conf"
EXPORTER_PORT = 9100
PROGRAMS = ("provision.boot_service.__main__", "provision.boot_service.hands")
"""The modules that units start, and which the server gets with all that they import."""

PROVISION = Path(__file__).parent
PAGES = PROVISION / "boot_service" / "pages"
REQUIREMENTS = PROVISION / "boot_service" / "requirements.txt"


@dataclass(frozen=True, slots=True)
class File:
    """A file as it should be; what is in a `secret` one is shown to nobody."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root:root"
    secret: bool = False

    @property
    def sha256(self) -> str:
        """The content's digest."""
        return hashlib.sha256(self.content).hexdigest()

    def stands(self, facts: Facts) -> bool:
        """Whether the server has exactly this."""
        found = facts.files.get(self.path)
        return found is not None and (found.sha256, found.mode, found.owner) == (
            self.sha256, format(self.mode, "o"), self.owner,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A systemd unit with its files; `test` is the command that judges the staged ones.

    `prepare` is done before the unit starts, `undo` when the old files are put back.
    """

    name: str
    unit: str
    files: tuple[File, ...]
    test: str
    prepare: str = "true"
    undo: str = "true"
    in_force: bool = True

    @property
    def digest(self) -> str:
        """One digest of all its files."""
        lines = [f"{file.path} {file.sha256} {file.mode:o} {file.owner}" for file in self.files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def stands(self, facts: Facts) -> bool:
        """Whether the files are there, the unit runs, and it was started with these files.

        The last is what `applied` keeps: a run that was killed between replacing and starting leaves the
        new files under a service that still has the old ones.
        """
        return (
            self.in_force
            and facts.units.get(self.unit, Unit()).good
            and facts.applied.get(self.unit) == self.digest
            and all(file.stands(facts) for file in self.files)
        )


@dataclass(frozen=True, slots=True)
class Medium:
    """How the files of an installer are called below /media/SYSTEM/."""

    vmlinuz: str = "vmlinuz"
    initrd: str = "initrd.img"
    iso: str = "proxmox.iso"
    combined: str = COMBINED


def medium(system: str) -> Medium:
    """The file names of an operating system's installer; Proxmox's looks for its ISO by this very name."""
    return Medium() if system.startswith("proxmox") else Medium(iso="ubuntu.iso")


def parts(lab: Lab, facts: Facts, certificate: Certificate) -> tuple[Part, ...]:
    """All parts; their units do not need one another to start."""
    return (
        _nat(lab, facts), _clock(lab), *([_exporter(lab)] if lab.server.node_exporter else []),
        _boot_service(lab), _hands(lab, certificate), _nginx(lab, certificate), _dnsmasq(lab, facts),
    )  # fmt: skip


def paths() -> tuple[str, ...]:
    """Every file that any lab's parts have."""
    units = [f"{UNITS}/{unit}.service" for unit in UNIT_NAMES if unit.startswith("rackproof-")]
    files = [DNSMASQ_CONF, DNSMASQ_UNIT, OPTIONS_FILE, NGINX_CONF, NFT_FILE, SYSCTL_FILE, CHRONY_CONF]
    files += [HANDS_CONFIG, EXPORTER_UNIT, BOOT_FILES_CONF, GRUB_CONF]
    return (*files, *units, *source_files())


UNIT_NAMES = (
    "rackproof-nftables", "chrony", "prometheus-node-exporter", "rackproof-boot-service", "rackproof-hands",
    "nginx", "dnsmasq",
)  # fmt: skip


def service_url(lab: Lab) -> str:
    """Where firmware finds boot scripts and media, which speaks no TLS; without a slash at the end."""
    return f"http://{lab.server.address}"


def secure_url(lab: Lab) -> str:
    """Where all else reaches the boot service, which shows the pinned certificate there."""
    return f"https://{lab.server.address}"


def firmware_url(lab: Lab) -> str:
    """Where firmware that boots by HTTP finds the boot files; without a slash at the end."""
    return f"{service_url(lab)}/firmware"


def boot_files(lab: Lab) -> tuple[str, ...]:
    """The boot files that the lab's nodes are handed."""
    return boot_chains.files_of(node.firmware for node in lab.nodes.values())


def boot_line(lab: Lab, node: Node, door: str) -> str:
    """dnsmasq's line that hands the node's firmware its boot file, when it comes by this door."""
    address, file = word(lab.server.address), word(boot_chains.CHAINS[node.firmware].first)
    where = f"{word(firmware_url(lab))}/{file}" if door == "is_http" else file
    return f"dhcp-boot=tag:{word(node.name)},tag:{word(door)},tag:!is_ipxe,{where},,{address}"


def options(lab: Lab, tokens: Mapping[str, str], fingerprint: str = "") -> File:
    """The DHCP options of the nodes with a permit: where its answer is, and the server certificate's SHA-256.

    Readable by dnsmasq alone, for it holds their tokens.
    """
    answers = {lab.nodes[name].name: f"{secure_url(lab)}/answer/{token}" for name, token in tokens.items()}
    return _rendered(OPTIONS_FILE, "dhcp-options.j2", mode=0o400, owner="dnsmasq:root", secret=True,
                     answers=answers, fingerprint=fingerprint)  # fmt: skip


def requirements_digest() -> str:
    """SHA-256 of the list of the boot service's Python packages."""
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


@functools.cache
def source_files() -> Mapping[str, Path]:
    """What the server runs of this project: server path to file, found by following imports.

    The pages' templates and static files are no imports; they are taken as they lie.
    """
    found = {f"{SOURCE}/{file.relative_to(PROVISION.parent)}": file for file in _page_files()}
    todo = list(PROGRAMS)
    while todo:
        file = _module_file(todo.pop())
        path = f"{SOURCE}/{file.relative_to(PROVISION.parent)}"
        if path not in found:
            found[path] = file
            todo += _imports(file)
    return dict(sorted(found.items()))


def _page_files() -> Iterator[Path]:
    return (file for file in PAGES.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc"))


def _dnsmasq(lab: Lab, facts: Facts) -> Part:
    network, address = lab.management, lab.server.address
    config = _rendered(
        DNSMASQ_CONF, "dnsmasq.conf.j2", lab=lab, network=network, address=address, url=service_url(lab),
        chains=[(node, boot_chains.CHAINS[node.firmware]) for node in lab.nodes.values()],
        architectures=boot_chains.ARCHITECTURES, boot_line=functools.partial(boot_line, lab),
        hosts=list(_reservations(lab)), records=list(_records(lab)),
        router=network.gateway or (address if lab.server.wan else None), dns=network.dns or (address,),
        resolvers=facts.resolvers, options_file=OPTIONS_FILE, tftp_root=TFTP_ROOT, lease=LEASE,
        leases=LEASES,
    )  # fmt: skip
    links = _rendered(BOOT_FILES_CONF, "boot-files.conf.j2", lab=lab, tftp_root=TFTP_ROOT,
                      sources=boot_chains.SOURCES, wanted=boot_files(lab))  # fmt: skip
    unit = _rendered(DNSMASQ_UNIT, "dnsmasq-unit.conf.j2")
    grub = _rendered(GRUB_CONF, "chain.grub.j2", address=address)
    return Part(
        name="dnsmasq",
        unit="dnsmasq",
        files=(config, unit, options(lab, {}), links, grub),
        test=f"dnsmasq --test -C {STAGED}{DNSMASQ_CONF}",
        prepare=f"systemd-tmpfiles --remove --create {BOOT_FILES_CONF}",
        in_force=set(boot_files(lab)) <= set(facts.boot_files),
    )


def _nginx(lab: Lab, certificate: Certificate) -> Part:
    config = _rendered(
        NGINX_CONF, "nginx.conf.j2", lab=lab, address=lab.server.address, http_root=HTTP_ROOT,
        tftp_root=TFTP_ROOT,
        nodes_socket=NODES_SOCKET, people_socket=PEOPLE_SOCKET, nginx_socket=NGINX_SOCKET,
        published=PUBLISHED, key=KEY, certificate=CERTIFICATE, fingerprint=certificate.fingerprint,
    )  # fmt: skip
    alone = f"{STAGED}/nginx.conf"
    whole = f"error_log stderr; pid {STAGED}/nginx.pid; events {{}} http {{ include {STAGED}{NGINX_CONF}; }}"
    return Part(
        name="nginx",
        unit="nginx",
        files=(config,),
        test=f"echo '{whole}' >{alone} && nginx -t -q -c {alone}",
    )


def _nat(lab: Lab, facts: Facts) -> Part:
    wan, unit = lab.server.wan, "rackproof-nftables"
    networks = [network.cidr for network in lab.networks.values()]
    values: dict[str, Any] = {"lab": lab, "wan": wan, "networks": networks, "address": lab.server.address,
                              "firewall": lab.server.firewall}  # fmt: skip
    files = (
        _rendered(NFT_FILE, "nftables.nft.j2", **values),
        _rendered(SYSCTL_FILE, "sysctl.conf.j2", **values),
        _rendered(f"{UNITS}/{unit}.service", f"{unit}.service.j2", lab=lab, nft_file=NFT_FILE),
    )
    return Part(
        name="NAT",
        unit=unit,
        files=files,
        test=f"nft -c -f {STAGED}{NFT_FILE}",
        prepare=f"sysctl -q -p {SYSCTL_FILE}",
        undo="true" if facts.forwarding else "sysctl -q -w net.ipv4.ip_forward=0",
        in_force=wan is None or (facts.nat and facts.forwarding),
    )


def _clock(lab: Lab) -> Part:
    networks = [network.cidr for network in lab.networks.values()]
    config = _rendered(CHRONY_CONF, "chrony.conf.j2", lab=lab, networks=networks)
    return Part(
        name="clock",
        unit="chrony",
        files=(config,),
        test=f"chronyd -p -f {STAGED}{CHRONY_CONF}",
    )


def _exporter(lab: Lab) -> Part:
    unit = _rendered(
        EXPORTER_UNIT, "node-exporter-unit.conf.j2", address=lab.server.address, port=EXPORTER_PORT
    )
    return Part(
        name="node exporter",
        unit="prometheus-node-exporter",
        files=(unit,),
        test="prometheus-node-exporter --version",
    )


def _boot_service(lab: Lab) -> Part:
    unit = "rackproof-boot-service"
    service = _rendered(
        f"{UNITS}/{unit}.service", f"{unit}.service.j2", lab=lab, options=BOOT_SERVICE_OPTIONS,
        source=SOURCE, packages=PACKAGES, requirements=requirements_digest(),
    )  # fmt: skip
    source = [File(path, file.read_bytes()) for path, file in source_files().items()]
    trial = f"PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={STAGED}{SOURCE}:{PACKAGES}"
    return Part(
        name="boot service",
        unit=unit,
        files=(service, *source),
        test=f"{trial} python3 -m provision.boot_service --help",
    )


def _hands(lab: Lab, certificate: Certificate) -> Part:
    unit = "rackproof-hands"
    # Nobody may use them who is no operator: without one they are told no password.
    held = lab if lab.has_operator else lab.model_copy(update={"nodes": {}})
    told = hands_config(held, url=secure_url(lab), fingerprint=certificate.fingerprint)
    config = File(HANDS_CONFIG, told.model_dump_json(indent=1).encode(), mode=0o400, secret=True)
    service = _rendered(
        f"{UNITS}/{unit}.service", f"{unit}.service.j2", lab=lab, hands_config=HANDS_CONFIG,
        hands_config_sha256=config.sha256, hands_socket=HANDS_SOCKET, options_file=OPTIONS_FILE,
        options_folder=str(Path(OPTIONS_FILE).parent), source=SOURCE, packages=PACKAGES,
        requirements=requirements_digest(), source_sha256=_source_digest(),
        consoles=[node.bmc.address for node in held.nodes.values()],
    )  # fmt: skip
    # What it runs is staged with the boot service, when that changes.
    trial = f"PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={STAGED}{SOURCE}:{SOURCE}:{PACKAGES}"
    return Part(
        name="hands",
        unit=unit,
        files=(service, config),
        test=f"{trial} python3 -m provision.boot_service.hands --help",
    )


def _source_digest() -> str:
    """SHA-256 of all that the server runs of this project: its units start anew when that changes."""
    digest = hashlib.sha256()
    for path, file in source_files().items():
        digest.update(f"{path}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _rendered(
    path: str, template: str, *, mode: int = 0o644, owner: str = "root:root", secret: bool = False,
    **values: Any,
) -> File:  # fmt: skip
    return File(path, render(template, **values).encode(), mode, owner, secret)


def _reservations(lab: Lab) -> Iterator[dict[str, object]]:
    for node in lab.nodes.values():
        yield {"name": node.name, "mac": node.mac, "address": node.management}
        if node.bmc.mac:
            yield {"name": node.bmc.name, "mac": node.bmc.mac, "address": node.bmc.address}


def _records(lab: Lab) -> Iterator[dict[str, object]]:
    """Every name of the lab: a node's other addresses go by NODE-NETWORK."""
    yield _record(lab, lab.server.name, lab.server.address)
    for node in lab.nodes.values():
        yield _record(lab, node.name, node.management)
        yield _record(lab, node.bmc.name, node.bmc.address)
        others = [name for name in node.addresses if name != lab.management.name]
        yield from (_record(lab, f"{node.name}-{name}", node.addresses[name]) for name in others)


def _record(lab: Lab, name: str, address: object) -> dict[str, object]:
    return {"names": [f"{name}.{lab.domain}", name], "address": address}


def _module_file(module: str) -> Path:
    path = PROVISION.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(file: Path) -> Iterator[str]:
    """The project's modules that a file imports, with the packages they lie in."""
    nodes = list(ast.walk(ast.parse(file.read_bytes())))
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a package may be one of its modules.
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            named += [node.module, *(module for module in inner if _module_file(module).exists())]
    for module in named:
        if module.partition(".")[0] == PROVISION.name:
            words = module.split(".")
            yield from (".".join(words[:length]) for length in range(1, len(words) + 1))
