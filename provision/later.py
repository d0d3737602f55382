"""Everything that the steps need, to be imported beside the work of the first machines."""

from provision import cluster, install, machines, power, server, ssh

__all__ = ["cluster", "install", "machines", "power", "server", "ssh"]
