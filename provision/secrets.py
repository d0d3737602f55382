"""Which secrets a lab needs, and whether they are there."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from provision.errors import InventoryError, Mistake
from provision.inventory import Lab, Secret, SecretMissing, age, load

__all__ = ["Secret", "SecretMissing", "missing_secrets", "references"]

LENGTHS = {
    # The Proxmox installer takes no shorter one (since 8.4.0), the Proxmox API's join call no longer one.
    r".*\.root_password": ("the root password", 8, 128),
    # As the boot service takes them (provision/boot_service/accounts.py).
    r"people\..*\.password": ("the password", 8, 1024),
    r"people\..*\.token": ("the API token", 20, 1024),
}
"""How long secrets may be, by their place."""


def references(lab: Lab) -> Iterator[tuple[str, Secret]]:
    """Every secret of the lab with its place, such as `nodes.node1.bmc.user`."""
    for name, node in lab.nodes.items():
        yield f"nodes.{name}.root_password", node.root_password
        if node.subscription is not None:
            yield f"nodes.{name}.subscription", node.subscription
        yield f"nodes.{name}.bmc.user", node.bmc.user
        yield f"nodes.{name}.bmc.password", node.bmc.password
    for name, token in lab.server.iso_tokens.items():
        yield f"server.iso_tokens.{name}", token
    for name, person in lab.people.items():
        yield f"people.{name}.{person.proof}", person.secret


def revealed(lab: Lab, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What each secret of the lab is called, by its value; a log-in name is none, nor what is not there."""
    found = dict.fromkeys(_identities(lab, env), "age identity")
    for place, secret in references(lab):
        with suppress(SecretMissing):
            if not place.endswith(".user"):
                found[secret.reveal(env)] = secret.reference
    return found


def _identities(lab: Lab, env: Mapping[str, str]) -> list[str]:
    """What opens the lab's files of age, as far as it can be had."""
    with suppress(SecretMissing):
        if any(secret.reference.startswith("age:") for _, secret in references(lab)):
            return age.identities(env)
    return []


def missing_secrets(lab: Lab, env: Mapping[str, str] = os.environ) -> list[Mistake]:
    """One mistake for each secret that is not there, or that cannot be used; never a value."""
    needed: dict[str, list[str]] = {}
    for each in _findings(lab, env):
        if each.wrong:
            needed.setdefault(each.wrong, []).extend(each.places)
    return [Mistake(f"lab {lab.name}", None, _some(places), wrong) for wrong, places in needed.items()]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a secret, and where the lab file needs it."""

    reference: str
    state: Literal["found", "missing", "wrong"]
    wrong: str | None
    places: list[str] = field(default_factory=list)


def _findings(lab: Lab, env: Mapping[str, str]) -> list[Finding]:
    """One for each secret, or more where not all of its places can use it; in the lab file's order."""
    found: dict[tuple[str, str | None], Finding] = {}
    for place, secret in references(lab):
        finding = _finding(place, secret, env)
        found.setdefault((finding.reference, finding.wrong), finding).places.append(place)
    return list(found.values())


def _finding(place: str, secret: Secret, env: Mapping[str, str]) -> Finding:
    try:
        value = secret.reveal(env)
    except SecretMissing as missing:
        return Finding(secret.reference, "missing", missing.message)
    for kind, (what, least, most) in LENGTHS.items():
        if re.fullmatch(kind, place) and not least <= len(value) <= most:
            wrong = f"{what} {secret.reference} must have {least} to {most} characters"
            return Finding(secret.reference, "wrong", wrong)
    return Finding(secret.reference, "found", None)


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{places[0]}{more}"


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """`check LABFILE`: which secrets are found; 0 when a run has all, 1 when not, 4 for a wrong lab file."""
    parser = argparse.ArgumentParser(prog="python -m provision.secrets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say which secrets are found")
    check.add_argument("labfile", type=Path)
    try:
        lab = load(parser.parse_args(arguments).labfile, env)
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 4
    return _report(lab, env)


def _report(lab: Lab, env: Mapping[str, str]) -> int:
    findings = _findings(lab, env)
    widest = max((len(each.reference) for each in findings), default=0)
    for each in findings:
        print(f"{each.state:7}  {each.reference:{widest}}  {_some(each.places)}")
        if each.wrong:
            print(f"         {each.wrong}")
    # A virtual rack invents what it does not find; what it finds, it uses.
    bad = {"wrong"} if lab.virtual else {"wrong", "missing"}
    if lab.virtual and any(each.state == "missing" for each in findings):
        print("what is missing, the virtual rack invents")
    return 1 if any(each.state in bad for each in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
