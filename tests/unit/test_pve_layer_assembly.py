from __future__ import annotations

import os
import stat
from pathlib import Path

import virtual_lab.pve as pve


def test_the_layer_has_what_a_node_runs(tmp_path: Path) -> None:
    digest = pve.layer(tmp_path / "layer")
    assert digest == pve.digest()
    for name in ("pmxcfs", "pvecm", "pvedaemon", "pveproxy", "pvesh", "pveversion"):
        assert os.access(tmp_path / f"layer/usr/bin/{name}", os.X_OK)
    for unit in pve.UNITS:
        link = tmp_path / f"layer/etc/systemd/system/multi-user.target.wants/{unit}"
        assert (tmp_path / "layer" / str(link.readlink()).lstrip("/")).is_file()
    assert (tmp_path / "layer/usr/share/rackproof-pve/pmx/api/cluster.py").is_file()


def test_debian_s_example_of_a_cluster_is_hidden(tmp_path: Path) -> None:
    pve.layer(tmp_path / "layer")
    hidden = (tmp_path / "layer/etc/corosync/corosync.conf").lstat()
    assert stat.S_ISCHR(hidden.st_mode)
    assert hidden.st_rdev == os.makedev(0, 0)


def test_the_packages_are_names() -> None:
    assert "python3" in pve.packages()
    assert all(" " not in name for name in pve.packages())


def test_the_node_s_code_needs_nothing_but_python() -> None:
    outside = [line for file in (pve.HERE / "pmx").rglob("*.py") for line in file.read_text().splitlines()
               if line.startswith(("from virtual_lab", "from provision", "import virtual_lab"))]  # fmt: skip
    assert outside == []
