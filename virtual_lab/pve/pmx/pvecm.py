"""The command pvecm."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import formation, keys
from .apiclient import PinnedConnection, WrongCertificate
from .cluster import CONF, read_conf
from .corosync import MAX_LINK
from .errors import Failure
from .schema import ParameterError, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its failure is said on stderr and makes the exit code 255."""
    options = _parser().parse_args(arguments)
    try:
        options.action(options)
    except ParameterError as wrong:
        print("400 Parameter verification failed.", file=sys.stderr)
        print("\n".join(f"{name}: {text}" for name, text in wrong.errors.items()), file=sys.stderr)
        return 255
    except Failure as failed:
        print(failed.message.rstrip("\n"), file=sys.stderr)
        return 255
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pvecm")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, action: Callable[[argparse.Namespace], None], *words: str
    ) -> argparse.ArgumentParser:
        below = commands.add_parser(name)
        for word in words:
            below.add_argument(word)
        below.set_defaults(action=action)
        return below

    _complete_create(command("create", _create, "clustername"))
    _complete_add(command("add", _add, "hostname"))
    command("status", lambda _: _quorumtool("-siH", header=True))
    command("nodes", lambda _: _quorumtool("-l"))
    command("expected", lambda options: _quorumtool("-e", options.votes), "votes")
    command("delnode", lambda options: formation.let_go(options.node), "node")
    command("apiver", lambda _: print(formation.JOIN_API_VERSION))
    update = command("updatecerts", _update)
    for flag in ("--force", "--silent", "--unmerge-known-hosts"):
        update.add_argument(flag, nargs="?", const="1")
    return parser


def _complete_create(create: argparse.ArgumentParser) -> None:
    _add_join_options(create)
    create.add_argument("--token-coefficient")


def _complete_add(add: argparse.ArgumentParser) -> None:
    _add_join_options(add)
    add.add_argument("--fingerprint")
    for flag in ("--use_ssh", "--force"):
        add.add_argument(flag, nargs="?", const="1")


def _add_join_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodeid")
    parser.add_argument("--votes")
    for number in range(MAX_LINK + 1):
        parser.add_argument(f"--link{number}")


def _checked(path: str, options: argparse.Namespace, **more: str) -> dict[str, Any]:
    """The command's parameters, by the rules of the API call that does the same."""
    from . import api, router  # noqa: F401, PLC0415  # api offers the calls; only create and add need them

    rules = router.find("POST", path)[0].rules
    given = {name: getattr(options, name.replace("-", "_"), None) for name in rules}
    return verify({**{name: str(value) for name, value in given.items() if value is not None}, **more}, rules)


def _create(options: argparse.Namespace) -> None:
    from .tasks import run_here  # noqa: PLC0415

    params = _checked("/cluster/config", options)
    formation.refuse_second_cluster()
    run_here("clustercreate", params["clustername"], lambda: formation.create(params))


def _add(options: argparse.Namespace) -> None:
    from .tasks import run_here  # noqa: PLC0415

    if keys.in_cluster_file_system(os.getcwd()):  # noqa: PTH109
        raise Failure("Navigate out of /etc/pve before running 'pvecm add', for example by running 'cd'.")
    if options.use_ssh:
        raise Failure("the played node joins over the API only: leave --use_ssh out")
    found = _fingerprint(options)
    password = getpass.getpass(f"Please enter superuser (root) password for '{options.hostname}': ")
    params = _checked("/cluster/config/join", options, fingerprint=found, password=password)
    run_here("clusterjoin", "", lambda: formation.join(params))


def _fingerprint(options: argparse.Namespace) -> str:
    if options.fingerprint:
        return str(options.fingerprint)
    try:
        PinnedConnection(options.hostname, None).connect()
    except OSError as error:
        raise Failure(f"500 Can't connect to {options.hostname}:8006 ({error.strerror or error})") from None
    except WrongCertificate as shown:
        found = str(shown)
    print(f"The authenticity of host '{options.hostname}' can't be established.")
    print(f"X509 SHA256 key fingerprint is {found}.")
    if input("Are you sure you want to continue connecting (yes/no)? ") != "yes":
        raise Failure(f"fingerprint '{found}' not verified, abort!")
    return found


def _update(options: argparse.Namespace) -> None:
    formation.update_certificates(
        force=options.force == "1", silent=options.silent == "1", unmerge=options.unmerge_known_hosts == "1"
    )


def _quorumtool(*words: str, header: bool = False) -> None:
    conf = read_conf()
    if conf is None:
        raise Failure(f"Error: Corosync config '{CONF}' does not exist - is this node part of a cluster?")
    if header:
        totem = {"config_version": -1, "transport": "knet", "secauth": "off", **conf.totem}
        labels = {"Name": "cluster_name", "Config Version": "config_version", "Transport": "transport"}
        rows = {label: totem[key] for label, key in {**labels, "Secure auth": "secauth"}.items()}
        print("Cluster information\n-------------------")
        for label, value in rows.items():
            print(f"{label + ':':<17} {value}")
        print(flush=True)
    os.execvp("corosync-quorumtool", ["corosync-quorumtool", *words])  # noqa: S606
