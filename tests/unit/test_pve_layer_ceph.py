"""The played Ceph and storages without a node: their calls against Proxmox' schema, ceph.conf, storage.cfg."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest
from fakepve import schema

from virtual_lab.pve.pmx import (
    api,
    apt,
    ceph,
    ceph_cluster,
    ceph_daemons,
    ceph_pools,
    options,
    router,
    storage,
)
from virtual_lab.pve.pmx.auth import caller
from virtual_lab.pve.pmx.errors import Failure
from virtual_lab.pve.pmx.router import Endpoint
from virtual_lab.pve.pmx.worker import JOBS

assert api

OURS = ("/nodes/{node}/ceph", "/cluster/ceph", "/cluster/options", "/storage", "/nodes/{node}/storage",
        "/nodes/{node}/apt/repositories")  # fmt: skip
MODULES = ("ceph", "storage", "datacenter")
ENDPOINTS = [one for one in router.ENDPOINTS
             if one.action.__module__.rpartition(".")[2] in MODULES and one.path.startswith(OURS)]  # fmt: skip
CONF = """\
[global]
\tfsid = 1
\tmon_host = 10.10.2.21 [v2:10.10.2.22:3300/0,v1:10.10.2.22:6789/0] 10.10.2.23:6789 [fd00::1] fd00::2

[mon.node1]
\tpublic_addr = 10.10.2.21

"""


def described(endpoint: Endpoint) -> dict[str, Any]:
    """The schema's description of a call, by the same path with the same names in it."""
    methods = schema.load().paths.get(endpoint.path)
    assert methods is not None, f"{endpoint.path} is no path of the Proxmox API"
    return dict(methods[endpoint.method])


def facts_of_rule(rule: Any) -> dict[str, Any]:
    """What two descriptions of a parameter must have in common."""
    keys = ("type", "minimum", "maximum", "maxLength", "requires")
    found = {key: rule[key] for key in keys if key in rule}
    found["enum"] = tuple(rule.get("enum") or ()) if rule["type"] == "string" else ()
    return {**found, "optional": bool(rule.get("optional"))}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: f"{one.method} {one.path}")
def test_a_call_is_described_as_in_the_schema(endpoint: Endpoint) -> None:
    info = described(endpoint)
    theirs = (info.get("parameters") or {}).get("properties") or {}
    in_path = {name for name in theirs if f"{{{name}}}" in endpoint.path}
    assert set(endpoint.rules) == set(theirs)
    for name, rule in endpoint.rules.items():
        wanted = facts_of_rule(theirs[name])
        if name in in_path:  # it is there, or the call would be another one
            wanted["optional"] = bool(rule.get("optional"))
        assert facts_of_rule(rule) == wanted, name


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: f"{one.method} {one.path}")
def test_a_call_is_carried_out_where_the_schema_says(endpoint: Endpoint) -> None:
    assert endpoint.protected == bool(described(endpoint).get("protected"))


def test_every_call_of_ceph_is_played() -> None:
    def is_ours(path: str) -> bool:
        return path.startswith(("/nodes/{node}/ceph", "/cluster/ceph")) and "/ceph/osd" not in path

    wanted = {
        (method, path) for path, methods in schema.load().paths.items() if is_ours(path) for method in methods
    }
    assert wanted - {(one.method, one.path) for one in ENDPOINTS} == set()


def test_no_call_of_ceph_is_for_root_alone_but_the_osds() -> None:
    for endpoint in ENDPOINTS:
        assert endpoint.right != router.ROOT
        assert described(endpoint).get("permissions"), endpoint.path


def test_every_task_has_someone_who_does_it() -> None:
    own = [kind for kind in JOBS if kind.startswith(("ceph", "srv"))]
    assert len(own) >= 15
    modules = {"ceph_daemons": ceph_daemons, "ceph_pools": ceph_pools, "ceph_cluster": ceph_cluster}
    for kind in own:
        module, _, name = JOBS[kind].partition(":")
        if module in modules:
            assert callable(getattr(modules[module], name))


def errors_of(method: str, path: str, params: dict[str, str]) -> dict[str, str]:
    endpoint, in_path = router.find(method, path)
    with pytest.raises(Failure) as refused:
        endpoint.run(caller("root@pam"), {**params, **in_path})
    assert refused.value.code == 400
    return refused.value.errors


