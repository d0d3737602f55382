"""Readings of machines: what checks share, what they never do, and what is asked ahead."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testinfra.host import Host

from checks import readings
from checks.backend import host_of
from checks.questions import Questions
from checks.readings import Asking, Readings, ask, ask_many, is_probe, portions
from provision import read_only
from provision.errors import Unreachable
from provision.remote import LocalRemote, Output, Remote, Stdin, gave_up

OF_SSHD = {
    "HOME": "/",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "SHELL": "/bin/bash",
    "SSH_CLIENT": "192.0.2.1 2 22",
}


class Machine(Remote):
    """Runs commands here as sshd would there, and keeps what was sent in each round trip."""

    def __init__(self, name: str = "node1") -> None:
        self.name = name
        self.trips: list[str] = []
        self.gone = False

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        self.trips.append(command)
        if self.gone:
            raise Unreachable("no route to host", node=self.name)
        content = stdin.encode() if isinstance(stdin, str) else b""
        try:
            done = subprocess.run([OF_SSHD["SHELL"], "-c", command], input=content, capture_output=True, cwd="/",
                                  check=False, timeout=timeout, env=OF_SSHD, start_new_session=True)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise gave_up(self.name, command, timeout, b"") from None
        return Output(done.returncode, done.stdout, done.stderr)

    def forward_socket(self, remote_socket: str) -> AbstractContextManager[Path]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Session:
    """A session of checks, told which of them runs."""

    def __init__(self, folder: Path, *, shared: bool = True) -> None:
        self.questions = Questions(folder / "questions.json")
        self.asking = Asking("none")
        self.readings = Readings(self.questions, lambda: self.asking, shared=shared)

    def check(self, name: str, *commands: str, of: Machine, fresh: bool = False, unit: str = "") -> list[str]:
        """What a check is told that asks these commands one after the other."""
        self.asking = Asking(name, unit, fresh=fresh)
        return [self.readings.ask(of, command).stdout.decode() for command in commands]


@pytest.fixture(autouse=True)
def _all_is_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests let run is more than checks may."""
    monkeypatch.setattr(read_only, "refusal", lambda command: None)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


@pytest.fixture
def counter(tmp_path: Path) -> Callable[[str], str]:
    """A command that says how often it ran so far; it reads as a word of its own."""

    def command(word: str = "cat") -> str:
        file = tmp_path / word
        return f"echo {word} >>{file}; wc -l <{file}"

    return command


@contextmanager
def remembered(folder: Path, questions: dict[str, list[str]], machine: str = "node1") -> Iterator[Session]:
    """A session before which these checks have asked this of the machine."""
    earlier = Questions(folder / "questions.json")
    for check, commands in questions.items():
        for command in commands:
            earlier.note(check, machine, command)
    earlier.save()
    session = Session(folder)
    with session.readings:
        yield session


def test_checks_share_what_one_of_them_was_told(
    session: Session, machine: Machine, counter: Callable[[str], str]
) -> None:
    command = counter("fact")
    assert [session.check(name, command, of=machine) for name in "abc"] == [["1\n"]] * 3
    assert machine.trips == [command]


def test_machines_do_not_answer_for_each_other(session: Session, machine: Machine) -> None:
    session.check("a", "echo", of=machine)
    other = Machine("node2")
    session.check("b", "echo", of=other)
    assert (machine.trips, other.trips) == (["echo"], ["echo"])


def test_what_one_check_asks_twice_it_sees_twice(
    session: Session, machine: Machine, counter: Callable[[str], str]
) -> None:
    command = counter("fact")
    session.check("a", command, of=machine)
    assert session.check("b", command, command, command, of=machine) == ["1\n", "2\n", "3\n"]
    assert session.check("c", command, of=machine) == ["3\n"]


@pytest.mark.parametrize(
    "probe",
    ["ping -c 1 192.0.2.1", "/usr/bin/ping -c 1 x", "date +%s", "a=$(date)", "ssh root@192.0.2.1 hostname",
     "iperf3 -c x", "curl -X POST http://x", "sleep 1; ip addr", "timeout 3 ping x"],
)  # fmt: skip
def test_a_command_that_acts_or_measures_the_moment_is_a_probe(probe: str) -> None:
    assert is_probe(probe)
    assert is_probe(f"true && {probe}")


