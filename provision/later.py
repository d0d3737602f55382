"""Everything that the steps need, to be imported beside the work of the first machines."""

from provision import ceph, cluster, install, machines, power, server, ssh, templates

__all__ = ["ceph", "cluster", "install", "machines", "power", "server", "ssh", "templates"]
