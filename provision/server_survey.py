"""What the server step would change on a server: found out by reading alone, before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provision import certificate, server_media, server_told
from provision.certificate import UNMADE, Certificate
from provision.errors import LabError
from provision.inventory import Lab
from provision.remote import Remote
from provision.server_bridge import Bridging, bridging
from provision.server_facts import Facts, gather
from provision.server_media import Delivery
from provision.server_plan import UNIT_NAMES, Part, boot_files, parts, paths, requirements_digest

PIP, EXPORTER = "python3-pip", "prometheus-node-exporter"


@dataclass(frozen=True, slots=True)
class Survey:
    """What a server holds, beside what its lab asks for.

    `certificate` is UNMADE when there is none that can be kept. `parts` are all of them, as they should be.
    `bridge` is the lab's, if it asks for one.
    """

    facts: Facts
    certificate: Certificate
    media: Mapping[str, Sequence[Delivery]]
    parts: tuple[Part, ...]
    bridge: Bridging | None = None

    @property
    def packages(self) -> tuple[str, ...]:
        """The Debian packages to be installed: pip and the exporter only where they have something to do."""
        at_work = {part.unit for part in self.parts} | ({PIP} if self.lacks_libraries else set())
        idle = {PIP, EXPORTER} - at_work
        return tuple(name for name in self.facts.missing if name not in idle)

    @property
    def lacks_libraries(self) -> bool:
        """Whether the boot service's Python packages are to be installed."""
        return self.facts.requirements != requirements_digest()

    @property
    def preparations(self) -> dict[str, bool]:
        """What comes before the parts, by name, and whether it changes anything."""
        media = {
            f"media {name}": not all(each.whole for each in due) for name, due in self.media.items()
        }  # fmt: skip
        bridge = {self.bridge.name: self.bridge.changes} if self.bridge else {}
        return {
            **bridge,
            "packages": bool(self.packages),
            "user rackproof": not self.facts.user,
            "Python packages": self.lacks_libraries,
            **media,
            "certificate": self.certificate is UNMADE,
        }

    @property
    def changing(self) -> list[Part]:
        """The parts that do not stand as they should."""
        return [part for part in self.parts if not part.stands(self.facts)]

    @property
    def changes(self) -> dict[str, bool]:
        """Everything above by name, and whether it is changed."""
        changing = self.changing
        return self.preparations | {part.name: part in changing for part in self.parts}


def survey(lab: Lab, server: Remote) -> Survey:
    """Read what the step judges by; raises LabError when the machine cannot be this lab's server."""
    facts = gather(server, paths(), UNIT_NAMES, boot_files(lab))
    bridge = bridging(lab, server) if facts.root else None
    _can_serve(lab, server, facts, bridge)
    shown = certificate.standing(lab, server) or UNMADE
    return Survey(facts, shown, server_media.due(lab, server), parts(lab, facts, shown), bridge)


def changes(lab: Lab, server: Remote, found: Survey) -> dict[str, bool | None]:
    """Everything that the step would do, by name, and whether it changes anything; None: not to be known."""
    return {**found.changes, **server_told.untold(lab, server, found.certificate)}


def _can_serve(lab: Lab, server: Remote, facts: Facts, bridge: Bridging | None) -> None:
    if not facts.root:
        raise LabError("the server step changes system services; it needs root there", node=server.name)
    if not bridge and str(lab.server.address) not in facts.addresses:
        message = f"it does not have the lab's server address {lab.server.address}"
        raise LabError(message, node=server.name, last_seen=f"its addresses are {', '.join(facts.addresses)}")
    _stays_reachable(lab, server, facts)
    links = (*facts.links, bridge.wanted.name) if bridge else facts.links
    missing = [link for link in (lab.server.lan, lab.server.wan) if link and link not in links]
    if missing:
        message = f"it has no network interface {' or '.join(missing)}, which the lab file names"
        raise LabError(message, node=server.name, last_seen=f"its interfaces are {', '.join(facts.links)}")


def _stays_reachable(lab: Lab, server: Remote, facts: Facts) -> None:
    """The firewall would cut off whoever puts it there by the interface that it guards."""
    firewall, came = lab.server.firewall, facts.came
    if firewall and came and came[0] == lab.server.wan and not firewall.lets_in(came[1]):
        message = f"this session comes in by {came[0]}, and server.firewall does not let in tcp/{came[1]}"
        raise LabError(message, node=server.name, likely=f"add tcp/{came[1]} to server.firewall.allow")