@pytest.mark.parametrize(
    "fact",
    ["ip -j addr show", "cat /etc/update.conf", "systemctl show sshd", "cat /etc/ssh/ssh_host_ed25519_key.pub",
     "ls /root/.ssh/id_*.pub", "curl -fsS http://x/boot/m", "dig +short @192.0.2.1 x A", "stat -c %Y /x"],
)  # fmt: skip
def test_a_command_that_reads_is_none(fact: str) -> None:
    assert not is_probe(fact)


def test_a_probe_runs_for_every_check_that_asks_it(
    session: Session, machine: Machine, counter: Callable[[str], str]
) -> None:
    command = counter("date")
    assert [session.check(name, command, of=machine) for name in "abc"] == [["1\n"], ["2\n"], ["3\n"]]


def test_after_its_own_probe_a_check_sees_everything_fresh(
    session: Session, machine: Machine, counter: Callable[[str], str]
) -> None:
    fact = counter("fact")
    session.check("a", fact, of=machine)
    assert session.check("b", fact, of=machine) == ["1\n"]
    assert session.check("c", "date", fact, of=machine)[1] == "2\n"


def test_a_check_that_says_so_sees_everything_fresh(
    session: Session, machine: Machine, counter: Callable[[str], str]
) -> None:
    fact = counter("fact")
    session.check("a", fact, of=machine)
    assert session.check("b", fact, of=machine, fresh=True) == ["2\n"]


def test_while_steps_act_every_question_goes_to_the_machine(
    tmp_path: Path, machine: Machine, counter: Callable[[str], str]
) -> None:
    session, fact = Session(tmp_path, shared=False), counter("fact")
    assert [session.check(name, fact, of=machine) for name in "ab"] == [["1\n"], ["2\n"]]


def test_an_error_is_not_shared(session: Session, machine: Machine) -> None:
    machine.gone = True
    with pytest.raises(Unreachable):
        session.check("a", "echo back", of=machine)
    machine.gone = False
    assert session.check("b", "echo back", of=machine) == ["back\n"]


def test_a_return_code_is_an_answer_that_is_shared(session: Session, machine: Machine) -> None:
    session.asking = Asking("a")
    first = session.readings.ask(machine, "echo no >&2; exit 3")
    session.asking = Asking("b")
    assert session.readings.ask(machine, "echo no >&2; exit 3") == first == Output(3, b"", b"no\n")
    assert len(machine.trips) == 1


def test_what_checks_asked_last_time_is_asked_ahead_in_one_round_trip(
    tmp_path: Path, machine: Machine
) -> None:
    asked = {"a": ["echo 1", "echo 2"], "b": ["echo 2", "echo 3"], "c": ["echo 4"]}
    with remembered(tmp_path, asked) as session:
        session.readings.begin(["a", "b"], ["node1"], lambda name: machine)
        assert session.check("a", "echo 1", "echo 2", of=machine) == ["1\n", "2\n"]
        assert session.check("b", "echo 2", "echo 3", of=machine) == ["2\n", "3\n"]
        assert machine.trips == [at_once("echo 1", "echo 2", "echo 3")]
        session.check("c", "echo 4", of=machine)
    assert machine.trips[1:] == ["echo 4"]


def test_a_worker_asks_a_machine_ahead_what_the_unit_asks_of_it_that_it_was_given(
    tmp_path: Path, machine: Machine
) -> None:
    asked = {
        "a": ["echo 1"],
        "b": ["echo 2", "echo 3"],
        "of another": ["echo 4"],
        "of the lab": ["echo 3", "echo 5"],
    }
    other = Machine("node2")
    with remembered(tmp_path, asked) as session:
        session.readings.begin_later(
            {"node1": ["a", "b"], "node2": ["of another"], "the lab": ["of the lab"]}
        )
        session.check("a", "echo 1", of=machine, unit="node1")
        session.check("b", "echo 2", "echo 3", of=machine, unit="node1")
        assert machine.trips == [at_once("echo 1", "echo 2", "echo 3")]
        session.check("of the lab", "echo 3", "echo 5", of=machine, unit="the lab")
        session.check("b", "echo 2", of=other, unit="node1")
    assert (machine.trips[1:], other.trips) == ([at_once("echo 5")], ["echo 2"])


