"""Faults for the checks of the first boot's parts, planted by test_every_check_can_fail.py with those of its own."""

from __future__ import annotations

from tests.lab.planting import edited, run

SOURCES = "/etc/apt/sources.list.d"
GOVERNED = "/root/fault/cpu0/cpufreq"
NVME = "/sys/block/nvme9n1"

FAULTS = [
    run("another clock", "node1", "echo 'server 192.0.2.1' >/etc/chrony/sources.d/rackproof.sources && chronyc reload sources",
        "echo 'server 10.10.1.1 iburst prefer' >/etc/chrony/sources.d/rackproof.sources && chronyc reload sources",
        r"clock::test_clock_follows_the_server\[node1\]",
        r"clock::test_clock_follows_the_server_after_a_restart\[node1\]"),
    edited("a repository that wants a subscription", "node1", f"{SOURCES}/pve-enterprise.sources", "/^Enabled/d",
           r"repositories::test_proxmox_repository_is_the_one_asked_for\[node1\]"),
    edited("Ceph from one that wants a subscription", "node2", f"{SOURCES}/ceph.sources", "/^Enabled/d; s/no-subscription/enterprise/",
           r"repositories::test_ceph_repository_needs_no_subscription_that_is_not_there\[node2\]"),
    run("a package is missing", "node3", "cp -p /var/lib/dpkg/status /root/kept-status"
        " && sed -i '/^Package: jq$/,/^Status/s/^Status: .*/Status: deinstall ok config-files/' /var/lib/dpkg/status",
        "mv /root/kept-status /var/lib/dpkg/status", r"repositories::test_packages_are_installed\[node3\]"),
    run("a kernel setting of its own", "node1", "sysctl -qw net.ipv4.tcp_mtu_probing=0",
        "sysctl -qw net.ipv4.tcp_mtu_probing=1", r"tuning::test_kernel_settings\[node1\]"),
    run("a kernel setting that is overridden", "node2", "echo 'net/ipv4/tcp_mtu_probing=0' >/etc/sysctl.d/99-zz-fault.conf",
        "rm /etc/sysctl.d/99-zz-fault.conf", r"tuning::test_kernel_settings_after_a_restart\[node2\]"),
    run("a NIC that cuts no segments", "node3", "ethtool -K eno3 tso off", "ethtool -K eno3 tso on",
        r"tuning::test_nics_are_tuned\[node3\]"),
    run("NICs that are not tuned at the start", "node4", "systemctl -q disable rackproof-nics",
        "systemctl -q enable rackproof-nics", r"tuning::test_nics_are_tuned_after_a_restart\[node4\]"),
    run("a CPU that saves power", "node1", f"mkdir -p {GOVERNED} && echo powersave >{GOVERNED}/scaling_governor"
        " && mount --bind /root/fault /sys/devices/system/cpu", "umount /sys/devices/system/cpu && rm -r /root/fault",
        r"tuning::test_governor\[node1\]"),
    edited("another governor after a restart", "node2", "/etc/systemd/system/rackproof-governor.service",
           "s/echo performance/echo powersave/", r"tuning::test_governor_after_a_restart\[node2\]",
           after="systemctl daemon-reload"),
    run("an NVMe disk with another scheduler", "node3", f"mkdir -p {NVME}/queue && echo '[kyber] none' >{NVME}/queue/scheduler",
        f"rm -r {NVME}", r"tuning::test_nvme_queues\[node3\]"),
    edited("another scheduler after a restart", "node4", "/etc/udev/rules.d/90-rackproof-nvme.rules",
           's/="none"/="kyber"/', r"tuning::test_nvme_queues_after_a_restart\[node4\]"),
    edited("a larger cache of ZFS", "node1", "/etc/modprobe.d/zz-rackproof-zfs.conf", "s/max=/max=9/",
           r"tuning::test_zfs_arc_limit\[node1\]"),
    run("a boot loader that knows of no IOMMU", "node2", "echo root=ZFS=rpool/ROOT/pve-1 >/etc/kernel/cmdline",
        "rm /etc/kernel/cmdline", r"tuning::test_iommu_is_asked_of_the_next_start\[node2\]"),
    edited("a firewall that is off and lets others in", "node1", "/etc/pve/firewall/cluster.fw",
           "s/enable: 1/enable: 0/; /10.10.2.0/a IN ACCEPT -source 192.0.2.0/24",
           r"firewall::test_firewall_is_on\[node[1-4]\]", r"firewall::test_firewall_lets_the_lab_in\[node[1-4]\]"),
    run("an exporter that is not started at boot", "node3", "systemctl -q disable prometheus-node-exporter",
        "systemctl -q enable prometheus-node-exporter", r"node_exporter::test_exporter_runs\[node3\]"),
    edited("an exporter that speaks on all networks", "node4", "/etc/default/prometheus-node-exporter",
           "s/=10.10.1.24:/=:/", r"node_exporter::test_exporter_speaks_on_management_alone\[node4\]",
           after="systemctl restart prometheus-node-exporter"),
    edited("a backup that is off", "node2", "/etc/pve/jobs.cfg", "s/enabled 1/enabled 0/",
           r"backup::test_backup_job\[node[1-4]\]"),
]  # fmt: skip
