"""The judge of what only reads: what passes, what does not, and that a shell runs nothing else of what passes."""

from __future__ import annotations

import json
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checks import ceph_facts, probe
from checks.backend import host_of
from provision import certificate, diagnose, pve, read_only
from provision.errors import WriteRefused
from provision.read_only import programs
from provision.read_only.shell import UNKNOWN
from provision.remote import WRITE, LocalRemote, script
from tests.unit.test_suite import LAB, run_pytest

CHECKS = "tests/lab/checks_that_write.py"

READS = [
    "cat /etc/hosts",
    "/usr/bin/cat -- /etc/hosts",
    "'c'at x; c\\at y",
    "cat a || cat b && ! cat c | head -n 3 | sort -u",
    "cat x 2>/dev/null >/dev/null 2>&1 </etc/hosts",
    "cat x  # rm -r /",
    "# nothing at all",
    "if [ -s /etc/x ]; then cat /etc/x; elif test -e y\nthen cat y; else false; fi",
    'for each in /proc/sys/*; do [ ! -w "$each" ] || printf "%s=%s\\n" "$each" "$(cat "$each")"; done',
    "for each; do echo \"$each\"; done",
    "while read -r line; do echo \"$line\"; done </etc/hosts",
    "found=$(ls /); LC_ALL=C sort; echo \"$found ${found} $? $1\"",
    "(cat x; { cat y; }) 2>&1 | grep -c z",
    "echo 'rm x' \"rm y\" rm\\ z",
    "sh -c 'cat \"$1\"' name /etc/hosts",
    "timeout 10 sh -c 'ip -br address | cat' </dev/null",
    ". /etc/os-release; echo \"$ID-$VERSION_ID\"",
    "ip -j addr show", "ip -j -4 route show default dev eno1", "ip -br address", "ip -s neigh",
    "systemctl show --property=A -p B chrony", "systemctl --failed --no-pager", "systemctl is-active -- nginx",
    "ceph -s", "ceph osd tree -f json", "qm config 9000", "pvecm status", "chronyc -n sources",
    "ss -Hltn 'sport = :9100'", "nft list table inet rackproof", "sysctl -n net.ipv4.ip_forward",
    "journalctl -u 'ceph*' -b -n 60 --no-pager", "find /etc -xdev -type f -name '*.conf' -print0",
    "sed -n '1,/^$/p' /etc/x", "sed 's/^/cmdline: /' /etc/kernel/cmdline", "ethtool -k eno1", "date -u +%s",
    "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n'", "command -v ip", "env -0", "hostname -f",
    "curl -fsS --max-time 10 http://10.10.1.1/grub/grub.cfg | md5sum",
    "curl -sS -o /dev/null -w '%{http_code}' https://10.10.1.1/boot/x",
    "curl -X POST -d '{}' https://10.10.1.1/answer/made-up-by-a-check",
    "ssh -o BatchMode=yes -o UserKnownHostsFile=/etc/x root@10.10.1.21 hostname",
    "ping -4 -n -c 1 -W 0.05 -M do -I 10.10.1.21 -s 1473 10.10.1.22",
    certificate.SHOW.format(address="10.10.1.1:443"), pve.FINGERPRINT_COMMAND, f"cat x || {{ {probe.NETPLAN}; }}",
    "openssl x509 -noout -fingerprint -sha256 -in /etc/x.pem",
]  # fmt: skip