def test_a_wrong_prediction_costs_no_more_than_time(tmp_path: Path, machine: Machine) -> None:
    with remembered(tmp_path, {"a": ["no-such-command", "kill -9 $$"]}) as session:
        session.readings.begin(["a"], ["node1", "node2"], lambda name: machine)
        assert session.check("a", "echo else", of=machine) == ["else\n"]


def test_probes_and_slow_commands_are_not_asked_ahead(tmp_path: Path, machine: Machine) -> None:
    session = Session(tmp_path)
    session.check("a", "date", "echo quick", of=machine)
    session.questions.note("a", "node1", "sha256sum iso", seconds=4.0)
    session.questions.save()
    assert Questions(tmp_path / "questions.json").foreseen(["a"]) == {"node1": ["echo quick"]}


def test_what_is_not_known_to_only_read_is_never_asked_ahead(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    written = tmp_path / "written"
    told = ask_many(
        machine, ["echo 1", f"touch {written}", f"echo x >{written}", f"cat /dev/null; tee {written}"]
    )
    assert told == {"echo 1": Output(0, b"1\n", b"")}
    assert machine.trips == [at_once("echo 1")]
    assert not written.exists()


def test_the_guard_of_a_verification_lets_through_what_is_asked_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    with read_only.only_reading():
        read_only.require_reading(at_once("echo 1"), readings.SCRIPT.read_text())


def test_questions_that_were_shared_are_foreseen_too(tmp_path: Path, machine: Machine) -> None:
    session = Session(tmp_path)
    session.check("a", "echo", of=machine)
    session.check("b", "echo", of=machine)
    session.questions.save()
    again = Questions(tmp_path / "questions.json")
    assert again.foreseen(["b"]) == {"node1": ["echo"]}
    again.note("b", "node1", "echo other")
    again.save()
    assert Questions(tmp_path / "questions.json").foreseen("ab") == {"node1": ["echo", "echo other"]}


@pytest.mark.parametrize("content", ["", "[]", '{"a": ["x"]}', '{"a": {"node1": "x"}}', "\x00"])
def test_questions_that_cannot_be_read_are_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(content)
    questions = Questions(path)
    questions.note("a", "node1", "echo")
    questions.save()
    assert Questions(path).foreseen(["a"]) == {"node1": ["echo"]}


def test_all_machines_are_reached_at_once(tmp_path: Path) -> None:
    names = [f"node{number}" for number in range(8)]
    together = Barrier(len(names), timeout=10)

    def reach(name: str) -> Machine:
        together.wait()
        return Machine(name)

    session = Session(tmp_path)
    with session.readings:
        session.readings.begin([], names, reach)
    assert not together.broken


def test_a_machine_that_cannot_be_reached_concerns_its_own_checks_alone(
    tmp_path: Path, machine: Machine
) -> None:
    def reach(name: str) -> Machine:
        if name == "node2":
            raise Unreachable("no route to host", node=name)
        return machine

    with remembered(tmp_path, {"a": ["echo"]}) as session:
        session.readings.begin(["a"], ["node1", "node2"], reach)
        session.check("a", "echo", of=machine)
    assert machine.trips == [at_once("echo")]


def test_a_machine_that_is_lost_while_it_is_asked_ahead_is_asked_again_by_its_checks(
    tmp_path: Path, machine: Machine
) -> None:
    machine.gone = True
    with remembered(tmp_path, {"a": ["echo back"]}) as session:
        session.readings.begin(["a"], ["node1"], lambda name: machine)
        with pytest.raises(Unreachable):
            session.check("a", "echo back", of=machine)
        machine.gone = False
        assert session.check("b", "echo back", of=machine) == ["back\n"]


@pytest.mark.parametrize(
    "said", ["", "nothing", "[]", "[[0, 1, 2]]", '[["a", "", ""]]', "[null, null]", "sh: python3: not found"]
)
def test_a_machine_that_answers_nonsense_has_answered_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr(machine, "execute", lambda *_: Output(127, said.encode(), b""))
    assert ask_many(machine, ["echo 1"]) == {}


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=40))
def test_every_command_is_in_one_portion_that_a_machine_can_take(commands: list[str]) -> None:
    long = "'" * 15_000
    found = list(portions([*commands, long, long, *commands]))
    assert [command for portion in found for command in portion] == [*commands, long, long, *commands]
    assert all(0 < len(at_once(*portion)) < 128 << 10 for portion in found)


