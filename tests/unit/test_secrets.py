"""A secret is read when it is asked for, from where only its owner can read it, and is shown nowhere."""

from pathlib import Path

import pytest

from provision.errors import LabError
from provision.inventory import load
from provision.inventory.secret import INLINE
from provision.secrets import Secret, SecretMissing, main, missing_secrets, references

ROOT = Path(__file__).parents[2]
LAB = ROOT / "labs" / "virtual.yaml"
ENV = {
    "RACKPROOF_BMC_USER": "admin",
    "RACKPROOF_BMC_PASSWORD": "canary-bmc",
    "RACKPROOF_ROOT_PASSWORD": "canary-root",
    "RACKPROOF_VIEWER_PASSWORD": "canary-viewer",
    "RACKPROOF_OPERATOR_PASSWORD": "canary-operator",
}


def kept(folder: Path, content: bytes = b"hunter2\n", mode: int = 0o600) -> Secret:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return Secret.from_reference(f"file:{path}")


def test_a_variable_is_read_at_each_call() -> None:
    secret, env = Secret.from_reference("env:NAME"), {"NAME": "one"}
    assert secret.reveal(env) == "one"
    env["NAME"] = "two"
    assert secret.reveal(env) == "two"
    with pytest.raises(SecretMissing, match="env:NAME is not set"):
        secret.reveal({})
    with pytest.raises(LabError, match="env:NAME is empty"):
        secret.reveal({"NAME": ""})


@pytest.mark.parametrize("content", [b"hunter2\n", b"hunter2", b"hunter2\r\n"])
def test_a_file_without_its_line_end(content: bytes, tmp_path: Path) -> None:
    assert kept(tmp_path, content).reveal() == "hunter2"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o610])
def test_a_file_of_others_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(SecretMissing, match="can be read by others; chmod 600") as caught:
        kept(tmp_path, mode=mode).reveal()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\nhunter2\n", "one line of printable text"),
        (b"hunter2\x00", "one line of printable text"),
        (b"hunter2\xff", "is not UTF-8 text"),
        (b"hunter2" * 20000, "is not a small regular file"),
    ],
)
def test_a_file_that_holds_no_secret(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(SecretMissing, match=said) as caught:
        kept(tmp_path, content).reveal()
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SecretMissing, match="cannot be read: No such file"):
        Secret.from_reference("file:none", base=tmp_path).reveal()
    with pytest.raises(SecretMissing, match="cannot be read: Is a directory"):
        Secret.from_reference(f"file:{tmp_path}").reveal()


@pytest.mark.parametrize("reference", ["hunter2", "", "FILE:/x", "known", "systemd:x"])
def test_what_is_no_reference(reference: str) -> None:
    with pytest.raises(ValueError, match="must not stand in the lab file") as caught:
        Secret.from_reference(reference)
    assert "hunter2" not in str(caught.value)
    assert all(f"({kind})" in INLINE for kind in ("file:PATH", "env:NAME", "age:PATH", "systemd-cred:NAME"))


@pytest.mark.parametrize(
    "reference",
    [
        "env:", "env:a b", "env:1A", "file:", "file: ", "age:", "age:#KEY", "age:x#", "age:x#two words", "age:x#1",
        "systemd-cred:", "systemd-cred:../shadow", "systemd-cred:/etc/shadow", "systemd-cred:.", "systemd-cred:..",
        "systemd-cred:a/b", "systemd-cred:a:b", "systemd-cred:a\nb", "systemd-cred:" + "a" * 256,
    ],
)  # fmt: skip
def test_a_reference_to_no_place(reference: str) -> None:
    kind, _, place = reference.partition(":")
    with pytest.raises(ValueError, match=f"^after {kind}: must stand ") as caught:
        Secret.from_reference(reference)
    assert len(place) < 3 or place not in str(caught.value)


def test_a_secret_shows_its_reference_only() -> None:
    secret = Secret.known("hunter2", reference="the virtual rack")
    assert secret.reveal({}) == "hunter2"
    assert (
        f"{secret} {secret!r} {[secret]}"
        == "Secret(the virtual rack) Secret(the virtual rack) [Secret(the virtual rack)]"
    )
    assert secret != Secret.known("other", reference="the virtual rack")


def test_a_lab_shows_no_value() -> None:
    lab = load(LAB, {})
    node = lab.nodes["node1"].model_copy(update={"root_password": Secret.known("hunter2")})
    lab = lab.model_copy(update={"nodes": {**lab.nodes, "node1": node}})
    assert "hunter2" not in f"{lab!r} {lab} {lab.model_dump()} {lab.model_dump_json()}"
    assert lab.nodes["node1"].root_password.reveal() == "hunter2"


def test_missing_secrets_are_named_once() -> None:
    lab = load(LAB, {})
    assert missing_secrets(lab, ENV) == []
    told = [str(mistake) for mistake in missing_secrets(lab, {**ENV, "RACKPROOF_BMC_PASSWORD": ""})]
    assert told == [
        "lab virtual: nodes.node1.bmc.password and 3 more: the secret env:RACKPROOF_BMC_PASSWORD is empty"
    ]
    assert len(missing_secrets(lab, {})) == 5


@pytest.mark.parametrize("password", ["seven77", "x" * 129])
def test_a_root_password_that_proxmox_refuses(password: str) -> None:
    told = str(missing_secrets(load(LAB, {}), {**ENV, "RACKPROOF_ROOT_PASSWORD": password})[0])
    assert "must have 8 to 128 characters" in told
    assert password not in told


def test_references_name_every_secret() -> None:
    places = [place for place, _ in references(load(LAB, {}))]
    assert len(places) == 14
    assert places[-2:] == ["people.viewer.password", "people.operator.password"]
    assert places[:3] == ["nodes.node1.root_password", "nodes.node1.bmc.user", "nodes.node1.bmc.password"]


def real(folder: Path) -> Path:
    """The default lab as one on metal, which invents nothing."""
    path = folder / "lab.yaml"
    path.write_text(LAB.read_text().replace("virtual: true", "virtual: false"))
    return path


def test_check_says_what_is_found_and_never_a_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(real(tmp_path))], ENV) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 5, "one line for each secret, wherever it is needed"
    assert "found    env:RACKPROOF_BMC_PASSWORD       nodes.node1.bmc.password and 3 more" in out.splitlines()
    assert main(["check", str(real(tmp_path))], {**ENV, "RACKPROOF_BMC_USER": ""}) == 1
    out += capsys.readouterr().out
    assert "missing  env:RACKPROOF_BMC_USER           nodes.node1.bmc.user and 3 more" in out.splitlines()
    assert "         the secret env:RACKPROOF_BMC_USER is empty" in out.splitlines()
    assert main(["check", str(real(tmp_path))], {**ENV, "RACKPROOF_ROOT_PASSWORD": "canary"}) == 1
    out += capsys.readouterr().out
    assert (
        "wrong    env:RACKPROOF_ROOT_PASSWORD      nodes.node1.root_password and 3 more" in out.splitlines()
    )
    assert "canary" not in out


def test_check_of_a_virtual_lab_misses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(LAB)], {}) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "what is missing, the virtual rack invents"
    assert main(["check", str(LAB)], {"RACKPROOF_ROOT_PASSWORD": "canary"}) == 1
    assert "canary" not in capsys.readouterr().out


def test_check_of_a_wrong_lab_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "none.yaml")], ENV) == 4
    assert "No such file" in capsys.readouterr().err
