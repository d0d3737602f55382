"""testinfra's connection to a machine: every command over the one SSH connection that the run has to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from checks import readings
from checks.modules import LabHost
from provision.remote import Output, Remote

Ask = Callable[[Remote, str], Output]
"""How a machine is asked one command."""


class RemoteBackend(BaseBackend):  # type: ignore[misc] # testinfra is not typed
    """Runs testinfra's commands through a Remote."""

    NAME = "rackproof"

    def __init__(self, machine: Remote, ask: Ask) -> None:
        super().__init__(hostname=machine.name)
        self._machine, self._ask = machine, ask

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Run a command; `%s` in it are replaced by the quoted arguments."""
        whole = self.get_command(command, *args)
        output = self._ask(self._machine, whole)
        return self.result(output.rc, whole.encode(), output.stdout, output.stderr)

    def decode(self, data: bytes) -> str:
        """Output is read as UTF-8, so that testinfra need not ask for it; what is none is replaced."""
        return data.decode(errors="replace")


def host_of(machine: Remote, ask: Ask = readings.ask) -> Host:
    """The machine as check authors know it: testinfra's Host."""
    return LabHost(RemoteBackend(machine, ask))