WRITES = [
    "rm x", "cat x; rm y", "cat x\nrm y", "cat x && rm y", "cat x | rm y", "cat x || rm y", "cat x & rm y", "! rm x",
    "echo $(rm x)", 'echo "$(rm x)"', "echo `rm x`", 'echo "`rm x`"', "x=$(rm y)", "cat $(echo $(rm x))",
    "cat <$(rm x)", "for x in $(rm y); do cat z; done", "if rm x; then cat y; fi", "if cat x; then cat y; else rm z; fi",
    "while rm x; do cat y; done", "(cat x; rm y)", "{ cat x; rm y; }", "cat x # y\nrm z", "cat x #\\\nrm y",
    "r'm' x", "r\\m x", "\"rm\" x", "/bin/rm x", "../cat x", "/tmp/cat x", "r\\\nm x", "$x y", "$(echo rm) x", "c?t x",
    "\\rm x", "command rm x", "command rm -v x", "env rm x", "exec rm x", "eval 'rm x'", "builtin cd x", "nohup rm x",
    "time rm x", "sudo rm x", "nice rm x", "timeout 5 rm x", "timeout 5", "xargs rm", "cat x | xargs rm", "busybox rm x",
    "sh -c 'rm x'", "sh -c 'cat x; rm y'", "sh -c \"$x\"", "sh x", "sh", "cat x | sh", "cat x | sh -s", "bash -s <x",
    "sh -s", "sh -ec 'rm x'", "bash --rcfile x -c 'cat y'", "timeout 5 sh -s", "sh -c 'sh -s'", "python3 -", "python3 x",
    "python3 -c 'import os'", "perl -e 1", "awk 'BEGIN{system(\"rm x\")}'", "awk 1 x", "tee x", "dd of=x", "cp x y",
    "touch x", "mkdir x", "mv x y", "ln -s x y", "chmod 600 x", "install x y", "truncate -s 0 x", "mktemp", "sync",
    "echo x >y", "echo x >>y", "echo x >|y", "echo x &>y", "echo x >&y", "echo x &>/dev/null", "cat <>x", "echo x >$y",
    "echo x >\"$y\"", ">x", "cat <<E\nx\nE\n", "cat <<<x", "cat <(rm x)", "echo x > >(rm y)", "echo x >/dev/nul?",
    "echo x >/dev/null/../sda", "exec 3<>x", "if cat x; then cat y; fi >z", "{ cat x; } >y", "(cat x) >y",
    "cat() { rm x; }; cat", "function cat { rm x; }", "alias cat=rm", "cat () (rm x)", "PATH=/tmp cat x",
    "LD_PRELOAD=x cat y", "IFS=x; cat y", "BASH_ENV=x bash -c 'cat y'", "for PATH in /tmp; do cat x; done", "read PATH",
    "read 'a[$(rm x)]'", "printf -v PATH /tmp", "printf \"$x\" y", "export PATH=/tmp", "declare x", "trap 'rm x' EXIT",
    "[ -v 'a[$(rm x)]' ]", "test -R x", "[[ -e x ]]", "((x=1))", "echo $((x))", "echo $[x]", "echo $'\\n'", "echo $\"x\"",
    "echo ${x:=y}", "echo ${x@P}", "a=(x)", "a[0]=x", "case x in x) cat y;; esac", "select x in y; do cat z; done",
    "coproc cat", "cat x;;", "cat 'x", "cat \"x", "cat x \\", "cat $(cat x", "{ cat x", "if cat x; then", "echo )", ";",
    "&& cat x", "cat x |& cat", "cat \"$\\\n(rm x)\"", "echo \"$\\\nx\"", f"cat {UNKNOWN}", "((" * 2000, "$(" * 2000,
    "find / -delete", "find / -exec rm {} \\;", "find / -execdir rm {} +", "find / -ok rm {} \\;", "find / -fprint x",
    "find / $x", "find / \"$x\"", "find / *", "find / {x,-delete}", "find / -name $x", "find / \"-$x\"", "find / ~ -fls x",
    "sed -i s/x/y/ z", "sed -ni p x", "sed --in-place p x", "sed 'w x' y", "sed 's/x/y/w z' a", "sed 's/x/rm/e' y",
    "sed 'e rm x' y", "sed -n 1e x", "sed -f x y", "sed 'p;w x' y", "sed 's/x/y/;e' z", "sed \"s/x/$y/\" z", "sed \"$x\" y",
    "sed 's/a\\/w x/b' c", "sed 's,x,y,e' z", "sed -e p -e 'w x' y", "sort -o x y", "sort -ro x y", "sort --output=x y",
    "sort --compress-program=rm x", "uniq x y", "xxd x y", "ip link set eno1 down", "ip addr add 10.0.0.1/8 dev eno1",
    "ip route del default", "ip -b x", "ip -batch x", "ip netns exec x rm y", "ip l s eno1 down", "bridge link set dev x",
    "systemctl restart nginx", "systemctl -p show restart nginx", "systemctl stop x --failed", "systemctl $x nginx",
    "systemctl \"show\" --now", "systemctl daemon-reload", "systemctl set-property x y", "systemctl edit x",
    "journalctl --vacuum-size=1", "journalctl --rotate", "journalctl --cursor-file=x", "ceph osd out 1", "ceph -s -o x",
    "ceph osd pool set rbd size 1", "ceph osd pool delete rbd", "ceph tell mon.x injectargs y", "ceph mon rm x",
    "qm start 1", "qm config 1 --x", "qm set 1", "pct exec 1 rm", "pvesh set /x", "pvesh create /x", "pvecm add x",
    "pvesm set x", "pvesm free x", "rbd rm x", "rbd create x", "rados put x y", "rados rm x", "lvchange x", "lvs --config x",
    "nft flush ruleset", "nft list ruleset ';' flush ruleset", "nft 'list ruleset; flush ruleset'", "nft -f x",
    "iptables -F", "iptables -L -Z", "sysctl -w x=1", "sysctl x=1", "sysctl -p", "hostname x", "hostname -F x",
    "hostnamectl hostname x", "date -s x", "date 01010101", "timedatectl set-time x", "resolvectl dns eno1 8.8.8.8",
    "chronyc makestep", "modprobe zfs", "modprobe zfs -r", "dmesg -c", "mount x y", "umount x", "netplan apply",
    "netplan set x", "networkctl down x", "ethtool -K eno1 rx on", "ethtool -s eno1 speed 10", "ethtool -G eno1 rx 1",
    "smartctl -t short x", "nvme format x", "zpool status -c x", "zfs destroy x", "ss -K dst x", "ss -D x", "dpkg -i x",
    "dpkg --compare-versions 1 lt 2", "apt-get update", "apt-mark hold x", "numactl -H rm", "corosync-cfgtool -R",
    "corosync-cmapctl -s x u8 1", "service nginx restart", "blockdev --setro x", "blockdev --rereadpt x", "corosync-quorumtool -e 1", "openssl x509 -in x -out y", "openssl s_client -connect x",
    "openssl s_client -connect x <y -quiet", "openssl enc x", "ping -f x", "dmidecode --dump-bin x", "env -i rm", "set -o x",
    "env x=y", ". x", ". $x", "source /etc/os-release", ". /etc/os-release x", "efibootmgr -n 1", "kill 1", "reboot",
    "curl -X POST http://x/", "curl -d x http://x/", "curl --data x http://x/", "curl -XDELETE http://x/", "curl -T x http://x/",
    "curl -o x http://x/", "curl -O http://x/x", "curl -sSo x http://x/", "curl --output x http://x/", "curl -K x",
    "curl -F x=y http://x/", "curl --json x http://x/", "curl -c x http://x/", "curl -D x http://x/", "curl http://x/user-data",
    "curl -w '%output{x}' http://x/", "curl ftp://x/", "curl x", "curl $x", "curl http://\"$x\"", "curl -G", "curl",
    "curl -H 'X-HTTP-Method-Override: DELETE' http://x/", "curl -d x http://x/answer/made-up-by-a-check http://x/",
    "curl -X POST http://x/answer/another", "ssh root@x hostname", "ssh -o BatchMode=yes root@x hostname",
    "ssh -o BatchMode=yes -o UserKnownHostsFile=x root@x rm y", "ssh -o BatchMode=yes -o UserKnownHostsFile=x root@x",
    "ssh -o BatchMode=yes -o UserKnownHostsFile=x root@x sort x -o y", "ssh -o ProxyCommand=rm x hostname",
    "ssh -o BatchMode=yes -o UserKnownHostsFile=x -o ProxyCommand=rm root@x hostname",
    "ssh -o BatchMode=yes -o UserKnownHostsFile=x root@x sh -s", "ssh -o BatchMode=yes -o UserKnownHostsFile=x root@x $y",
    "ssh -o BatchMode=yes -o UserKnownHostsFile=x root@x cat *", "sed s/a*/b/ x",
    script(WRITE, "/x"),
]  # fmt: skip


