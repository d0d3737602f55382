"""A whole rack: raised, found standing, and entered."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from provision.errors import LabError
from provision.inventory.models import Lab
from provision.wait import NotYet, Patience
from virtual_lab import (
    control,
    down,
    guest_image,
    host,
    images,
    internet,
    kernel,
    keys,
    light,
    media,
    mirror,
    network,
    recipes,
    telling_kernel,
    ubuntu_media,
)
from virtual_lab.holding import held
from virtual_lab.places import MARKER, SERVER, Places
from virtual_lab.plan import MachinePlan, RackPlan, differences, plan
from virtual_lab.played_lab import credentials, known, played

Say = Callable[[str], None]

READY = Patience(60, first=0.02, most=0.2)
"""How long a supervisor, a board, a BMC or the server may take to answer."""

_ROOT = Path(__file__).parent.parent
_PASSED_ON = ("PATH", "LANG", "TZ")
_CLOUD, _MIRROR = "cloud", "mirror"


@dataclass(frozen=True, slots=True)
class Rack:
    """A standing rack; `lab` is the lab file's lab with what only the rack knows filled in."""

    places: Places
    plan: RackPlan
    lab: Lab

    def join(self) -> None:
        """Put this thread, and those it starts, into the lab's network, which no packet leaves."""
        kernel.enter(self.places.namespace(network.LAB), kernel.CLONE_NEWNET)


def raise_rack(lab: Lab, *, instance: str | None = None, say: Say = print) -> Rack:
    """Raise the rack that plays `lab`, or see that it stands; what died in it is started again.

    A rack that was built from another lab file, or from other images, is taken down and built anew.
    Raises LabError when this machine cannot hold it or a part does not come up.
    """
    places, wanted = Places.of(lab.name, instance), plan(lab)
    host.check(real_firmware=wanted.has_real_firmware)
    with held(places, say):
        stack = _layers(places, lab, say)
        if _is_outdated(places, wanted, stack, say):
            down.take_down(places)
        if not places.plan.exists():
            _build(places, wanted, stack)
        _make_keys(places, wanted, lab)
        if not lab.is_light:
            _offer_images(places, stack, lab)
        started = _start(places, wanted, say)
        say(f"the rack {places.instance} stands: {_spoken(wanted)}" + ("" if started else ", as it did"))
    return _rack(places, wanted, lab)


def standing(lab: Lab, instance: str | None = None) -> Rack:
    """The standing rack that plays `lab`; raises LabError when none stands, or it plays another lab file."""
    places, wanted = Places.of(lab.name, instance), plan(lab)
    if not places.plan.exists() or not network.standing(places, wanted):
        raise LabError(f"the virtual rack {places.instance} is not up; run python -m virtual_lab up")
    changed = list(differences(RackPlan.load(places.plan), wanted))
    if changed:
        advice = "the lab file was changed; python -m virtual_lab up builds the rack anew"
        what = "; ".join(changed)
        raise LabError(f"the virtual rack {places.instance} plays another lab file: {what}", likely=advice)
    control.ask(places.supervisor, {"do": "state"})
    return _rack(places, wanted, lab)


def _layers(places: Places, lab: Lab, say: Say) -> dict[str, tuple[Path, ...]]:
    """The image layers, topmost first, of nodes and server; the mirror, what templates are made of."""

    def ready(recipe: recipes.Recipe) -> Path:
        return images.ready(recipe, places.images, say, marker=places.mark)

    def node() -> tuple[Path, ...]:
        image = ready(recipes.node())
        return images.pve_layer(image), image

    def server() -> tuple[Path, Path]:
        image = ready(recipes.server())
        return image, mirror.ready(image, say, marker=places.mark)

    if lab.is_light:
        return {"server": (ready(recipes.server()),)}
    with ThreadPoolExecutor(2) as pool:
        nodes, servers = pool.submit(node), pool.submit(server)
        others = [] if all(node.is_proxmox for node in lab.nodes.values()) else [recipes.ubuntu()]
        ubuntus = [pool.submit(ready, recipe) for recipe in others]
        image, packages = servers.result()
        stack = {"node": nodes.result(), "server": (image,), _MIRROR: (packages,)}
        if ubuntus:
            stack["ubuntu"] = (ubuntus[0].result(),)
    if plan(lab).has_real_firmware:
        stack[images.TELLING] = (telling_kernel.ready(places.images, say).folder,)
    if lab.templates:
        stack[_CLOUD] = (guest_image.ready(places.images, say, marker=places.mark),)
    return stack


def _is_outdated(places: Places, wanted: RackPlan, stack: Mapping[str, tuple[Path, ...]], say: Say) -> bool:
    """Whether there is something that has to go before this rack can be raised; says why."""
    if not places.plan.exists():
        return places.rack.exists()
    changed = list(differences(RackPlan.load(places.plan), wanted))
    if images.recorded(places.rack, places.images) not in ({}, stack):
        changed.append("other images")
    if changed:
        what = "; ".join(changed)
        say(f"the rack {places.instance} is built anew, for its lab file or images changed: {what}")
    elif not network.standing(places, wanted):
        say(f"the rack {places.instance} is built anew: its network is incomplete")
        return True
    return bool(changed)


def _start(places: Places, wanted: RackPlan, say: Say) -> bool:
    """Start whatever is missing; returns whether anything was."""
    started = _start_supervisor(places, say)
    for what in control.ask(places.supervisor, {"do": "start-missing"})["started"]:
        say(f"started {what}, which was down")
        started = True
    if not wanted.is_light:
        started = _start_boards(places, wanted) or started
    kernel.within(places.namespace(network.LAB), lambda: _wait_for_network(places, wanted))
    return started


