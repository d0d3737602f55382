"""The map: the steps as fixtures, each named for the state it reaches (the options: provision/options.py).

    lab ─► server_configured ─► nodes_rebooted ─► nodes_installed ─► cluster_formed
        ─► ceph_healthy ─► templates_ready

A step acts only under `-m provision`, and only when its own test was selected; otherwise its
evidence is recalled from the ledger. Modules that only acting needs are imported where they are
used, so that collecting stays quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from provision.run import Run
from provision.session import SESSION

if TYPE_CHECKING:
    from provision.boot_service.client import BootService
    from provision.inventory import Lab
    from provision.journal import Evidence
    from provision.machines import Machines
    from provision.run import Done

pytest_plugins = ["provision.plugin", "checks.fixtures", "checks.drift_cases", "reports.plugin"]


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Iterator[Run]:
    """This session against its lab: acts or recalls, and keeps what happened."""
    with pytestconfig.stash[SESSION].run() as run:
        yield run


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config, run: Run) -> Iterator[Lab]:
    """The lab as its file describes it; a virtual one stands, and this process has entered its network.

    In the end, when every connection is closed, the machines that something is wrong with are looked into.
    """
    session = pytestconfig.stash[SESSION]
    if run.acting:
        # A second of imports for what is done later, while a rack or a server is at work.
        Thread(target=import_module, args=["provision.later"], daemon=True).start()
    yield (lab := session.reach_lab(run))
    if session.blamed and not session.interrupted:
        from provision import diagnose  # noqa: PLC0415

        diagnose.fetch(lab, run, session.blamed, session.folder)


@pytest.fixture(scope="session")
def chosen(run: Run, lab: Lab) -> Lab:
    """The lab with the nodes alone that this session rebuilds."""
    nodes = {name: node for name, node in lab.nodes.items() if run.only is None or name in run.only}
    return lab.model_copy(update={"nodes": nodes})


@pytest.fixture(scope="session")
def machines(pytestconfig: pytest.Config, lab: Lab, run: Run) -> Iterator[Machines]:
    """The lab's machines by SSH: one connection each, opened when first used.

    In the end the rack's facts are kept: a green run's are what later runs are compared with.
    """
    from provision.machines import Machines  # noqa: PLC0415

    with Machines(lab, run.ledger, again=bool(run.acting)) as machines:
        yield machines
        from checks import comparison  # noqa: PLC0415

        comparison.keep(pytestconfig.stash[SESSION], run, lab, machines)


@pytest.fixture(scope="session")
def server_configured(run: Run, lab: Lab, machines: Machines) -> Evidence:
    """Step `server`: DHCP, DNS, TFTP, HTTP, boot service, NAT."""
    from provision import server  # noqa: PLC0415

    return run.step("server", lambda: server.configure(lab, machines.server, run))


@pytest.fixture(scope="session")
def boot_service(
    pytestconfig: pytest.Config, run: Run, machines: Machines, server_configured: Evidence
) -> Iterator[BootService]:
    """The boot service on the server: its events come into this run's journal, the run onto its dashboard."""
    from provision.boot_service.client import BootService  # noqa: PLC0415
    from provision.server import OPERATOR_SOCKET  # noqa: PLC0415
    from provision.telling import telling  # noqa: PLC0415

    session = pytestconfig.stash[SESSION]
    with machines.server.forward_socket(OPERATOR_SOCKET) as socket:
        service = BootService(socket)
        # What this run itself tells the service is no news to it.
        following = service.follow(
            service.health().last, lambda event: run.take(event) if event.kind != "run" else None
        )
        try:
            with telling(service, run, outcome=lambda: session.outcome):
                yield service
        finally:
            # What is left to undo may need the service, and the service the server's connection.
            run.unwind()
            following.stop()


@pytest.fixture(scope="session")
def nodes_rebooted(run: Run, chosen: Lab, machines: Machines, boot_service: BootService) -> Evidence:
    """Step `power`: every node identified, permitted to install, and reset into network boot."""
    from provision import install, pace, power  # noqa: PLC0415

    permits = install.Permits(chosen, run, boot_service, machines.server)

    def reboot() -> Done:
        known = pace.known(chosen, run, machines.server)
        return power.reboot(chosen, run, permits.grant, signs=permits, pace=known)

    return run.step("power", reboot)


@pytest.fixture(scope="session")
def nodes_installed(run: Run, chosen: Lab, machines: Machines, nodes_rebooted: Evidence) -> Evidence:
    """Step `install`: every node went from its first DHCP packet to its registration."""
    from provision import install  # noqa: PLC0415

    return run.step("install", lambda: install.follow(chosen, run, machines))


@pytest.fixture(scope="session")
def cluster_formed(run: Run, lab: Lab, machines: Machines, nodes_installed: Evidence) -> Evidence:
    """Step `cluster`: one quorate cluster over all its links."""
    from provision import cluster  # noqa: PLC0415

    return run.step("cluster", lambda: cluster.form(lab.proxmox, machines.nodes, run))


@pytest.fixture(scope="session")
def ceph_healthy(run: Run, lab: Lab, machines: Machines, cluster_formed: Evidence) -> Evidence:
    """Step `ceph`: monitors, managers, OSDs, pools and storages, and Ceph's own word that all is well."""
    from provision import ceph  # noqa: PLC0415

    return run.step("ceph", lambda: ceph.build(lab.proxmox, machines.nodes, run))


@pytest.fixture(scope="session")
def templates_ready(
    pytestconfig: pytest.Config, run: Run, lab: Lab, machines: Machines, ceph_healthy: Evidence
) -> Evidence:
    """Step `templates`: VM templates, each tried by a clone."""
    from provision import templates  # noqa: PLC0415

    deed = pytestconfig.stash[SESSION].request.deed
    return run.step("templates", lambda: templates.make(lab.proxmox, machines.nodes, run, deed))