@pytest.mark.parametrize("command", READS)
def test_what_only_reads_passes(command: str) -> None:
    assert read_only.refusal(command) is None


@pytest.mark.parametrize("command", WRITES, ids=lambda text: text[:60])
def test_what_is_not_known_to_only_read_is_refused(command: str) -> None:
    assert read_only.refusal(command)


def test_every_question_of_a_diagnosis_only_reads() -> None:
    asked = [each for questions in diagnose.ON_NODE.values() for each in questions]
    for each in [*asked, *diagnose.ON_SERVER]:
        assert read_only.refusal(each) is None
        assert read_only.refusal(diagnose.question([each])) is None
    assert read_only.refusal(diagnose.question(["cat x", "rm x"])) == "rm is not on the list"


def test_what_testinfra_asks_by_itself_only_reads() -> None:
    host = host_of(LocalRemote())
    with read_only.only_reading():
        hosts = host.file("/etc/hosts")
        assert (hosts.exists, hosts.is_file, hosts.is_symlink, hosts.user, hosts.group) == (
            True, True, False, "root", "root",
        )  # fmt: skip
        assert hosts.contains("127.0.0.1") and hosts.content_string.encode() == hosts.content and hosts.mtime
        assert (hosts.sha256sum, hosts.mode) and "hosts" in host.file("/etc").listdir()
        assert host.sysctl("kernel.ostype") == "Linux" and host.interface("lo").exists
        assert "127.0.0.1" in host.addr("127.0.0.1").ipv4_addresses and host.user("root").uid == 0
        assert host.group("root").gid == 0 and host.user("root").groups == ["root"]
        assert host.mount_point("/").exists and host.system_info.type == "linux" and host.exists("sh")
        assert host.process.filter(pid="1") and host.environment() and host.find_command("ip")
        for ask in (
            lambda: host.service("x").is_running, lambda: host.service("x").is_enabled, host.iptables.rules,
            lambda: host.socket("tcp://127.0.0.1:9").is_listening, lambda: host.package("dpkg").is_installed,
            lambda: host.service("x").systemd_properties, lambda: host.interface("lo").routes(),
            lambda: host.block_device("/dev/loop0").size,
        ):  # fmt: skip
            # This machine may have no systemd, no netfilter and no loop device: it is asked for all that.
            with suppress(AssertionError, NotImplementedError, KeyError, RuntimeError, ValueError):
                ask()