@pytest.mark.parametrize(
    ("method", "path", "params", "errors"),
    [
        ("POST", "/nodes/a/ceph/init", {"cluster-network": "10.0.0.0/24"},
         {"network": "missing property - 'cluster-network' requires this property"}),
        ("POST", "/nodes/a/ceph/init", {"network": "10.0.0.0"},
         {"network": "invalid format - value does not look like a valid CIDR network"}),
        ("POST", "/nodes/a/ceph/init", {"size": "8"}, {"size": "value must have a maximum value of 7"}),
        ("POST", "/nodes/a/ceph/mon/a", {"mon-address": "10.0.0.1,x"},
         {"mon-address": "invalid format - value does not look like a valid IP address"}),
        ("POST", "/nodes/a/ceph/mon/-a", {}, {"monid": "value does not match the regex pattern"}),
        ("POST", "/nodes/a/ceph/pool", {"name": "a:b"}, {"name": "value does not match the regex pattern"}),
        ("POST", "/nodes/a/ceph/pool", {"name": "a", "target_size_ratio": "much"},
         {"target_size_ratio": "type check ('number') failed - got 'much'"}),
        ("POST", "/nodes/a/ceph/pool", {"name": "a", "erasure-coding": "k=1,m=1"},
         {"erasure-coding": "invalid format - format error\nk: value must have a minimum value of 2"}),
        ("POST", "/nodes/a/ceph/fs/cephfs", {"pg_num": "4"}, {"pg_num": "value must have a minimum value of 8"}),
        ("PUT", "/cluster/ceph/flags/nowt", {"value": "1"},
         {"flag": f"value 'nowt' does not have a value in the enumeration '{', '.join(ceph_cluster.FLAGS)}'"}),
        ("GET", "/nodes/a/ceph/cfg/value", {"config-keys": "public_network"},
         {"config-keys": "value does not match the regex pattern"}),
        ("PUT", "/cluster/options", {"migration": "network=10.0.0.0/24"},
         {"migration": "invalid format - format error\ntype: property is missing and it is not optional"}),
        ("POST", "/storage", {"storage": "1a", "type": "dir"},
         {"storage": "invalid format - storage ID '1a' contains illegal characters"}),
        ("POST", "/storage", {"storage": "abc", "type": "dir", "content": "images,disks"},
         {"content": "invalid format - invalid content type 'disks'"}),
        ("POST", "/storage", {"storage": "abc", "type": "dir", "path": "srv"},
         {"path": "invalid format - value does not look like a valid absolute path"}),
    ],
)  # fmt: skip
def test_wrong_parameters(method: str, path: str, params: dict[str, str], errors: dict[str, str]) -> None:
    assert errors_of(method, path, params) == errors


# -- ceph.conf


def test_ceph_conf_is_read_as_ceph_reads_it() -> None:
    text = "; a note\n[ global ]\n mon host = a \\\n  b # which\nfsid='1'\n\nnothing\n[osd]\n  key = a\\;b\n"
    assert ceph.parse(text) == {"global": {"mon_host": "a b", "fsid": "1"}, "osd": {"key": "a;b"}}
    assert ceph.parse("key = value\n") == {}


def test_ceph_conf_is_written_in_proxmox_order() -> None:
    conf = {"other": {}, "osd.1": {}, "mon.b": {}, "mon": {}, "client.crash": {}, "client": {"b": "1;2", "a": "x"},
            "global": {"fsid": "1"}}  # fmt: skip
    text = ceph.render(conf)
    assert [line for line in text.splitlines() if line.startswith("[")] == [
        "[global]", "[client]", "[client.crash]", "[mon]", "[mon.b]", "[osd.1]", "[other]"
    ]  # fmt: skip
    assert "[client]\n\ta = x\n\tb = 1\\;2\n\n" in text
    assert ceph.parse(text) == conf


def test_monitors_addresses_are_found_in_every_spelling() -> None:
    vector = ["10.10.2.22", "10.10.2.22"]
    assert ceph.monitor_addresses(ceph.parse(CONF)) == [
        "10.10.2.21",
        *vector,
        "10.10.2.23",
        "fd00::1",
        "fd00::2",
    ]
    assert ceph.monitor_addresses({}) == []


def test_a_new_monitor_wants_a_name_and_an_address_of_its_own() -> None:
    conf = ceph.parse(CONF)
    known = {"node3": {"addr": "10.10.2.24:6789/0"}}
    check = ceph_daemons._check_new_monitor
    check(conf, known, "node4", ["10.10.2.2"])
    for address in ("10.10.2.21", "10.10.2.22", "10.10.2.24"):
        with pytest.raises(Failure, match=f"monitor address '{address}' already in use"):
            check(conf, known, "node4", [address])
    with pytest.raises(Failure, match="monitor 'node3' already exists"):
        check(conf, known, "node3", ["10.10.2.2"])


