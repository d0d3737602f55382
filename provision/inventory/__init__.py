"""What a lab is, read from a lab file or a classic nodes.json, with all of its mistakes at once."""

from provision.inventory.firewall import Firewall
from provision.inventory.first_boot import FirstBoot
from provision.inventory.models import (
    Bmc,
    Ceph,
    CephFs,
    Cluster,
    Deadlines,
    DhcpRange,
    Disk,
    Image,
    InstallImage,
    InstallMedia,
    Lab,
    Locale,
    Network,
    Node,
    OsdDisk,
    Osds,
    Person,
    Pool,
    Server,
    Template,
)
from provision.inventory.reading import default_lab_file, load
from provision.inventory.secret import Secret, SecretMissing
from provision.inventory.words import MANAGEMENT, SYSTEMS, did_you_mean, parse_mac

__all__ = [
    "MANAGEMENT",
    "SYSTEMS",
    "Bmc",
    "Ceph",
    "CephFs",
    "Cluster",
    "Deadlines",
    "DhcpRange",
    "Disk",
    "Firewall",
    "FirstBoot",
    "Image",
    "InstallImage",
    "InstallMedia",
    "Lab",
    "Locale",
    "Network",
    "Node",
    "OsdDisk",
    "Osds",
    "Person",
    "Pool",
    "Secret",
    "SecretMissing",
    "Server",
    "Template",
    "default_lab_file",
    "did_you_mean",
    "load",
    "parse_mac",
]
