"""What a Proxmox VE 9.2 node runs to form a cluster, played on the real corosync; standard library only."""
