"""testinfra's modules, where its own are wrong (10.2.2): sockets, whether a unit exists, links, checksums.

A lab's machines run Debian or Ubuntu with systemd, iproute2 and procps, and are asked as root: so which way
testinfra has to go, and where the tools are, is not asked first.
"""

from __future__ import annotations

from typing import Any, Self

from testinfra.host import Host
from testinfra.modules.base import Module
from testinfra.modules.file import GNUFile
from testinfra.modules.interface import LinuxInterface
from testinfra.modules.service import SystemdService
from testinfra.modules.socket import LinuxSocketSS
from testinfra.modules.sysctl import Sysctl as OwnSysctl

EVERYWHERE = {False: "0.0.0.0", True: "::"}  # noqa: S104 (as ss writes it)
"""The address of all, in IPv4 and in IPv6."""

OPTIONS = {"tcp": "-t", "udp": "-u", "unix": "-x"}
FAMILIES = {"inet": "-4", "inet6": "-6"}


class File(GNUFile):  # type: ignore[misc] # testinfra is not typed
    """A file; the checksum of one that is not there is an error, and not empty."""

    @classmethod
    def get_module_class(cls, host: Host) -> type[Self]:
        """This one."""
        return cls

    @property
    def md5sum(self) -> str:
        """The MD5 sum of its content."""
        return self._sum("md5sum")

    @property
    def sha256sum(self) -> str:
        """The SHA-256 sum of its content."""
        return self._sum("sha256sum")

    def _sum(self, tool: str) -> str:
        # By its input: given a name, the tools write a backslash first where they had to escape that.
        return str(self.check_output(f"{tool} <%s", self.path).split()[0])


class Interface(LinuxInterface):  # type: ignore[misc]
    """A network interface; its link is the dict that testinfra's manual says it is."""

    @classmethod
    def get_module_class(cls, host: Host) -> type[Self]:
        """This one."""
        return cls

    @property
    def _ip(self) -> str:
        return f"ip {FAMILIES[self.family]}" if self.family else "ip"

    @property
    def link(self) -> dict[str, Any]:
        """What `ip -j link` says of it: `mtu`, `flags`, `operstate`, `address`, …"""
        found: list[dict[str, Any]] = super().link
        return found[0]


class Service(SystemdService):  # type: ignore[misc]
    """A unit of systemd; it exists by its whole name."""

    @classmethod
    def get_module_class(cls, host: Host) -> type[Self]:
        """This one."""
        return cls

    @property
    def exists(self) -> bool:
        """Whether systemd finds the unit, be it masked or broken (systemctl(1): LoadState)."""
        return bool(self.systemd_properties["LoadState"] != "not-found")


class Socket(LinuxSocketSS):  # type: ignore[misc]
    """A socket; one that listens on all addresses listens on each."""

    _command = "ss"

    @classmethod
    def get_module_class(cls, host: Host) -> type[Self]:
        """This one."""
        return cls

    @property
    def is_listening(self) -> bool:
        """Whether who comes to that address finds somebody; without one, to all of IPv4 and of IPv6."""
        output = self.check_output(f"ss -Hln {OPTIONS[self.protocol]}")
        lines = [line.split() for line in output.splitlines()]
        if self.protocol == "unix":
            return any(line[1] == "LISTEN" and line[4] == self.host for line in lines)
        at = {addresses_of(host) for host, _, port in (line[3].rpartition(":") for line in lines)
              if port == str(self.port)}  # fmt: skip
        found = frozenset[str]().union(*at)
        if self.host is None:
            return found >= set(EVERYWHERE.values())
        return not found.isdisjoint({self.host, EVERYWHERE[":" in self.host]})


class Sysctl(OwnSysctl):  # type: ignore[misc]
    """Kernel parameters."""

    _sysctl_command = "sysctl"


def addresses_of(written: str) -> frozenset[str]:
    """The addresses that ss means: "[::1]", "127.0.0.53%lo", or "*" for IPv4 and IPv6 together."""
    address = written.partition("%")[0].strip("[]")
    return frozenset(EVERYWHERE.values()) if address == "*" else frozenset({address})


MENDED: dict[str, type[Module]] = {
    "file": File,
    "interface": Interface,
    "service": Service,
    "socket": Socket,
    "sysctl": Sysctl,
}


class LabHost(Host):  # type: ignore[misc]
    """A machine of a lab, as testinfra's Host with its modules mended."""

    def __getattr__(self, name: str) -> Any:
        if name not in MENDED:
            return super().__getattr__(name)
        module = MENDED[name].get_module(self)
        setattr(self, name, module)
        return module
