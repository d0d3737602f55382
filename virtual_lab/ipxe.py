"""iPXE's script language, as far as boot scripts need it, with iPXE's own strictness.

https://ipxe.org/scripting and https://ipxe.org/cmd: one command a line, settings expanded before the line is
split at white space (there is no quoting), a failing command ends the script unless `||` catches it. Commands
that iPXE has and this player does not (menus, prompts) are "command not found" here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urljoin

from virtual_lab import efi

_SETTING = re.compile(r"\$\{([^${}]*)\}")
_TERMINATORS = ("||", "&&", ";")
_MOST_COMMANDS = 10_000


class Failed(Exception):
    """A command, and with it the script unless it caught it, failed."""


@dataclass(frozen=True, slots=True)
class Image:
    """A downloaded file: `name` as iPXE knows it, `args` as given after its address."""

    name: str
    content: Path
    args: str = ""


@dataclass(frozen=True, slots=True)
class Booted:
    """A kernel was started."""

    kernel: Image
    initrds: tuple[Image, ...]


@dataclass(frozen=True, slots=True)
class Exited:
    """iPXE was left: the firmware goes on with its next boot device."""


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """`sanboot` of a local drive."""


Ended = Booted | Exited | LocalDisk


class Services(Protocol):
    """What iPXE has of the machine."""

    def fetch(self, uri: str) -> Path:
        """Download a file; raises Failed."""

    def say(self, text: str) -> None:
        """Write a line on the console."""

    def wait(self, seconds: float) -> None:
        """Let time pass."""


@dataclass(slots=True)
class Ipxe:
    """One start of iPXE: its settings, and the images that it holds."""

    services: Services
    settings: dict[str, str]
    images: list[Image] = field(default_factory=list)
    kernel: str | None = None

    def autoboot(self, uri: str) -> Ended:
        """Fetch what DHCP named and run it. Raises Failed."""
        return _Script(self, uri, self.load(uri).content).run()

    def load(self, uri: str, name: str | None = None, args: str = "") -> Image:
        """Download a file and keep it as an image. Raises Failed."""
        content = self.services.fetch(uri)
        image = Image(name or uri.split("?", maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1], content, args)
        self.images = [kept for kept in self.images if kept.name != image.name] + [image]
        self.services.say(f"{uri}... ok")
        return image

    def image(self, name: str) -> Image:
        """A kept image by name. Raises Failed."""
        for image in self.images:
            if image.name == name:
                return image
        raise Failed(f"Could not find image: {name}")

    def expand(self, line: str) -> str:
        """The line with every `${setting}` in place; unknown settings are empty."""
        while found := list(_SETTING.finditer(line)):
            last = found[-1]
            line = line[: last.start()] + self._setting(last.group(1)) + line[last.end() :]
        return line

    def _setting(self, expression: str) -> str:
        name, _, kind = expression.partition(":")
        value = self.settings.get(name, "")
        return _FORMATS[kind](value) if kind in _FORMATS else value


class _Script:
    """One script being run; a chained script is one of its own."""

    def __init__(self, ipxe: Ipxe, uri: str, content: Path) -> None:
        self.ipxe, self.uri = ipxe, uri
        self.lines = _script_lines(content)
        self.at = 0
        self.ended: Ended | None = None

    def run(self) -> Ended:
        """Run to the end; a script that falls off its end is left as by `exit`."""
        commands = 0
        while self.ended is None and self.at < len(self.lines):
            line = self.lines[self.at].strip()
            self.at, commands = self.at + 1, commands + 1
            if commands > _MOST_COMMANDS:
                raise Failed("the script runs in a circle")
            if line and not line.startswith((":", "#")):
                self._line(line)
        return self.ended or Exited()

    def _line(self, line: str) -> None:
        words, failure = self.ipxe.expand(line).split(), None
        for terminator, command in _commands(words):
            if self.ended or (terminator == "&&" and failure) or (terminator == "||" and not failure):
                continue
            failure = self._try(command)
        if failure:
            raise failure

    def _try(self, command: Sequence[str]) -> Failed | None:
        if not command:
            return None
        action = _COMMANDS.get(command[0])
        try:
            if action is None:
                raise Failed(f"{command[0]}: command not found")
            action(self, command[1:])
        except Failed as failure:
            if str(failure):
                self.ipxe.services.say(str(failure))
            return failure
        return None

    def absolute(self, uri: str) -> str:
        """A file's address, seen from the script's own."""
        return urljoin(self.uri, uri)


def _script_lines(content: Path) -> list[str]:
    data = content.read_bytes()
    if data.split(b"\n")[0].split(b" ")[0].rstrip() != b"#!ipxe":
        raise Failed("Could not boot: Exec format error (https://ipxe.org/2e008081)")
    return data.decode("utf-8", "replace").splitlines()[1:]


def _commands(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The commands of a line, each with the terminator before it; a word that begins with # ends the line."""
    commands: list[tuple[str, list[str]]] = [("", [])]
    for word in words:
        if word.startswith("#"):
            break
        if word in _TERMINATORS:
            commands.append((word, []))
        else:
            commands[-1][1].append(word)
    return commands


