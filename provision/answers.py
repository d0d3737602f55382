"""The answers that a lab's Proxmox nodes will get, to look at and to judge before anything is touched.

    python -m provision.answers LABFILE [--nodes A,B] [--output DIR]

shows each of them with its secrets struck out, and all that is wrong with it: exit 0 when nothing is, 1 when
something is, 4 when the lab file is wrong. Of secrets only the key of a subscription is read, to judge it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from provision import proxmox_answer
from provision.answer_rules import faults_of_json, faults_of_toml
from provision.answer_tool import objections
from provision.answer_values import Fault
from provision.certificate import Certificate
from provision.errors import InventoryError, LabError, Mistake
from provision.inventory import Lab, Node, Secret, SecretMissing, default_lab_file, load
from provision.permit import Permit
from provision.proxmox_answer import Answer

STRUCK, LATER = "[secret]", "[made by step server]"
SAMPLE_KEY = "pve1c-0123456789"
SAMPLE_HASH = "$6$rounds=5000$sample$" + "." * 86
SAMPLE_CERTIFICATE = Certificate("-----BEGIN CERTIFICATE-----\nc2FtcGxl\n-----END CERTIFICATE-----\n")
HIDDEN = {
    "global": {"root-password-hashed": STRUCK, "subscription-key": STRUCK},
    "post-installation-webhook": {"auth-token": STRUCK, "cert-fingerprint": LATER},
    "first-boot": {"cert-fingerprint": LATER},
}
"""What is shown in place of values that are secret, or not known before the server stands."""


def proxmox_nodes(lab: Lab) -> list[Node]:
    """The nodes that get an answer, in the lab's order."""
    return [node for node in lab.nodes.values() if node.is_proxmox]


def preview(lab: Lab, node: Node) -> Answer:
    """The node's answer as every installer takes it, with samples for what only an install knows."""
    permit = Permit(node, "preview", 0.0, STRUCK, STRUCK, STRUCK, STRUCK)
    return proxmox_answer.answer(lab, permit, SAMPLE_CERTIFICATE, hashed=SAMPLE_HASH)


def preview_json(lab: Lab, node: Node) -> str:
    """The same for installers from 9.2 on."""
    return proxmox_answer.as_json(preview(lab, node), STRUCK, _readable(node.subscription))


def _readable(key: Secret | None) -> Secret | None:
    """The key where it can be read, so that it is judged; else a sample: a missing one is told elsewhere."""
    if key is None:
        return None
    with suppress(SecretMissing):
        return Secret.known(key.reveal())
    return Secret.known(SAMPLE_KEY)


def shown(lab: Lab, node: Node) -> str:
    """The answer as people may read it: TOML, with all that the newest installers get, without a secret.

    What else is to be known about it stands below, as comments.
    """
    answer = json.loads(preview_json(lab, node))
    for name, hidden in HIDDEN.items():
        answer[name] |= {key: word for key, word in hidden.items() if key in answer[name]}
    notes = dict.fromkeys(f"# {fault}\n" for fault in _judged(lab, node) if fault.weight == "note")
    return "".join([proxmox_answer.as_toml(answer), *notes])


def faults(lab: Lab, node: Node) -> list[str]:
    """All that is wrong with the node's answer, traps too, and what the official tool says if it is here.

    Raises LabError when that tool gives no verdict.
    """
    own = [str(fault) for fault in _judged(lab, node) if fault.weight != "note"]
    return list(dict.fromkeys([*own, *objections(proxmox_answer.as_toml(preview(lab, node)))]))


def _judged(lab: Lab, node: Node) -> list[Fault]:
    toml = proxmox_answer.as_toml(preview(lab, node))
    # TOML goes to installers before 9.2, which know less.
    return [*faults_of_toml(toml, (9, 1)), *faults_of_json(preview_json(lab, node))]


def mistakes(lab: Lab, file: Path, only: Sequence[str] | None = None) -> list[Mistake]:
    """One mistake for each fault of an answer; `only` are the names of the nodes that are asked about."""
    asked = [node for node in proxmox_nodes(lab) if only is None or node.name in only]
    return [
        Mistake(str(file), None, f"nodes.{node.name}", f"its answer would be wrong: {fault}")
        for node in asked
        for fault in faults(lab, node)
    ]


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Show and judge the answers of a lab file."""
    options = _parser().parse_args(arguments)
    try:
        lab = load(options.labfile or default_lab_file(env), env)
        only = lab.only(options.nodes.split(",")) if options.nodes else tuple(lab.nodes)
        asked = [node for node in proxmox_nodes(lab) if node.name in only]
        found = [fault for node in asked for fault in _tell(lab, node, options.output)]
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 4
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m provision.answers", description=__doc__)
    parser.add_argument("labfile", type=Path, nargs="?", help="the lab file; default: virtual")
    parser.add_argument("--nodes", metavar="A,B", help="only these nodes")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write NODE.toml there, too")
    return parser


def _tell(lab: Lab, node: Node, folder: Path | None) -> Iterator[str]:
    """Print a node's answer and its faults, and yield these."""
    text = shown(lab, node)
    print(f"# {node.name}\n{text}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{node.name}.toml").write_text(text)
    for fault in faults(lab, node):
        print(f"{node.name}: {fault}", file=sys.stderr)
        yield fault


if __name__ == "__main__":
    sys.exit(main())