# What comes in


def test_a_script_that_is_sent_is_judged_too() -> None:
    assert read_only.refusal("sh -s -- x", 'cat "$1"\n') is None
    assert read_only.refusal("sh -s -- x", b"cat $1; rm x\n") == "rm is not on the list"
    assert read_only.refusal("sh -s", "sh -s") == "a shell runs what comes in"
    assert read_only.refusal("sh -s", Path("/etc/hosts"))


@pytest.mark.parametrize("name", programs.SCRIPTS)
def test_a_script_of_the_project_is_known_by_what_it_is(name: str) -> None:
    text = (programs.ROOT / name).read_text()
    assert read_only.refusal("python3 -", text) is None
    assert read_only.refusal("python3 -", text + "\n") == "python3 is sent a script that is not on the list"
    assert read_only.refusal(f"python3 - <{name}", text)
    assert read_only.refusal("cat x | python3 -", text)
    assert read_only.refusal('python3 - "$x"', text)
    for strange in ("x", "[[1]]", "1", "{"):
        assert read_only.refusal(shlex.join(["python3", "-", strange]), text), strange


def test_every_script_for_nodes_is_on_the_list_or_writes() -> None:
    there = {f"checks/on_node/{path.name}" for path in (programs.ROOT / "checks/on_node").glob("*.py")}
    assert there - programs.SCRIPTS.keys() == {"checks/on_node/__init__.py", "checks/on_node/rbd_image.py"}


