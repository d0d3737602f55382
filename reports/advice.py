"""What known error texts mean: a table of patterns, each with a sample of what it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """A text that says one thing and means another; `sample` is one as a machine said it."""

    pattern: str
    advice: str
    sample: str


KNOWN = (
    Known(
        r"sendmsg: Message too long|message too long, mtu=",
        "the sending node's own MTU is smaller than the lab file asks: see bridge and port in network.txt",
        "ping: sendmsg: Message too long",
    ),
    Known(
        r"0 received, (\+\d+ errors, )?100% packet loss",
        "nothing comes back: a cable, a switch port or its MTU, or the other node's interface is down",
        "1 packets transmitted, 0 received, 100% packet loss, time 0ms",
    ),
    Known(
        r"Temporary failure in name resolution|Could not resolve host|Name or service not known",
        "names are not resolved: does dnsmasq run on the server, and does /etc/resolv.conf name it?",
        "curl: (6) Could not resolve host: download.proxmox.com",
    ),
    Known(
        r"can't lock file '/var/lock/pvecm\.lock' - got timeout|got lock request timeout",
        "two joins at the same time, or one that hangs: look for a running pvecm on the node",
        "can't lock file '/var/lock/pvecm.lock' - got timeout",
    ),
    Known(
        r"cannot use IP '[^']*', not found on local node",
        "the node's name or a link leads to an address that the node does not have: see /etc/hosts",
        "local node address: cannot use IP '127.0.1.1', not found on local node!",
    ),
    Known(
        r"this host already contains virtual guests",
        "a node with guests cannot join: move them away, or have the node reinstalled",
        "Check if node may join a cluster failed!\nthis host already contains virtual guests",
    ),
    Known(
        r"cluster not ready - no quorum|Activity blocked",
        "the cluster has no quorum: most of its nodes must see one another over a link; see cluster.txt",
        "cluster not ready - no quorum?",
    ),
    Known(
        r"user != root@pam",
        "this call wants root's own password log-in; an API token will not do",
        "403 Permission check failed (user != root@pam)",
    ),
    Known(
        r"no device with valid ISO found|Initramfs unpacking failed: write error",
        "less than 8 GiB of memory for the installer, or kernel, initrd and ISO of different builds",
        "[ERROR] no device with valid ISO found, please check your installation medium",
    ),
    Known(
        r"clock skew detected|MON_CLOCK_SKEW",
        "the monitors' clocks differ: does chrony on every node follow the provisioning server?",
        "HEALTH_WARN clock skew detected on mon.node3",
    ),
    Known(
        r"No space left on device|ENOSPC",
        "a disk is full: journal.txt shows which",
        "cp: error writing '/var/lib/vz/template': No space left on device",
    ),
    Known(
        r"Read-only file system",
        "a file system went read-only, which a failing disk does: look for its errors in journal.txt",
        "touch: cannot touch '/etc/test': Read-only file system",
    ),
    Known(
        r"certificate verify failed|fingerprint .* not the pinned one",
        "the certificate is not the one that is trusted: a renewed one, or another machine at this address",
        "SSLCertVerificationError: certificate verify failed: self-signed certificate",
    ),
    Known(
        r"No route to host|Network is unreachable",
        "the machine is off or its network is not up, seen from where the harness runs",
        "ssh root@10.10.1.23:22: [Errno 113] No route to host",
    ),
    Known(
        r"Connection refused",
        "the machine is up, but the service is not: has it booted far enough?",
        "ssh root@10.10.1.23:22: [Errno 111] Connection refused",
    ),
)


def advise(texts: Iterable[str]) -> str:
    """The advice for the first known text in these, "" when none is known."""
    said = "\n".join(texts)
    return next((known.advice for known in KNOWN if re.search(known.pattern, said)), "")
