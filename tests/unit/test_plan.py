"""What `--plan` shows of the server step: every file as a diff, and no secret."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision import server_plan
from provision.certificate import UNMADE
from provision.inventory import Lab
from provision.remote import Output, Stdin
from provision.server_diff import apts_own, diffs, summary
from provision.server_facts import Facts, OnDisk, Unit
from provision.server_media import Delivery
from provision.server_plan import File, Part
from provision.server_survey import Survey
from tests.unit.test_server_templates import LAB_FILE, Script, _secrets, facts, lab

__all__ = ["_secrets", "facts", "lab"]

OLD_SECRET = "5e" * 32


class Kept(Script):
    """A machine with one text in every file."""

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        if "cat -- " in command:
            self.commands.append(command)
            return Output(0, b"one\ntwo\n", b"")
        return super().execute(command, stdin, timeout)


def found(lab: Lab, facts: Facts, *parts: Part) -> Survey:
    wanted = parts or server_plan.parts(lab, facts, UNMADE)
    return Survey(replace(facts, missing=("chrony",)), UNMADE, {}, wanted)


def on(facts: Facts, **files: OnDisk) -> Facts:
    return replace(facts, files={f"/etc/{name}": file for name, file in files.items()})


def shown(facts: Facts, *files: File) -> list[str]:
    part = Part("one", "unit-one", files, test="true")
    return list(diffs(Kept(), Survey(facts, UNMADE, {}, (part,))))


def test_a_changed_file_is_a_unified_diff_of_what_is_there(facts: Facts) -> None:
    before = on(facts, one=OnDisk("1" * 64, "600", "root:root"))
    assert shown(before, File("/etc/one", b"one\nthree\n")) == [
        "--- /etc/one\t600 root:root", "+++ /etc/one\t644 root:root", "@@ -1,2 +1,2 @@", " one", "-two", "+three",
    ]  # fmt: skip


def test_of_a_file_with_another_mode_that_is_all(facts: Facts) -> None:
    file = File("/etc/one", b"one\ntwo\n", 0o400)
    before = on(facts, one=OnDisk(file.sha256, "644", "root:root"))
    assert shown(before, file) == ["--- /etc/one\t644 root:root", "+++ /etc/one\t400 root:root"]


def test_what_stands_is_not_shown(facts: Facts) -> None:
    file = File("/etc/one", b"one\ntwo\n")
    stands = on(facts, one=OnDisk(file.sha256, "644", "root:root"))
    assert shown(stands, file) == []


def test_a_secret_file_is_not_even_read(facts: Facts) -> None:
    secret = File("/etc/secret", b"hush", 0o400, secret=True)
    naming = File("/etc/unit", f"new {secret.sha256}\n".encode())
    before = on(
        facts, secret=OnDisk(OLD_SECRET, "400", "root:root"), unit=OnDisk("1" * 64, "644", "root:root")
    )
    text = "\n".join(shown(before, secret, naming))
    assert "hush" not in text
    assert secret.sha256 not in text
    assert "+new (that of the new file)" in text
    assert "/etc/secret\t400 root:root (4 bytes, not shown: they may hold secrets)" in text


def test_what_is_no_text_is_told(facts: Facts) -> None:
    assert shown(facts, File("/etc/one", b"\xff\x00"))[-1] == "(its content is no text)"


def test_the_whole_change_of_the_default_lab_holds_no_secret(lab: Lab, facts: Facts) -> None:
    survey = found(lab, facts)
    text = "\n".join([*diffs(Kept(), survey), *summary(lab, survey).values()])
    assert "canary-" not in text
    assert UNMADE.fingerprint in text
    for part in survey.parts:
        for file in part.files:
            assert f"+++ {file.path}\t" in text
            assert file.sha256 not in text
    assert f"{server_plan.SOURCE}/provision/__init__.py\t644 root:root (" in text


def test_what_apt_does_besides_is_told(lab: Lab, facts: Facts) -> None:
    said = "Remv systemd-timesyncd [257]\nInst libedit2 (3.1 Debian)\nInst chrony (4.6 Debian)\nConf chrony (4.6)\n"
    machine = Script(said={"apt-get -s": said})
    assert list(apts_own(machine, found(lab, facts))) == ["with it: libedit2", "remove: systemd-timesyncd"]
    assert list(apts_own(Script(), replace(found(lab, facts), facts=facts, parts=()))) == []


def test_each_part_says_its_commands(lab: Lab, facts: Facts) -> None:
    running = replace(facts, units={"chrony": Unit("active", "enabled")})
    said = summary(lab, found(lab, running))
    assert said["clock"] == "1 file, systemctl restart chrony"
    assert said["NAT"].startswith("3 files, sysctl -q -p /etc/sysctl.d/60-rackproof.conf, systemctl restart ")
    assert said["NAT"].endswith("systemctl enable rackproof-nftables")
    assert said["packages"] == "apt-get install chrony"


@pytest.mark.parametrize(("requirements", "packages"), [("other", ("python3-pip",)), (None, ())])
def test_pip_is_installed_only_for_what_it_has_to_install(
    lab: Lab, facts: Facts, requirements: str | None, packages: tuple[str, ...]
) -> None:
    digest = requirements or server_plan.requirements_digest()
    survey = found(lab, facts)
    bare = replace(survey, facts=replace(facts, missing=("python3-pip",), requirements=digest))
    assert bare.packages == packages


@pytest.mark.parametrize("whole", [True, False])
def test_a_medium_with_another_time_alone_is_no_change(lab: Lab, facts: Facts, whole: bool) -> None:
    delivery = Delivery("/srv/rackproof/http/proxmox-9/vmlinuz", LAB_FILE, whole=whole)
    survey = replace(found(lab, facts), media={"proxmox-9": [delivery]})
    assert survey.changes["media proxmox-9"] is not whole
