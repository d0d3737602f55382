"""Secrets that systemd hands over, and secrets in files encrypted with age; every failure by its name, no value."""

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.inventory import age, load
from provision.inventory.secret import KINDS
from provision.inventory.systemd_credential import _of_file
from provision.secrets import Secret, SecretMissing, missing_secrets, revealed

ROOT = Path(__file__).parents[2]
VALUE = "canary hunter2 #=é"


def refused(secret: Secret, env: dict[str, str], said: str) -> None:
    with pytest.raises(SecretMissing, match=said) as caught:
        secret.reveal(env)
    everything = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "hunter2" not in everything and "AGE-SECRET-KEY-1" not in everything.replace(
        "AGE-SECRET-KEY-1,", ""
    )
    assert caught.value.message.count("\n") == 0


# systemd-cred


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """A folder as systemd makes it for a unit of our own user."""
    folder = tmp_path / "credentials"
    folder.mkdir(0o700)
    return folder


def handed(folder: Path, content: str = f"{VALUE}\n", mode: int = 0o400) -> tuple[Secret, dict[str, str]]:
    path = folder / "root-password"
    path.write_text(content)
    path.chmod(mode)
    return Secret.from_reference("systemd-cred:root-password"), {"CREDENTIALS_DIRECTORY": str(folder)}


def test_a_credential_is_its_only_line(credentials: Path) -> None:
    secret, env = handed(credentials)
    credentials.chmod(0o500)
    assert secret.reveal(env) == VALUE
    assert repr(secret) == "Secret(systemd-cred:root-password)"


def test_a_credential_outside_of_a_unit(credentials: Path) -> None:
    secret, env = handed(credentials)
    refused(secret, {}, "CREDENTIALS_DIRECTORY is set in units with LoadCredential=root-password:")
    refused(
        Secret.from_reference("systemd-cred:other"), env, "systemd-cred:other cannot be read: No such file"
    )


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770, 0o720, 0o702])
def test_a_folder_that_others_can_enter_is_refused(mode: int, credentials: Path) -> None:
    secret, env = handed(credentials)
    credentials.chmod(mode)
    refused(secret, env, "cannot be trusted: CREDENTIALS_DIRECTORY is .*, which is open to")


def test_a_folder_that_is_none(credentials: Path, tmp_path: Path) -> None:
    secret, _ = handed(credentials)
    (tmp_path / "link").symlink_to(credentials)
    for folder, said in {
        "credentials": "is no absolute path", str(tmp_path / "none"): "cannot be looked at: No such file",
        str(tmp_path / "link"): "is no folder", str(credentials / "root-password"): "is no folder",
    }.items():  # fmt: skip
        refused(secret, {"CREDENTIALS_DIRECTORY": folder}, said)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (VALUE, 0o444, "is open to others"),
        (VALUE, 0o404, "is open to others"),
        (VALUE, 0o420, "is open to others"),
        ("", 0o400, "is empty"),
        (f"{VALUE}\n{VALUE}\n", 0o400, "one line of printable text"),
        (VALUE * 8192, 0o400, "not a small regular file"),
    ],
)
def test_a_credential_that_cannot_be_used(content: str, mode: int, said: str, credentials: Path) -> None:
    secret, env = handed(credentials, content, mode)
    refused(secret, env, f"systemd-cred:root-password .*{said}")


def test_a_pipe_in_the_place_of_a_secret_holds_nobody_up(credentials: Path) -> None:
    os.mkfifo(credentials / "root-password", 0o400)
    secret, env = (
        Secret.from_reference("systemd-cred:root-password"),
        {"CREDENTIALS_DIRECTORY": str(credentials)},
    )
    refused(secret, env, "not a small regular file")
    refused(Secret.from_reference(f"file:{credentials}/root-password"), {}, "not a small regular file")


def test_what_systemd_leaves_of_modes() -> None:
    """Of a unit with a user of its own: root's, group root, mode 0440, of which the 040 is the mask of an ACL."""

    def wrong(uid: int, gid: int, mode: int) -> str | None:
        about: Any = SimpleNamespace(st_uid=uid, st_gid=gid, st_mode=mode)
        return _of_file(about)

    me = os.geteuid()
    assert (
        wrong(0, 0, 0o100440) is None and wrong(0, 0, 0o100400) is None and wrong(me, 4711, 0o100400) is None
    )
    assert wrong(0, 0, 0o040550) is None
    assert wrong(0, 4711, 0o100440) == "is open to group 4711"
    assert wrong(4711, 0, 0o100400) == "belongs to user 4711"
    assert wrong(0, 0, 0o100460) == "is open to others"