def test_a_monitor_that_goes_takes_its_address_along() -> None:
    conf = {"global": {"mon_host": "10.0.0.1 10.0.0.101 fd00::1"}}
    row = {"public_addrs": {"addrvec": [{"addr": "10.0.0.1:3300"}, {"addr": "10.0.0.1:6789"}]}}
    ceph_daemons._forget_addresses(conf, ceph_daemons._addresses_of(row))
    assert conf["global"]["mon_host"] == "10.0.0.101 [fd00::1]"


def test_a_key_is_one_of_ceph_s() -> None:
    key = base64.b64decode(ceph_daemons._new_key())
    kind, _, _, length = struct.unpack_from("<HIIH", key)
    assert (kind, length, len(key)) == (1, 16, 28)


@pytest.mark.parametrize(
    ("service", "unit"),
    [("mon.node1", "ceph-mon@node1"), ("osd", "ceph-osd.target"), ("ceph", "ceph.target"), ("", "ceph.target"),
     ("mgr.a-b", "ceph-mgr@a-b"), ("ceph.target", "ceph.target")],
)  # fmt: skip
def test_services_and_their_units(service: str, unit: str) -> None:
    assert ceph_daemons.unit_of(service) == unit


# -- pools


class FakeRados:
    """A pool that takes some settings."""

    def __init__(self, now: dict[str, Any], *, refused: tuple[str, ...] = ()) -> None:
        self.now, self.refused = now, refused
        self.set: list[tuple[str, str]] = []

    def command(self, prefix: str, **args: Any) -> Any:
        if prefix == "osd pool get":
            return self.now
        name = args.get("var", "application")
        if name in self.refused:
            raise Failure(f"error with '{prefix}': mon_cmd failed - no")
        self.set.append((name, str(args.get("val", args.get("app")))))
        return None


def test_size_is_set_first_and_what_is_so_already_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    rados = FakeRados({"size": 3, "pg_num": 128})
    wanted = {"min_size": 2, "pg_num": 128, "size": 2, "target_size_ratio": 1.0, "application": "rbd"}
    ceph_pools.apply(rados, "rbd", wanted)  # type: ignore[arg-type]
    assert rados.set == [("size", "2"), ("application", "rbd"), ("min_size", "2"), ("target_size_ratio", "1")]
    assert "skipping 'pg_num', did not change" in capsys.readouterr().out


def test_what_could_not_be_set_is_named() -> None:
    rados = FakeRados({"size": 3}, refused=("pg_num", "crush_rule"))
    with pytest.raises(Failure, match=r"^Could not set: crush_rule, pg_num$"):
        ceph_pools.apply(rados, "rbd", {"pg_num": 1, "crush_rule": "x", "min_size": 2})  # type: ignore[arg-type]
    assert rados.set == [("min_size", "2")]


def test_a_pool_of_erasure_coding_keeps_size_and_rule(capsys: pytest.CaptureFixture[str]) -> None:
    rados = FakeRados({"erasure_code_profile": "p"})
    ceph_pools.apply(rados, "x", {"size": 2, "crush_rule": "y", "pg_num": 8})  # type: ignore[arg-type]
    assert rados.set == [("pg_num", "8")]
    assert "cannot set 'size' for erasure coded pool" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "size"), [("5", 5), ("1.5K", 1536), ("2T", 2 << 40)])
def test_target_sizes_are_bytes(text: str, size: int) -> None:
    assert ceph_pools.settings({"target_size": text, "name": "x"}) == {"target_size_bytes": size}


# -- storage.cfg


FRESH = "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup,import\n\nlvmthin: local-lvm\n\tthinpool data\n"


def test_a_fresh_node_s_storages() -> None:
    found = storage.parse(FRESH)
    assert list(found) == ["local", "local-lvm"]
    assert found["local"].content == {"iso", "vztmpl", "backup", "import"}
    assert found["local"].path == Path("/var/lib/vz")
    assert found["local"].directory("iso") == Path("/var/lib/vz/template/iso")
    assert found["local-lvm"].content == {"images", "rootdir"}
    assert not any(one.shared for one in found.values())


def test_there_is_always_a_local_storage_and_it_is_everywhere() -> None:
    found = storage.parse("dir: other\n\tpath /srv\n")
    assert found["local"].content == {"images", "rootdir", "vztmpl", "iso", "backup", "snippets"}
    bound = storage.parse("dir: local\n\tpath /var/lib/vz\n\tcontent iso\n\tnodes node1\n")
    assert bound["local"].enabled("node2")


