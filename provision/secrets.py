"""Which secrets a lab needs, whether they are there, and how a password is hashed before it goes anywhere."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from passlib.hash import sha512_crypt

from provision.errors import InventoryError, Mistake
from provision.inventory import Lab, Secret, SecretMissing, load

__all__ = ["Secret", "SecretMissing", "hash_password", "missing_secrets", "references"]

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
    found: dict[str, str] = {}
    for place, secret in references(lab):
        with suppress(SecretMissing):
            if not place.endswith(".user"):
                found[secret.reveal(env)] = secret.reference
    return found


def missing_secrets(lab: Lab, env: Mapping[str, str] = os.environ) -> list[Mistake]:
    """One mistake for each secret that is not there, or that cannot be used; never a value."""
    needed: dict[str, list[str]] = {}
    for place, secret in references(lab):
        if wrong := _wrong(place, secret, env):
            needed.setdefault(wrong, []).append(place)
    return [Mistake(f"lab {lab.name}", None, _some(places), wrong) for wrong, places in needed.items()]


def _wrong(place: str, secret: Secret, env: Mapping[str, str]) -> str | None:
    try:
        value = secret.reveal(env)
    except SecretMissing as missing:
        return missing.message
    for kind, (what, least, most) in LENGTHS.items():
        if re.fullmatch(kind, place) and not least <= len(value) <= most:
            return f"{what} {secret.reference} must have {least} to {most} characters"
    return None


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{places[0]}{more}"


def hash_password(plain: str) -> str:
    """The password as sha512-crypt, `$6$…`, with the rounds that crypt(3) takes unasked."""
    return str(sha512_crypt.using(rounds=5000).hash(plain))


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """`check LABFILE`: which secrets are found; 0 when all are, 1 when not, 4 when the lab file is wrong."""
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
    outcomes = [(place, secret, _wrong(place, secret, env)) for place, secret in references(lab)]
    for place, secret, wrong in outcomes:
        print(f"{place}: {wrong or f'{secret.reference} found'}")
    return 1 if any(wrong for _, _, wrong in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