def _start_boards(places: Places, wanted: RackPlan) -> bool:
    """Wait for the boards, and switch the server on; returns whether it was off."""
    for machine in wanted.machines:
        READY.until("board answers", partial(_board_up, places.board(machine.name)), node=machine.name)
    off = bool(control.ask(places.board(SERVER), {"do": "state"})["power"] == "Off")
    if off:
        control.ask(places.board(SERVER), {"do": "power", "action": "On"})
    return off


def _build(places: Places, wanted: RackPlan, stack: Mapping[str, tuple[Path, ...]]) -> None:
    with_systemd = sum(machine.light is None for machine in wanted.machines)
    host.need_watchers(with_systemd + (_CLOUD in stack))  # one guest at a time runs, as a rule
    for machine in wanted.machines:
        places.machine(machine.name).mkdir(parents=True, exist_ok=True)
    places.rack.chmod(0o700)
    images.record(places.rack, stack)
    wanted.save(places.plan)
    network.build(places, wanted)


def _offer_images(places: Places, stack: Mapping[str, tuple[Path, ...]], lab: Lab) -> None:
    urls = [template.image.url for template in lab.templates.values()]
    image = stack[_CLOUD][0] / guest_image.IMAGE if urls else None
    internet.offer(places.rack, stack[_MIRROR][0], urls, image)


def _make_keys(places: Places, wanted: RackPlan, lab: Lab) -> None:
    keys.ssh_key(places.ssh_key, f"rackproof-{places.instance}")
    if lab.is_light:
        for machine in wanted.machines:
            keys.ssh_key(places.machine(machine.name) / light.HOST_KEY, machine.name)
        return
    keys.ssh_key(places.rack / "server_host_key", SERVER)
    authority = keys.Authority(places.ca, f"rackproof {places.instance} consoles")
    own = credentials(places)
    for node in wanted.nodes:
        assert node.console is not None
        folder = places.machine(node.name)
        names = (node.console.name, f"{node.console.name}.{lab.domain}")
        authority.sign(folder / "bmc.crt", folder / "bmc.key", names=names, address=node.console.address)
        bmc = lab.nodes[node.name].bmc
        user, password = known(bmc.user, own.bmc_user), known(bmc.password, own.bmc_password)
        keys.users_file(folder / "bmc.users", user.reveal(), password.reveal())


def _start_supervisor(places: Places, say: Say) -> bool:
    if _answers(places.supervisor):
        return False
    command = [sys.executable, "-m", "virtual_lab.supervisor", str(places.home), places.instance]
    if host.has_systemd():
        scope = ["systemd-run", "--quiet", "--scope", "--collect", "--property=Delegate=yes"]
        command = [*scope, f"--unit=rackproof-{places.instance}", *command]
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env |= {MARKER: places.mark, "PYTHONPATH": str(_ROOT)}
    log = places.rack / "supervisor.log"
    with log.open("a") as output:
        subprocess.run(["setsid", "--fork", *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                       env=env, cwd="/", check=True)  # fmt: skip
    READY.until("the rack's supervisor answers", lambda: _answers(places.supervisor) or NotYet(_tail(log)))
    return True


def _wait_for_network(places: Places, wanted: RackPlan) -> None:
    for machine in wanted.machines:
        if machine.light or machine.name == SERVER:
            READY.until("it accepts SSH", partial(_ssh_banner, machine, places), node=machine.name)
    for node in wanted.nodes:
        READY.until("BMC answers", partial(_bmc_listens, node, places), node=node.name)


def _ssh_banner(machine: MachinePlan, places: Places) -> bool | NotYet:
    try:
        with socket.create_connection((machine.address, 22), timeout=2) as peer:
            return peer.recv(64).startswith(b"SSH-2.0-") or NotYet("no SSH server on port 22")
    except OSError as error:
        return NotYet(f"{error}; its console ends with: {_tail(places.console(machine.name))}")


def _bmc_listens(node: MachinePlan, places: Places) -> bool | NotYet:
    assert node.console is not None
    try:
        socket.create_connection((node.console.address, 443), timeout=2).close()
    except OSError as error:
        return NotYet(f"{error}; the BMCs' log ends with: {_tail(places.rack / 'bmcs.log')}")
    return True


def _board_up(board: Path) -> bool | NotYet:
    return _answers(board) or NotYet("no answer")


def _answers(path: Path) -> bool:
    try:
        control.ask(path, {"do": "state"})
    except LabError:
        return False
    return True


def _tail(log: Path, lines: int = 3) -> str:
    if not log.exists():
        return "nothing"
    return " | ".join(log.read_text(errors="replace").split("\n")[-lines - 1 :]).strip(" |") or "nothing"


def _spoken(wanted: RackPlan) -> str:
    if wanted.is_light:
        return f"{len(wanted.machines)} light nodes"
    return f"{len(wanted.nodes)} nodes, the server at {wanted.server.address}"


def _rack(places: Places, wanted: RackPlan, lab: Lab) -> Rack:
    if lab.is_light:
        return Rack(places, wanted, played(lab, places, {}))
    stack = images.recorded(places.rack, places.images)
    cloud, telling = stack.get(_CLOUD), stack.get(images.TELLING)
    checksum = guest_image.checksum(cloud[0]) if cloud else None
    kernel = telling_kernel.Telling(telling[0]).kernel if telling else None
    systems = {node.os for node in lab.nodes.values()}
    files = {system: _media_of(system, places.images, kernel) for system in systems}
    return Rack(places, wanted, played(lab, places, files, checksum))


def _media_of(system: str, images_folder: Path, kernel: media.Kernel | None) -> media.Media:
    prepare = media.prepare if system.startswith("proxmox") else ubuntu_media.prepare
    return prepare(images_folder, kernel)
