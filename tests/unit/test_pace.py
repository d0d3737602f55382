"""How fast nodes may be reset: from the lab file, the media's sizes and the link; and which words are refused."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import pace, planning
from provision.errors import InventoryError
from provision.inventory import Lab, load
from provision.inventory.models import InstallMedia
from provision.pace import PAYLOAD
from provision.remote import LocalRemote, Remote, Result
from provision.server_plan import medium

PATH = Path(__file__).parents[2] / "labs" / "virtual.yaml"
VIRTUAL, LAB = PATH.read_text(), load(PATH, {})
PROXMOX = {"vmlinuz": 14_000_000, "initrd.img": 86_000_000, "proxmox.iso": 1_800_000_000}
"""As large as those of Proxmox VE 9."""
UBUNTU = {"vmlinuz": 15_000_000, "initrd.img": 85_000_000, "ubuntu.iso": 2_900_000_000}


def read(folder: Path, *, server: str = "", power: str = "") -> Lab:
    """The default lab with these keys more."""
    text = VIRTUAL.replace("  lan: lan0\n", f"  lan: lan0\n  {server}\n")
    (folder / "lab.yaml").write_text(f"{text}\n{power}\n".replace("  answer: 60s", "  answer: 4m"))
    return load(folder / "lab.yaml", {})


def of(lab: Lab, count: int) -> Lab:
    """The lab with that many nodes."""
    nodes = {f"node{n}": lab.nodes["node1"].model_copy(update={"name": f"node{n}"}) for n in range(count)}
    return lab.model_copy(update={"nodes": nodes})


def test_a_lab_that_asks_for_nothing_holds_nobody_back_without_a_link(tmp_path: Path) -> None:
    assert not pace.pace(of(read(tmp_path), 400), {"proxmox-9": PROXMOX}, None).holds


def test_four_nodes_load_at_once_over_a_link_that_feeds_them_in_time(tmp_path: Path) -> None:
    lab = read(tmp_path, server="link: 1Gbit")
    assert not pace.pace(lab, {"proxmox-9": PROXMOX}, None).holds


def test_sixteen_nodes_have_the_link_one_after_the_other(tmp_path: Path) -> None:
    paced = pace.pace(of(read(tmp_path, server="link: 1Gbit"), 16), {"proxmox-9": PROXMOX}, None)
    assert paced.loads["node0"] == pytest.approx(1.9e9 * 8 / (1e9 * PAYLOAD))
    assert paced.fed == 7, "as many as the link feeds in half of 4 minutes, 16.2 s each"
    assert str(paced) == (
        "16 nodes: up to 1.9 GB each over 1 Gbit/s, at most 7 at once, last reset after about 243 s"
    )


def test_the_lab_files_link_counts_over_what_the_server_says(tmp_path: Path) -> None:
    lab = of(read(tmp_path, server="link: 1Gbit/s"), 16)
    assert pace.pace(lab, {"proxmox-9": PROXMOX}, 1e10).holds
    assert not pace.pace(of(read(tmp_path), 16), {"proxmox-9": PROXMOX}, 1e10).holds


def test_each_node_is_reckoned_by_its_own_system(tmp_path: Path) -> None:
    lab = of(read(tmp_path, server="link: 100Mbit"), 2)
    other = lab.nodes["node1"].model_copy(update={"os": "ubuntu-24.04"})
    mixed = lab.model_copy(update={"nodes": {**lab.nodes, "node1": other}})
    loads = pace.pace(mixed, {"proxmox-9": PROXMOX, "ubuntu-24.04": UBUNTU}, None).loads
    assert loads["node1"] / loads["node0"] == pytest.approx(3.0 / 1.9)


def test_a_node_that_grub_starts_loads_one_file_for_initrd_and_iso(tmp_path: Path) -> None:
    node = read(tmp_path).nodes["node1"]
    files = {**PROXMOX, medium(node.os).combined: 1_886_000_000}
    assert pace.loaded(node, files) == 1_900_000_000
    signed = node.model_copy(update={"firmware": "secure-boot"})
    assert pace.loaded(signed, files) == 1_900_000_000
    ubuntu = signed.model_copy(update={"os": "ubuntu-24.04"})
    assert pace.loaded(ubuntu, UBUNTU) == 3_000_000_000


@given(st.integers(1, 400), st.floats(1e7, 1e11), st.integers(0, 10**10))
def test_whoever_may_load_at_once_does_so_within_the_deadline(count: int, speed: float, size: int) -> None:
    lab = of(LAB, count)
    paced = pace.pace(lab, {"proxmox-9": {"proxmox.iso": size}}, speed)
    together = 8 * size * min(count, paced.fed) / (speed * PAYLOAD)
    assert paced.fed == 2 or together <= lab.deadlines.answer / 2 * 1.001


def test_the_users_own_bounds(tmp_path: Path) -> None:
    lab = read(tmp_path, power="power: {at_once: 2, stagger: 1.5s}")
    paced = pace.pace(lab, {}, None)
    assert (paced.at_once, paced.apart) == (2, 1.5)
    assert str(paced) == "4 nodes: 1.5 s apart, at most 2 at once, last reset after about 4 s"
    assert not pace.pace(read(tmp_path, power="power: {at_once: 4}"), {}, None).holds


def test_the_plan_tells_it_as_far_as_the_lab_file_does(tmp_path: Path) -> None:
    nodes = ["node1", "node2"]
    plain, bound = read(tmp_path), read(tmp_path, power="power: {stagger: 2s}")
    assert planning._later(plain, nodes)["power"].endswith("resets it to the network")
    assert planning._later(bound, nodes)["power"].endswith("; 2 nodes: 2 s apart, last reset after about 2 s")
    none = tmp_path / "none"
    media = {"proxmox-9": InstallMedia(vmlinuz=none, initrd=none, iso=none)}
    unfetched = bound.model_copy(update={"media": media})
    assert planning._later(unfetched, nodes)["power"].endswith("resets it to the network")


@pytest.mark.parametrize(
    ("given", "bits"), [("100Mbit", 1e8), ("1Gbit", 1e9), ("2.5Gbit", 2.5e9), ("10 Gbit/s", 1e10)]
)
def test_speeds_of_links(tmp_path: Path, given: str, bits: float) -> None:
    assert read(tmp_path, server=f"link: {given}").server.link == bits


@pytest.mark.parametrize(
    ("server", "power", "said"),
    [
        ("link: 1GB", "", 'server.link: "1GB" is no speed of a link; write 100Mbit, 1Gbit or 2.5Gbit'),
        ("link: 0Gbit", "", 'server.link: "0Gbit" is no speed'),
        ("link: fast", "", 'server.link: "fast" is no speed'),
        ("", "power: {at_once: 0}", 'power.at_once: "0": input should be greater than or equal to 1'),
        ("", "power: {at_once: many}", 'power.at_once: "many"'),
        ("", "power: {stagger: soon}", 'power.stagger: "soon" is no duration; write 90s'),
        ("", "power: {atonce: 2}", 'power.atonce: is an unknown key; did you mean "at_once"?'),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, server: str, power: str, said: str) -> None:
    with pytest.raises(InventoryError) as caught:
        read(tmp_path, server=server, power=power)
    (mistake,) = caught.value.mistakes
    assert said in str(mistake) and mistake.line is not None


class Answering:
    """A server that says this of its interface."""

    def __init__(self, said: str) -> None:
        self._said = said

    def run(self, command: str) -> Result:
        return Result(command, 0, self._said, "", 0.0)


@pytest.mark.parametrize(
    ("said", "speed"), [("10000\n", 1e10), ("1000\n", 1e9), ("-1\n", None), ("", None), ("0\n", None)]
)
def test_what_the_server_says_of_its_link(said: str, speed: float | None) -> None:
    assert pace.measured(LAB, cast(Remote, Answering(said))) == speed


def test_the_command_that_asks_for_it_runs_here() -> None:
    """Of loopback the kernel knows no speed: it says nothing, or fails to say it."""
    here = LAB.model_copy(update={"server": LAB.server.model_copy(update={"address": "127.0.0.1"})})
    assert pace.measured(here, LocalRemote("server")) is None