def _options(
    command: str, words: Sequence[str], known: Mapping[str, bool]
) -> tuple[dict[str, str], list[str]]:
    """Leading options and the rest; `known` says of each whether it takes a value. Raises Failed."""
    given: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option, _, value = rest.pop(0).partition("=")
        if option not in known:
            raise Failed(f"{command}: unrecognised option '{option}'")
        if known[option] and not value:
            if not rest:
                raise Failed(f"{command}: option '{option}' requires an argument")
            value = rest.pop(0)
        given[option] = value
    return given, rest


def _set(script: _Script, words: Sequence[str]) -> None:
    if not words:
        raise Failed("Usage: set <setting> [<value>...]")
    script.ipxe.settings[words[0].partition(":")[0]] = " ".join(words[1:])


def _clear(script: _Script, words: Sequence[str]) -> None:
    for word in words:
        script.ipxe.settings.pop(word, None)


def _isset(_script: _Script, words: Sequence[str]) -> None:
    if not words:
        raise Failed("")


def _iseq(_script: _Script, words: Sequence[str]) -> None:
    if len(words) != 2:
        raise Failed("Usage: iseq <value1> <value2>")
    if words[0] != words[1]:
        raise Failed("")


def _goto(script: _Script, words: Sequence[str]) -> None:
    if len(words) != 1:
        raise Failed("Usage: goto <label>")
    for number, line in enumerate(script.lines):
        if line.strip().split()[:1] == [f":{words[0]}"]:
            script.at = number + 1
            return
    raise Failed(f"goto: no label {words[0]}")


def _echo(script: _Script, words: Sequence[str]) -> None:
    script.ipxe.services.say(" ".join(words[1:] if words[:1] == ["-n"] else words))


_FETCHING = {"-n": True, "--name": True, "-t": True, "--timeout": True, "-a": False, "--autofree": False}


def _load(script: _Script, command: str, words: Sequence[str]) -> Image:
    given, rest = _options(command, words, _FETCHING)
    if not rest:
        raise Failed(f"Usage: {command} [--name <name>] <uri|image> [<arguments>...]")
    name = given.get("--name") or given.get("-n")
    return script.ipxe.load(script.absolute(rest[0]), name, " ".join(rest[1:]))


def _kernel(script: _Script, words: Sequence[str]) -> None:
    image = _load(script, "kernel", words)
    if fault := efi.fault_of(image.content.read_bytes()):
        raise Failed(f"Could not select: Exec format error (https://ipxe.org/2e008081): {fault}")
    script.ipxe.kernel = image.name


def _initrd(script: _Script, words: Sequence[str]) -> None:
    _load(script, "initrd", words)


