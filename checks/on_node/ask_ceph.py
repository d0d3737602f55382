"""Asks Ceph a list of commands over one connection; run on a node, with python3-rados."""

import json
import sys

import rados  # type: ignore[import-not-found] # what python3-rados brings to the node

CONFIG = "/etc/pve/ceph.conf"
# Seconds, after which a cluster without quorum, or without a manager, counts as silent.
PATIENCE = {"client_mount_timeout": "8", "rados_mon_op_timeout": "6"}


def main(targets: str) -> None:
    """Print what each command was answered; `targets` is JSON: who is asked ("mon", "mgr") by command."""
    with rados.Rados(conffile=CONFIG, name="client.admin", conf=PATIENCE) as cluster:
        asks = {"mon": cluster.mon_command, "mgr": cluster.mgr_command}
        answers = {prefix: answer(asks[target], prefix) for prefix, target in json.loads(targets).items()}
    print(json.dumps(answers))


def answer(ask: "rados.Rados", prefix: str) -> "dict[str, object]":
    """A command's return code, what was said beside the answer, and the answer itself."""
    try:
        code, output, said = ask(json.dumps({"prefix": prefix, "format": "json"}), b"")
    except rados.Error as error:
        return {"code": error.errno, "said": "", "answer": None}
    return {"code": code, "said": said, "answer": json.loads(output) if code == 0 else None}


main(*sys.argv[1:])