# age


@pytest.fixture(scope="module")
def mine() -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.generate()


Sealed = Callable[..., Secret]


@pytest.fixture
def sealed(tmp_path: Path, mine: pyrage.x25519.Identity) -> Sealed:
    """Encrypts a text for us into a file, and refers to it, or to one secret in it."""

    def seal(text: str, name: str = "", *, armored: bool = False) -> Secret:
        path = tmp_path / "secrets.age"
        path.write_bytes(pyrage.encrypt(text.encode(), [mine.to_public()], armored=armored))
        return Secret.from_reference(f"age:secrets.age{name}", base=tmp_path)

    return seal


@pytest.fixture
def env(mine: pyrage.x25519.Identity) -> dict[str, str]:
    return {"RACKPROOF_AGE_IDENTITY": f"# public key: {mine.to_public()}\n{mine}\n"}


@pytest.mark.parametrize("armored", [False, True])
def test_a_file_of_one_secret(armored: bool, sealed: Sealed, env: dict[str, str]) -> None:
    assert sealed(f"{VALUE}\n", armored=armored).reveal(env) == VALUE


def test_a_file_of_several(sealed: Sealed, env: dict[str, str]) -> None:
    text = f"# for hall 3\n\nROOT={VALUE}\r\nBMC=a=b\n"
    assert sealed(text, "#ROOT").reveal(env) == VALUE
    assert sealed(text, "#BMC").reveal(env) == "a=b"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("ROOT=hunter2\nBMC=hunter2\n", "", "holds several lines; name the one that is meant: age:.*#NAME"),
        ("ROOT=hunter2\n", "#OTHER", "#OTHER is not in that file"),
        ("ROOT=hunter2\nROOT=hunter2\n", "#ROOT", "#ROOT stands twice in that file"),
        ('ROOT="hunter2"\n', "#ROOT", "has quotes or blanks around it"),
        ("ROOT= hunter2\n", "#ROOT", "has quotes or blanks around it"),
        ("ROOT=\n", "#ROOT", "is empty"),
        ("ROOT=hunter2\nhunter2\n", "#ROOT", "line 2 of that file is no NAME=value"),
        ("ROOT=hunter2\a\n", "#ROOT", "one line of printable text"),
        ("hunter2\x00", "", "one line of printable text"),
        ("", "", "is empty"),
    ],
)
def test_a_file_that_holds_no_such_secret(
    text: str, name: str, said: str, sealed: Sealed, env: dict[str, str]
) -> None:
    refused(sealed(text, name), env, said)


def test_a_file_that_is_no_text(tmp_path: Path, mine: pyrage.x25519.Identity, env: dict[str, str]) -> None:
    (tmp_path / "x").write_bytes(pyrage.encrypt(b"hunter2\xff", [mine.to_public()]))
    refused(Secret.from_reference("age:x", base=tmp_path), env, "is not UTF-8 text")


def test_no_identity_and_a_wrong_one(sealed: Sealed) -> None:
    secret, other = sealed(VALUE), pyrage.x25519.Identity.generate()
    refused(secret, {}, "no identity is given; set RACKPROOF_AGE_IDENTITY_FILE, or RACKPROOF_AGE_IDENTITY")
    refused(secret, {"RACKPROOF_AGE_IDENTITY": str(other)}, "was not encrypted to the identity given")


@pytest.mark.parametrize(
    "text",
    ["hunter2", "age1hunter2", "AGE-SECRET-KEY-1HUNTER2", "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2",
     "hunter2\udcff", "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\udcff"],
)  # fmt: skip
def test_an_identity_that_is_none(text: str, sealed: Sealed) -> None:
    refused(
        sealed(VALUE), {"RACKPROOF_AGE_IDENTITY": text}, "^the age identity in RACKPROOF_AGE_IDENTITY is none"
    )


