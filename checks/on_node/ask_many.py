"""Runs commands, a few at a time, each as sshd would have run it alone; run on a node.

Is told by JSON the `commands`, and how many `seconds` all of them may take. Prints a JSON list with what each
left: return code (negative for a signal), output and errors in base64; null of one that was not done.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time

AT_ONCE = 4
# What the shell around this script has added to the environment, and every command's own shell adds again.
OF_THE_SHELL = ("PWD", "OLDPWD", "SHLVL", "_")


def main(order: str) -> None:
    """Ask all, some in each of a few threads."""
    asked = json.loads(order)
    waiting = list(enumerate(asked["commands"]))[::-1]
    answers: list[object] = [None] * len(waiting)
    deadline = time.monotonic() + asked["seconds"]

    def work() -> None:
        while waiting and time.monotonic() < deadline:
            try:
                number, command = waiting.pop()
            except IndexError:
                return
            answers[number] = answer(command, deadline)

    threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(answers, sys.stdout)


def answer(command: str, deadline: float) -> "tuple[int, str, str] | None":
    """What a command left; None, and its whole process group is killed, when it is not done in time."""
    environment = own_environment()
    shell = environment.get("SHELL", "/bin/sh")
    process = subprocess.Popen([shell, "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment, start_new_session=True)  # fmt: skip
    try:
        output, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    return process.returncode, base64.b64encode(output).decode(), base64.b64encode(errors).decode()


def own_environment() -> "dict[str, str]":
    """The environment that sshd gave; the interpreter's own may have a locale that it chose by itself."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 (less to import on the node)
        pairs = (pair.partition(b"=") for pair in file.read().split(b"\0") if pair)
        given = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    return {name: value for name, value in given.items() if name not in OF_THE_SHELL}


main(*sys.argv[1:])