def _imgargs(script: _Script, words: Sequence[str]) -> None:
    if not words:
        raise Failed("Usage: imgargs <uri|image> [<arguments>...]")
    image = script.ipxe.image(words[0])
    kept = script.ipxe.images
    kept[kept.index(image)] = replace(image, args=" ".join(words[1:]))


def _imgfree(script: _Script, words: Sequence[str]) -> None:
    script.ipxe.images = [image for image in script.ipxe.images if words and image.name not in words]


def _boot(script: _Script, words: Sequence[str]) -> None:
    if words:
        _kernel(script, words)
    if script.ipxe.kernel is None:
        raise Failed("Could not boot: No such file or directory: no kernel was selected")
    kernel = script.ipxe.image(script.ipxe.kernel)
    scripts_and_kernel = {kernel.name, *(image.name for image in script.ipxe.images if _is_script(image))}
    initrds = tuple(image for image in script.ipxe.images if image.name not in scripts_and_kernel)
    script.ended = Booted(kernel, initrds)


def _chain(script: _Script, words: Sequence[str]) -> None:
    known = _FETCHING | {"-r": False, "--replace": False}
    given, rest = _options("chain", words, known)
    if len(rest) < 1:
        raise Failed("Usage: chain [--replace] <uri|image> [<arguments>...]")
    uri = script.absolute(rest[0])
    chained = _Script(script.ipxe, uri, script.ipxe.load(uri).content)
    ended = chained.run()
    # A chained script that was left by `exit` gives control back, unless it took this one's place.
    if not isinstance(ended, Exited) or {"-r", "--replace"} & set(given):
        script.ended = ended


def _exit(script: _Script, words: Sequence[str]) -> None:
    if words[:1] not in ([], ["0"]):
        raise Failed(f"exit {words[0]}")
    script.ended = Exited()


def _sanboot(script: _Script, words: Sequence[str]) -> None:
    known = {"--drive": True, "-d": True, "--no-describe": False, "-n": False, "--keep": False, "-k": False}
    given, rest = _options("sanboot", words, known)
    if rest or not {"--drive", "-d"} & set(given):
        raise Failed("Could not boot from SAN device: Operation not supported (https://ipxe.org/3c092083)")
    script.ended = LocalDisk()


def _sleep(script: _Script, words: Sequence[str]) -> None:
    if len(words) != 1 or not words[0].isdigit():
        raise Failed("Usage: sleep <seconds>")
    script.ipxe.services.wait(float(words[0]))


def _network_is_up(_script: _Script, _words: Sequence[str]) -> None:
    """`dhcp` and `ifopen`: the lease that started iPXE still holds."""


_COMMANDS: Mapping[str, Callable[[_Script, Sequence[str]], None]] = {
    "set": _set, "clear": _clear, "isset": _isset, "iseq": _iseq, "goto": _goto, "echo": _echo,
    "kernel": _kernel, "initrd": _initrd, "module": _initrd, "imgfetch": _initrd, "imgargs": _imgargs,
    "imgfree": _imgfree, "boot": _boot, "chain": _chain, "exit": _exit, "sanboot": _sanboot, "sleep": _sleep,
    "dhcp": _network_is_up, "ifopen": _network_is_up,
}  # fmt: skip


def _is_script(image: Image) -> bool:
    with image.content.open("rb") as file:
        return file.read(6) == b"#!ipxe"


def _raw(value: str) -> bytes:
    """A setting's bytes: of a MAC, of an address, else of its text."""
    if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", value):
        return bytes.fromhex(value.replace(":", ""))
    try:
        return ipaddress.ip_address(value).packed
    except ValueError:
        return value.encode()


_FORMATS: Mapping[str, Callable[[str], str]] = {
    "hexhyp": lambda value: _raw(value).hex("-"),
    "hexraw": lambda value: _raw(value).hex(),
    "hex": lambda value: _raw(value).hex(":"),
    "uristring": lambda value: quote(value, safe="-._~"),
}