def test_a_command_that_no_machine_can_take_is_not_asked_ahead() -> None:
    assert [*chain(*portions(["echo 1", "x" * 200_000, "echo 2"]))] == ["echo 1", "echo 2"]


def test_a_command_that_hangs_is_killed_with_all_that_it_started_and_the_others_are_answered(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "AHEAD_SECONDS", 0.5)
    # What is left running would hold the output open, and nothing would come back.
    assert ask_many(machine, ["echo 1", "sleep 600 & wait", "echo 2"]) == {
        "echo 1": Output(0, b"1\n", b""),
        "echo 2": Output(0, b"2\n", b""),
    }


def test_this_machine_itself_is_asked_nothing_ahead() -> None:
    assert ask_many(LocalRemote("server"), ["echo 1"]) == {}


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 255)),
        min_size=1,
        max_size=12,
    )
)
def test_many_are_answered_to_the_byte_as_each_alone(left: list[tuple[bytes, bytes, int]]) -> None:
    machine = Machine()
    commands = [f"printf '{octal(out)}'; printf '{octal(errors)}' >&2; exit {rc}" for out, errors, rc in left]
    assert ask_many(machine, commands) == {
        command: Output(rc, out, errors) for command, (out, errors, rc) in zip(commands, left, strict=True)
    }


ALIKE = [
    "env | LC_ALL=C sort", "pwd", "umask", "ulimit -a", "cat; echo $?", "[ -t 0 ] || [ -t 1 ] || [ -t 2 ]; echo $?",
    "echo $0 $# $-", "cd /tmp; x=1; exit 7", "echo \"$x\"; pwd", "kill -TERM $$", "yes | head -n 1", "echo é | wc -c",
    "trap", "head -c 300000 /dev/zero", "no-such-command", "if", "ps -o stat= -p $$ | tr -d '+'", "ls /proc/self/fd | wc -l",
    "ps -o sid=,pgid= -p $$ | awk '{ print ($1 == $2) }'",
]  # fmt: skip


def test_a_command_among_many_finds_what_it_finds_alone(machine: Machine) -> None:
    together = ask_many(machine, ALIKE)
    assert together == {command: ask(machine, command) for command in ALIKE}


QUESTIONS: dict[str, Callable[[Host], Any]] = {
    "file": lambda host: host.file("/etc/passwd").mode,
    "interface": lambda host: host.interface("lo").addresses,
    "socket": lambda host: host.socket("tcp://127.0.0.1:1").is_listening,
    "sysctl": lambda host: host.sysctl("kernel.ostype"),
}
"""What checks ask by testinfra's modules."""


@pytest.mark.parametrize("module", QUESTIONS)
def test_a_question_by_testinfra_is_one_round_trip_for_all_checks(
    session: Session, machine: Machine, module: str
) -> None:
    host = host_of(machine, session.readings.ask)
    told = []
    for check in "abc":
        session.asking = Asking(check)
        told.append(QUESTIONS[module](host))
    assert told == [told[0]] * 3
    assert len(machine.trips) == 1


def test_output_is_kept_to_the_byte(session: Session, machine: Machine) -> None:
    result = host_of(machine, session.readings.ask).run("printf '\\377a'")
    assert (result.stdout_bytes, result.stdout) == (b"\xffa", "�a")


def at_once(*commands: str) -> str:
    """What is sent for these commands together."""
    return shlex.join(["python3", "-", json.dumps({"commands": commands, "seconds": readings.AHEAD_SECONDS})])


def octal(data: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in data)
