"""What checks read from tools' output, on recorded shapes of it."""

from __future__ import annotations

from checks.probe import NO_BROADCAST, PeerLink, parse_netplan, parse_peers, parse_stanzas

INTERFACES = """\
# written by rackproof
auto lo
iface lo inet loopback

auto eno3
iface eno3 inet manual
\tmtu 9000

auto vmbr1 vmbr2
iface vmbr1 inet static
\taddress 10.10.2.21/24
\tbroadcast 10.10.2.255
\tbridge-ports eno3
\tmtu 9000

source /etc/network/interfaces.d/*
"""

# corosync 3.1: reachable peers alone, a link that is down among them.
PEERS = """\
Local node ID 1, transport knet
nodeid: 2 reachable   onwire (min/max/cur): 0, 1, 1
   LINK: 0 udp (10.10.1.21->10.10.1.22) enabled connected mtu: 1397
   LINK: 1 udp (10.10.2.21->10.10.2.22) enabled mtu: 8893

nodeid: 3 reachable   onwire (min/max/cur): 0, 1, 1
   LINK: 0 udp (10.10.1.21->10.10.1.23) enabled connected mtu: 1397
   LINK: 1 udp (10.10.2.21->10.10.2.23) enabled connected mtu: 8893
"""


# `netplan get` (netplan 1.1) of what cloud-init has written.
NETPLAN = """\
network:
  version: 2
  ethernets:
    eno3:
      match:
        macaddress: "52:54:00:a1:02:24"
      dhcp4: false
      set-name: "eno3"
      mtu: 9000
  bridges:
    vmbr0:
      addresses:
      - "10.10.1.24/24"
      interfaces:
      - eno1
      routes:
      - to: "default"
        via: "10.10.1.1"
    vmbr1:
      addresses:
      - "10.10.2.24/24"
      mtu: 9000
      interfaces:
      - eno3
      routes:
      - to: "192.0.2.0/24"
        via: "10.10.2.1"
"""


def test_netplan_in_the_words_of_interfaces() -> None:
    assert parse_netplan(NETPLAN) == {
        "eno3": {"auto": "yes", "mtu": "9000"},
        "vmbr0": {"auto": "yes", "bridge-ports": "eno1", "address": "10.10.1.24/24",
                  "broadcast": "10.10.1.255", "gateway": "10.10.1.1"},
        "vmbr1": {"auto": "yes", "bridge-ports": "eno3", "address": "10.10.2.24/24",
                  "broadcast": "10.10.2.255", "mtu": "9000"},
    }  # fmt: skip


def test_a_broadcast_address_that_networkd_is_told_not_to_set() -> None:
    assert "broadcast" not in parse_netplan(f"{NETPLAN}{NO_BROADCAST}\n")["vmbr0"]


def test_stanzas() -> None:
    stanzas = parse_stanzas(INTERFACES)
    assert stanzas["vmbr1"] == {
        "auto": "yes", "method": "static", "address": "10.10.2.21/24", "broadcast": "10.10.2.255",
        "bridge-ports": "eno3", "mtu": "9000",
    }  # fmt: skip
    assert stanzas["eno3"]["mtu"] == "9000"
    assert stanzas["vmbr2"] == {"auto": "yes"}


def test_peers_and_their_links() -> None:
    peers = parse_peers(PEERS)
    assert peers[2] == [
        PeerLink(0, "10.10.1.21", "10.10.1.22", connected=True),
        PeerLink(1, "10.10.2.21", "10.10.2.22", connected=False),
    ]
    assert set(peers) == {2, 3}
