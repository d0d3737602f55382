"""testinfra's connection to a machine: every command over the one SSH connection that the run has to it."""

from __future__ import annotations

from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from provision.remote import Remote

SECONDS = 30.0
"""How long a check's command may take: a hung machine fails its check instead of hanging the run."""


class RemoteBackend(BaseBackend):  # type: ignore[misc] # testinfra is not typed
    """Runs testinfra's commands through a Remote."""

    NAME = "rackproof"

    def __init__(self, machine: Remote) -> None:
        super().__init__(hostname=machine.name)
        self._machine = machine

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Run a command; `%s` in it are replaced by the quoted arguments."""
        whole = self.get_command(command, *args)
        output = self._machine.run(whole, timeout=SECONDS)
        return self.result(output.rc, whole.encode(), output.stdout.encode(), output.stderr.encode())

    def get_encoding(self) -> str:
        """Output is read as UTF-8, so that testinfra need not ask for it."""
        return "UTF-8"


def host_of(machine: Remote) -> Host:
    """The machine as check authors know it: testinfra's Host."""
    return Host(RemoteBackend(machine))