def test_what_ceph_is_asked_is_judged() -> None:
    def asked(questions: dict[str, str]) -> str | None:
        order = shlex.join(["python3", "-", json.dumps(questions)])
        return read_only.refusal(order, (programs.ROOT / "checks/on_node/ask_ceph.py").read_text())

    assert asked(ceph_facts.ASKED) is None
    assert asked({**ceph_facts.ASKED, "mgr fail": "mon"}) == 'ceph is not known to only read with "mgr fail"'


def test_what_is_asked_ahead_is_judged() -> None:
    def asked(*questions: str) -> str | None:
        order = shlex.join(["python3", "-", json.dumps({"commands": questions, "seconds": 8})])
        return read_only.refusal(order, (programs.ROOT / "checks/on_node/ask_many.py").read_text())

    assert asked("cat x", "ip -j addr show | cat", "sh -c 'cat y'") is None
    assert asked("cat x", "rm y") == "rm is not on the list"
    assert asked("cat x", "sh -s") == "a shell runs what comes in"


def test_the_script_that_writes_is_not_known() -> None:
    text = (programs.ROOT / "checks/on_node/rbd_image.py").read_text()
    assert (
        read_only.refusal("python3 - write rbd x", text) == "python3 is sent a script that is not on the list"
    )


# What a shell makes of it

PIECES = [
    "cat", "ls", "rm", "echo", "grep", "find", "printf", "x", "-delete", "$x", "$@", "${x}", "$(", "$((", "$'", '$"', "`",
    "'", '"', "\\", "\\\n", "#", " ", " ", " ", "\n", "\t", ";", ";;", "&&", "||", "|", "|&", "&", "!", "(", ")", "{", "}",
    "((", "))", "[[", "]]", "[", "]", ">", ">>", ">|", "<>", "<", "<<", "<<<", ">&", "<&", "2>&1", "&>", "/dev/null", "1",
    "x=", "PATH=", "x=(", "if", "then", "else", "fi", "for", "in", "do", "done", "case", "esac", "eval", "exec", ".",
    "alias", "function", "()", "time", "coproc", "*", "~", "{a,b}", "-", "\r", "é", "command", "read", "test", "cd",
]  # fmt: skip
CALM = [*READS[:14], "cat x", "ls; cat y", 'echo "$(cat z)"', "cat 'a b' | grep \"c\"", "{ cat x; } 2>&1"]
SHELL = r"""
command_not_found_handle() { echo "$1" >>"$RAN"; return 1; }
for name in $(enable | while read -r _ name; do echo "$name"; done); do
  case " $KEPT " in *" $name "*) ;; *) off="$off $name";; esac
done
PATH=/nonexistent
ulimit -t 2
enable -n $off
"""
"""Makes a shell that has no programs and the listed builtins alone, and writes down what it is asked for else."""


def mutated(command: str, pieces: list[tuple[int, str]]) -> str:
    for place, piece in pieces:
        at = place % (len(command) + 1)
        command = command[:at] + piece + command[at:]
    return command


TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=10).map(" ".join),
    st.builds(
        mutated,
        st.sampled_from(CALM),
        st.lists(st.tuples(st.integers(0, 200), st.sampled_from(PIECES)), min_size=1, max_size=4),
    ),
)