def test_nodes_and_switches_decide_where_a_storage_is() -> None:
    found = storage.parse("rbd: one\n\tnodes a,b\n\nrbd: off\n\tdisable\n\nrbd: two\n\tpool x\n")
    assert (found["one"].enabled("a"), found["one"].enabled("c"), found["off"].enabled("a")) == (
        True,
        False,
        False,
    )
    assert (found["one"].pool, found["two"].pool, found["two"].shared) == ("rbd", "x", True)
    with pytest.raises(Failure, match=r"^storage 'one' is not available on node 'c'$"):
        found["one"].check_enabled("c")
    with pytest.raises(Failure, match=r"^storage 'off' is disabled$"):
        found["off"].check_enabled("c")


def test_storages_are_read_as_they_are_written() -> None:
    text = FRESH + "\nrbd: rbd\n\tcontent images,rootdir\n\tkrbd 0\n\tpool rbd\n\n"
    assert storage.parse(storage.render(storage.parse(text))) == storage.parse(text)


@pytest.mark.parametrize(
    ("kind", "given", "complaint"),
    [
        ("dir", {}, "missing value for required option 'path'"),
        ("rbd", {"path": "/x"}, "unexpected property 'path'"),
        ("rbd", {"content": "iso"}, "storage does not support content type 'none'"),
        ("dir", {"path": "/x", "content": "none,iso"}, "unable to combine 'none' with other content types"),
    ],
)
def test_a_storage_that_cannot_be_so(kind: str, given: dict[str, str], complaint: str) -> None:
    with pytest.raises(Failure, match=f"^{complaint}$"):
        storage._checked(kind, given, storage.KINDS[kind].required)


def test_content_that_a_storage_may_not_have_is_left_out() -> None:
    assert storage._checked("rbd", {"content": "rootdir,iso,images"}, ()) == {"content": "images,rootdir"}


# -- options and repositories


def test_migration_is_shown_in_its_parts(tmp_path: Path) -> None:
    (tmp_path / "datacenter.cfg").write_text("keyboard: de\nmigration: insecure,network=10.0.0.0/24\n")
    assert options.shown(tmp_path / "datacenter.cfg") == {"mac_prefix": "BC:24:11", "keyboard": "de",
                               "migration": {"type": "insecure", "network": "10.0.0.0/24"}}  # fmt: skip


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "ceph.sources").write_text(apt.source("ceph-tentacle", "enterprise"))
    (tmp_path / "pve-enterprise.sources").write_text(apt.source("pve", "pve-enterprise"))
    return tmp_path


def status_of(sources: Path) -> dict[str, int | None]:
    return {row["handle"]: row.get("status") for row in apt.repositories(sources)["standard-repos"]}


def test_repositories_are_known_by_their_handles(sources: Path) -> None:
    known = {handle: status for handle, status in status_of(sources).items() if status is not None}
    assert known == {"enterprise": 1, "ceph-tentacle-enterprise": 1}
    apt.add("no-subscription", sources=sources)
    apt.add("ceph-squid-no-subscription", sources=sources)
    assert status_of(sources)["no-subscription"] == status_of(sources)["ceph-squid-no-subscription"] == 1
    assert (sources / "proxmox.sources").read_text() == apt.source("pve", "pve-no-subscription")
    assert "\n\nTypes: deb\nURIs: http://download.proxmox.com/debian/ceph-squid\n" in (
        sources / "ceph.sources").read_text()  # fmt: skip


def test_a_repository_is_switched_off_and_on(sources: Path) -> None:
    path = str(sources / "pve-enterprise.sources")
    apt.enable(path, 0, on=False, known=apt.digest(sources), sources=sources)
    assert status_of(sources)["enterprise"] == 0
    apt.add("enterprise", sources=sources)
    assert status_of(sources)["enterprise"] == 1
    assert "Enabled" not in Path(path).read_text()


@pytest.mark.parametrize(("path", "index"), [("/etc/passwd", 0), ("pve-enterprise.sources", 7)])
def test_a_repository_that_is_not_there(sources: Path, path: str, index: int) -> None:
    with pytest.raises(Failure, match=r"^invalid "):
        apt.enable(path if path[0] == "/" else str(sources / path), index, on=True, sources=sources)
    with pytest.raises(Failure, match="detected modified configuration"):
        apt.add("test", known="of another day", sources=sources)
    with pytest.raises(Failure, match="unknown repository handle 'nope'"):
        apt.add("nope", sources=sources)
