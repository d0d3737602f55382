"""Small parts of the rack: control groups, keys, disks, the table, the command line."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import bcrypt
import pytest
from cryptography import x509

from provision.errors import InventoryError, LabError
from provision.inventory import load
from provision.inventory.secret import Secret
from virtual_lab import __main__ as cli
from virtual_lab import cgroups, disk, host, keys, played_lab
from virtual_lab.places import Places
from virtual_lab.plan import plan
from virtual_lab.status import Row, dashboard, table

UNIFIED = "36 25 0:31 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "30 25 0:26 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n"
    "31 25 0:27 / /sys/fs/cgroup/systemd rw shared:6 - cgroup cgroup rw,name=systemd\n"
    "32 25 0:28 / /sys/fs/cgroup/unified rw shared:7 - cgroup2 cgroup2 rw\n"
)


def proc(tmp_path: Path, own: str, mounts: str) -> Path:
    (tmp_path / "cgroup").write_text(own)
    (tmp_path / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    return tmp_path


def test_a_unified_machine_has_one_hierarchy(tmp_path: Path) -> None:
    found = cgroups.hierarchies(proc(tmp_path, "0::/system.slice/a.scope\n", UNIFIED))
    assert [hierarchy.own for hierarchy in found] == [Path("/sys/fs/cgroup/system.slice/a.scope")]


def test_a_hybrid_machine_has_systemds_own_too(tmp_path: Path) -> None:
    found = cgroups.hierarchies(proc(tmp_path, "4:memory:/x\n3:name=systemd:/a\n0::/b\n", HYBRID))
    assert [str(hierarchy.own) for hierarchy in found] == [
        "/sys/fs/cgroup/systemd/a",
        "/sys/fs/cgroup/unified/b",
    ]


def test_a_machine_without_control_groups_is_noticed(tmp_path: Path) -> None:
    assert cgroups.hierarchies(proc(tmp_path, "0::/\n", "")) == []


def test_a_consoles_certificate_is_good_for_its_address_and_names(tmp_path: Path) -> None:
    authority = keys.Authority(tmp_path / "ca.pem", "rack")
    authority.sign(tmp_path / "c.crt", tmp_path / "c.key", names=["console-a"], address="10.10.1.11")
    certificate = x509.load_pem_x509_certificate((tmp_path / "c.crt").read_bytes())
    known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert known.get_values_for_type(x509.DNSName) == ["console-a"]
    assert [str(address) for address in known.get_values_for_type(x509.IPAddress)] == ["10.10.1.11"]
    assert verified(tmp_path) == "10.10.1.11"


def verified(folder: Path) -> str:
    """The name under which a client that trusts only the CA accepts the certificate."""
    server_side, client_side = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.create_default_context(cafile=folder / "ca.pem"),
    )
    server_side.load_cert_chain(folder / "c.crt", folder / "c.key")
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server, server_hostname="10.10.1.11")
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return str(client.server_hostname) if client.getpeercert() else ""


def test_keys_are_made_once_and_are_private(tmp_path: Path) -> None:
    public = keys.ssh_key(tmp_path / "key", "rack")
    assert public == keys.ssh_key(tmp_path / "key", "rack")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    first, again = keys.Authority(tmp_path / "ca.pem", "a"), keys.Authority(tmp_path / "ca.pem", "b")
    assert first._certificate == again._certificate
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600


def test_the_users_file_takes_the_password(tmp_path: Path) -> None:
    keys.users_file(tmp_path / "users", "ADMIN", "s3cret")
    user, _, hashed = (tmp_path / "users").read_text().strip().partition(":")
    assert user == "ADMIN"
    assert bcrypt.checkpw(b"s3cret", hashed.encode())
    assert (tmp_path / "users").stat().st_mode & 0o777 == 0o600


def test_a_rack_of_before_keeps_its_secrets_and_is_given_the_new_ones(tmp_path: Path) -> None:
    old = {"bmc_user": "ADMIN", "bmc_password": "one", "root_password": "two"}
    (tmp_path / "secrets").write_text(json.dumps(old))
    made = keys.made_up(tmp_path / "secrets")
    assert (made.bmc_password, made.root_password) == ("one", "two")
    assert len({made.viewer_password, made.operator_password, made.iso_token}) == 3
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o600
    assert made == keys.made_up(tmp_path / "secrets")


def test_people_of_the_rack_have_passwords_and_status_says_where_they_are(tmp_path: Path) -> None:
    places, lab = Places(tmp_path, "rack"), load(cli.DEFAULT_LAB, {})
    places.rack.mkdir(parents=True)
    own = played_lab.credentials(places)
    people = {name: played_lab._person(person, own) for name, person in lab.people.items()}
    assert people["operator"].secret.reveal({}) == own.operator_password
    assert people["viewer"].secret.reveal({}) == own.viewer_password
    said = dashboard(places, plan(lab))
    assert "https://10.10.1.1/" in said
    assert str(places.made_up_secrets) in said
    assert own.operator_password not in said


def test_a_made_up_secret_stands_in_for_one_that_is_not_set(tmp_path: Path) -> None:
    made = keys.made_up(tmp_path / "secrets")
    assert made == keys.made_up(tmp_path / "secrets")
    unset = Secret.from_reference(f"file:{tmp_path / 'none'}")
    assert played_lab.known(unset, made.root_password).reveal() == made.root_password
    given = Secret.known("given")
    assert played_lab.known(given, "other") is given


def test_a_disk_is_partitioned_for_real(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    disk.blank(image, 4 << 30)
    assert disk.root_partition(image) is None
    extent = disk.partition(image)
    assert disk.root_partition(image) == extent
    assert [part.start for part in disk.partitions(image)] == [34 * 512, 1 << 20, extent.start]
    assert extent.start == 1025 << 20
    assert extent.size > 2 << 30
    disk.make_filesystem(image, extent)
    with image.open("rb") as file:
        file.seek(extent.start + 1024 + 56)
        assert file.read(2) == b"\x53\xef"  # ext4's magic number
    assert image.stat().st_blocks * 512 < 200 << 20
    disk.blank(image, 4 << 30)
    assert disk.root_partition(image) is None


def test_a_disk_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    disk.blank(tmp_path / "tiny.img", 4096)
    with pytest.raises(disk.DiskFailed, match=r"sfdisk.*tiny\.img"):
        disk.partition(tmp_path / "tiny.img")


def test_the_table_is_aligned() -> None:
    rows = [Row("node1", "On", "system", "10.10.1.21", "10.10.1.11", "-", "all in"),
            Row("n", "Off", "off", "10.10.1.9", "-", "Pxe once", "cut: eno3")]  # fmt: skip
    lines = table(rows).splitlines()
    assert lines[0].index("phase") == lines[1].index("system") == lines[2].index("off", 9)
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["node1", "--", "ls", "-l"], ("node1", ["ls", "-l"])),
        (["--", "ip", "a"], ("lab", ["ip", "a"])),
        (["node1", "--", "sh", "-c", "a -- b"], ("node1", ["sh", "-c", "a -- b"])),
    ],
)
def test_exec_takes_a_machine_and_a_command(words: list[str], meant: tuple[str, list[str]]) -> None:
    assert cli._split(words) == meant


@pytest.mark.parametrize("words", [[], ["--"], ["node1"], ["a", "b", "--", "ls"]])
def test_exec_without_a_command_is_a_wrong_command_line(words: list[str]) -> None:
    with pytest.raises(InventoryError, match="is written python -m virtual_lab exec"):
        cli._split(words)


def test_no_rack_and_no_such_instance_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RACKPROOF_HOME", str(tmp_path))
    monkeypatch.delenv("RACKPROOF_INSTANCE", raising=False)
    assert cli.main(["status"]) == 1
    assert "there is no rack virtual; raise one" in capsys.readouterr().err
    assert cli.main(["--rack", "Not/Good", "status"]) == 4
    assert '"Not/Good" cannot name a rack' in capsys.readouterr().err
    for name in ("a", "b"):
        (tmp_path / "racks" / name).mkdir(parents=True)
    assert cli.main(["status"]) == 4
    assert "several racks are there, a, b; say which" in capsys.readouterr().err


def test_more_machines_than_this_user_may_watch_are_refused_by_number() -> None:
    host.need_watchers(0)
    with pytest.raises(LabError, match=r"100000 machines take 700000 inotify instances.*max_user_instances"):
        host.need_watchers(100000)