def test_an_identity_file(sealed: Sealed, env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_text(env["RACKPROOF_AGE_IDENTITY"])
    path.chmod(0o600)
    by_file = {"RACKPROOF_AGE_IDENTITY_FILE": str(path)}
    assert sealed(VALUE).reveal(by_file) == VALUE
    path.chmod(0o640)
    refused(sealed(VALUE), by_file, f"^the age identity file {path} can be read by others; chmod 600")
    path.write_text("# nothing\n")
    path.chmod(0o600)
    refused(sealed(VALUE), by_file, "is empty")
    refused(
        sealed(VALUE), {"RACKPROOF_AGE_IDENTITY_FILE": "/none"}, "identity file /none cannot be read: No such"
    )


def test_an_identity_of_ssh(tmp_path: Path) -> None:
    for name, phrase in (("open", ""), ("locked", "phrase")):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    recipient = pyrage.ssh.Recipient.from_str((tmp_path / "open.pub").read_text())
    (tmp_path / "x").write_bytes(pyrage.encrypt(VALUE.encode(), [recipient]))
    secret = Secret.from_reference("age:x", base=tmp_path)
    assert secret.reveal({"RACKPROOF_AGE_IDENTITY_FILE": str(tmp_path / "open")}) == VALUE
    assert secret.reveal({"RACKPROOF_AGE_IDENTITY": (tmp_path / "open").read_text().strip()}) == VALUE
    refused(secret, {"RACKPROOF_AGE_IDENTITY_FILE": str(tmp_path / "locked")}, "is locked by a passphrase")


BY_PASSPHRASE = (
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCB2Vm9UUDhBbmE0emU2enNVN01ZMjRBIDE2ClZPNWEyWjA1RVNudksyYnpy"
    "MXl1WTRhZzdwRFpmWkYvd2c0UHF0S2lwVU0KLS0tIDNWUElJcXlFU0w5WmNBQ1U3MWxyRzVadmkwVnZqSTduTDAwN2p2ZU90OWMK"
    "XoxhOC3tiDd2e1/tM30n4K8VmmbJnnQcw8ZIMXyWHMqe"
)


@pytest.mark.parametrize("armored", [False, True])
def test_a_file_under_a_passphrase(armored: bool, tmp_path: Path, env: dict[str, str]) -> None:
    binary = base64.b64decode(BY_PASSPHRASE)
    lines = [BY_PASSPHRASE[start : start + 64] for start in range(0, len(BY_PASSPHRASE), 64)]
    mark = "-----{} AGE ENCRYPTED FILE-----"
    text = "\n".join([mark.format("BEGIN"), *lines, mark.format("END"), ""])
    (tmp_path / "x").write_bytes(text.encode() if armored else binary)
    refused(
        Secret.from_reference("age:x", base=tmp_path),
        env,
        "is locked by a passphrase.*; encrypt it with age -r",
    )


@given(cut=st.integers(min_value=0, max_value=180), flipped=st.integers(min_value=0, max_value=255))
def test_a_damaged_file(cut: int, flipped: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    identity, path = pyrage.x25519.Identity.generate(), tmp_path_factory.getbasetemp() / "damaged.age"
    whole = pyrage.encrypt(VALUE.encode(), [identity.to_public()])
    broken = bytearray(whole[: len(whole) - cut] if cut else whole)
    broken[-1] ^= flipped or 1
    path.write_bytes(broken)
    refused(
        Secret.from_reference(f"age:{path}"), {"RACKPROOF_AGE_IDENTITY": str(identity)}, "damaged|for others"
    )


def test_a_file_that_everybody_can_change_is_refused(
    sealed: Sealed, env: dict[str, str], tmp_path: Path
) -> None:
    secret = sealed(VALUE)
    (tmp_path / "secrets.age").chmod(0o664)
    assert secret.reveal(env) == VALUE
    (tmp_path / "secrets.age").chmod(0o666)
    refused(secret, env, "can be changed by everybody; chmod o-w")


def test_a_file_is_opened_once_until_it_changes(sealed: Sealed, env: dict[str, str]) -> None:
    age._decrypted.cache_clear()
    first = [sealed("A=1\nB=2\n", "#A"), Secret.from_reference("env:NONE")][0]
    second = Secret(first.reference.replace("#A", "#B"))
    assert [first.reveal(env), second.reveal(env), first.reveal(env)] == ["1", "2", "1"]
    assert age._decrypted.cache_info().misses == 1
    assert sealed("A=3\n", "#A").reveal(env) == "3"


# As a user meets them


@pytest.fixture
def lab_file(tmp_path: Path) -> Path:
    """The default lab on metal, its root password one of two in a file of age beside it."""
    text = (ROOT / "labs/virtual.yaml").read_text().replace("virtual: true", "virtual: false")
    path = tmp_path / "lab.yaml"
    path.write_text(text.replace("env:RACKPROOF_ROOT_PASSWORD", "age:secrets.age#ROOT"))
    return path


def test_the_identity_is_struck_out_of_what_is_saved(
    lab_file: Path, sealed: Sealed, env: dict[str, str], mine: pyrage.x25519.Identity
) -> None:
    sealed("ROOT=canary-root\n")
    assert revealed(load(lab_file, env), env) == {
        str(mine): "age identity", "canary-root": f"age:{lab_file.parent}/secrets.age#ROOT",
    }  # fmt: skip
    assert str(mine) not in revealed(load(ROOT / "labs/virtual.yaml", env), env)


def test_an_identity_that_cannot_be_used_is_told_once(lab_file: Path, sealed: Sealed, tmp_path: Path) -> None:
    sealed("ROOT=canary-root\nBMC=canary-bmc\n")
    lab_file.write_text(lab_file.read_text().replace("env:RACKPROOF_BMC_PASSWORD", "age:secrets.age#BMC"))
    told = [
        each.message for each in missing_secrets(load(lab_file, {}), {"RACKPROOF_AGE_IDENTITY": "hunter2"})
    ]
    assert len([message for message in told if "RACKPROOF_AGE_IDENTITY" in message]) == 1
    assert "hunter2" not in str(told)


PAGE = (ROOT / "docs/secrets.md").read_text()


def documented(begin: str) -> str:
    """The commands on the page about secrets from the line that begins so, to the end of its block."""
    block = PAGE[PAGE.index(f"\n    {begin}") + 1 :]
    return "\n".join(line.strip() for line in block.partition("\n\n")[0].splitlines())


@pytest.fixture
def user(tmp_path: Path) -> Callable[..., str]:
    """Runs commands as somebody does who follows the page, in a folder with `labs/hall-3.yaml`."""
    if not shutil.which("age"):
        pytest.skip("needs Debian's package age; ./bootstrap installs it")
    (tmp_path / "labs").mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT), "EDITOR": "sed -i s/one/two/"}

    def type_in(commands: str, typed: str = "", *, status: int = 0) -> str:
        done = subprocess.run(["bash", "-euc", commands], input=typed, cwd=tmp_path, env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
        assert done.returncode == status, done.stdout
        assert "canary" not in done.stdout
        return done.stdout

    return type_in


def test_the_page_about_secrets_can_be_followed(user: Callable[..., str], tmp_path: Path) -> None:
    text = (ROOT / "labs/virtual.yaml").read_text().replace("virtual: true", "virtual: false")
    asked = {
        line.strip().partition(":")[0]: line.strip()
        for line in documented("root_password: age:").splitlines()
    }
    for key, line in asked.items():
        text = re.sub(rf"(?m)^  {key}: .*$", f"  {line}", text, count=1)
    text = text.replace("env:RACKPROOF_VIEWER_PASSWORD", "age:secrets.age#ROOT")
    (tmp_path / "labs/hall-3.yaml").write_text(
        text.replace("env:RACKPROOF_OPERATOR_PASSWORD", "age:secrets.age#ROOT")
    )

    user(documented("mkdir -p ~/.config"))
    user(documented("age --encrypt"), "ROOT=canary-one\nBMC_USER=canary-admin\nBMC_PASSWORD=canary-one\n")
    check = documented("export RACKPROOF_AGE_IDENTITY_FILE")
    assert [line.split()[0] for line in user(check).splitlines()] == ["found"] * 3
    assert "no identity is given" in user(check.splitlines()[1], status=1)
    before = (tmp_path / "labs/secrets.age").read_bytes()
    user(documented("umask 077").replace("/dev/shm", str(tmp_path)))
    assert (tmp_path / "labs/secrets.age").read_bytes() != before
    assert user(check).count("found") == 3
    identity = {"RACKPROOF_AGE_IDENTITY_FILE": str(tmp_path / ".config/rackproof/identity")}
    assert (
        load(tmp_path / "labs/hall-3.yaml", {}).nodes["node1"].root_password.reveal(identity) == "canary-two"
    )


def test_the_page_about_secrets_names_every_kind_and_variable() -> None:
    for word in (*(f"`{kind}:" for kind in KINDS), age.IDENTITY, age.IDENTITY_FILE, "host_keys: made-here"):
        assert word in PAGE