def run_of(text: str, folder: Path) -> set[str]:
    """The programs, and builtins that are not on the list, that bash would have run of a text."""
    ran, here = folder / "ran", folder / "here"
    ran.write_text("")
    here.mkdir(exist_ok=True)
    kept = programs.PLAIN | programs.FORMS.keys()
    subprocess.run(
        ["bash", "--norc", "-c", SHELL + text],
        cwd=here, env={"RAN": str(ran), "KEPT": " ".join(kept - {"command"})}, stdin=subprocess.DEVNULL,
        capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert not list(here.iterdir()), f"{text!r} wrote a file"
    return set(ran.read_text().split())


@given(TEXTS)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_shell_runs_only_what_is_on_the_list(tmp_path: Path, text: str) -> None:
    if read_only.refusal(text) is None:
        assert run_of(text, tmp_path) <= programs.PLAIN | programs.FORMS.keys() | {
            "sh",
            "bash",
            "timeout",
            ".",
        }


def test_that_shell_shows_what_it_would_have_run(tmp_path: Path) -> None:
    assert run_of("cat x; rm y | eval z && alias q=p", tmp_path) == {"cat", "rm", "eval"}
    assert run_of("alias x=y", tmp_path) == {"alias"}
    with pytest.raises(AssertionError, match="wrote a file"):
        run_of("echo x >y", tmp_path)


# The guard


def test_nothing_is_judged_in_a_session_that_acts() -> None:
    read_only.require_reading("rm x")
    read_only.require_get("POST", "/x")
    read_only.require_no_tunnel("/x")


def test_a_refusal_says_what_why_who_and_what_to_do(tmp_path: Path) -> None:
    with read_only.only_reading(), pytest.raises(WriteRefused) as refused:
        LocalRemote("node1").run(f"touch {tmp_path}/written")
    assert str(refused.value).splitlines() == [
        f'node1: not sent: "touch {tmp_path}/written"',
        "  why: touch is not on the list; this session only reads",
        "  asked by: tests/unit/test_read_only.py::test_a_refusal_says_what_why_who_and_what_to_do",
        "  to do: ask for it in another way; or, if it only reads, put it on the list, "
        "provision/read_only/programs.py: docs/checks.md says how",
    ]
    assert not list(tmp_path.iterdir())
    LocalRemote("node1").run(f"touch {tmp_path}/written")
    assert [path.name for path in tmp_path.iterdir()] == ["written"]


def test_it_is_on_in_verify(tmp_path: Path) -> None:
    (tmp_path / "attic.yaml").write_text(LAB)
    asked = ("--lab", str(tmp_path / "attic.yaml"), "-k", "this_machine", CHECKS)
    result = run_pytest(tmp_path, "-m", "verify", *asked)
    assert result.returncode == 1, result.stdout + result.stderr
    junit = ElementTree.parse(tmp_path / "out" / "latest" / "junit.xml")
    assert "not sent: " in str(next(junit.iter("error")).text)
    assert not list(junit.iter("failure"))
    assert not (tmp_path / "home" / "rackproof-written-by-a-check").exists()


def test_it_is_off_in_provision(tmp_path: Path) -> None:
    (tmp_path / "attic.yaml").write_text(LAB)
    asked = ("--lab", str(tmp_path / "attic.yaml"), "-k", "this_machine", "--wipe", "attic", CHECKS)
    (tmp_path / "home").mkdir()
    result = run_pytest(tmp_path, "-m", "provision", *asked)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "home" / "rackproof-written-by-a-check").exists()


@pytest.mark.parametrize(("mode", "cases"), [("verify", 0), ("provision", 1)])
def test_a_check_that_writes_is_none_of_verify(tmp_path: Path, mode: str, cases: int) -> None:
    result = run_pytest(
        tmp_path, "-m", mode, "--collect-only", "-q", "-k", "an_image_written or pool_is_as_asked"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("::test_pool_is_as_asked[") == 1
    assert result.stdout.count("::test_an_image_written_on_one_node_is_read_on_another[") == cases


def test_reading_goes_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with read_only.only_reading():
        assert LocalRemote().read(f"{tmp_path}/file") == b"content"
        with pytest.raises(WriteRefused):
            LocalRemote().write(f"{tmp_path}/file", "other")
    assert (tmp_path / "file").read_text() == "content"


@given(st.text(min_size=1))
def test_no_program_is_let_through_that_is_not_on_the_list(name: str) -> None:
    listed = programs.PLAIN | programs.FORMS.keys() | {"sh", "bash", "dash", "timeout", "."}
    if name.rpartition("/")[2] not in listed:
        for text in (shlex.quote(name), f"cat x; {shlex.quote(name)} y", f'echo "$({shlex.quote(name)})"'):
            assert read_only.refusal(text)
