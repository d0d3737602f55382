"""Edits /etc/network/interfaces, of ifupdown as of ifupdown2: moves an interface's settings onto a bridge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from provision.render import word

FILE = "/etc/network/interfaces"
# What begins a stanza; interfaces(5).
_KEYWORD = re.compile(
    r"(iface|auto|allow-\S+|no-auto-down|no-scripts|mapping|rename|template|source\S*|vlan)$"
)
_HOLDS = ("bridge-ports", "bridge_ports", "bond-slaves", "bond_slaves", "slaves")
# What the bridge's own stanza says anew.
_OURS = re.compile(r"(netmask|mtu|bridge[-_](ports|stp|fd))$")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bridge with its address ("10.10.1.1/24"), its ports and its MTU."""

    name: str
    address: str
    ports: tuple[str, ...]
    mtu: int


@dataclass(slots=True)
class Block:
    """A stanza's lines, or blank lines and comments between stanzas."""

    lines: list[str]

    @property
    def words(self) -> list[str]:
        """Of its first line."""
        return self.lines[0].split()

    @property
    def interface(self) -> str | None:
        """Whose settings it has."""
        return self.words[1] if self.words[:1] == ["iface"] and len(self.words) > 1 else None

    @property
    def options(self) -> list[list[str]]:
        """Each as key and value."""
        return [line.split(None, 1) for line in self.lines[1:] if line.strip() and line.strip()[0] != "#"]

    def has(self, address: str) -> bool:
        """Whether it gives this address, in either way of writing it."""
        return self.interface is not None and any(
            key == "address" and _plain(*value) == _plain(address) for key, *value in self.options
        )


def _plain(value: str = "") -> str:
    return value.partition("/")[0].strip()


def sourced(text: str) -> bool:
    """Whether the file reads the files of interfaces.d."""
    return any(block.words[:1] and block.words[0].startswith("source") for block in _blocks(text))


def holder_of(texts: Mapping[str, str], port: str, bridge: str) -> tuple[str, str] | None:
    """The file and the interface that has `port` as a member, when that is not `bridge`."""
    for path, text in texts.items():
        for block in _blocks(text):
            held = [
                word for key, *value in block.options if key in _HOLDS for word in " ".join(value).split()
            ]
            if block.interface not in (None, bridge) and port in held:
                return path, str(block.interface)
    return None


def edited(texts: Mapping[str, str], wanted: Wanted) -> dict[str, str]:
    """The files as they should be, by path; FILE is among them. What stands already stays as it is.

    Ports, and whatever has the bridge's address now, lose their settings to the bridge: routes, DNS, other
    addresses and commands go along.
    """
    blocks = {path: _blocks(text) for path, text in texts.items()}
    every = [block for each in blocks.values() for block in each]
    movers = {str(block.interface) for block in every if block.has(wanted.address)}
    movers |= {wanted.name, *wanted.ports}
    stanzas = [block for block in every if block.interface in movers]
    home = next((path for path, each in blocks.items() if any(block in stanzas for block in each)), FILE)
    new = "\n".join(_written(wanted, stanzas, movers)).splitlines()
    return {
        path: _joined(_replaced(each, movers, new if path == home else []))
        for path, each in blocks.items()
    }  # fmt: skip


def _replaced(blocks: Iterable[Block], movers: set[str], new: list[str]) -> Iterator[list[str]]:
    """The blocks' lines, with the new ones in the place of the first that goes."""
    pending = new
    for block in blocks:
        kept = _without(block, movers)
        if kept != block.lines and pending:
            yield [*pending, ""]
            pending = []
        yield kept
    yield ["", *pending] if pending else []


def _without(block: Block, movers: set[str]) -> list[str]:
    """Nothing of a mover's stanza; its name is taken out of lists such as `auto`."""
    if block.interface in movers:
        return []
    keyword, *names = block.words or [""]
    if not (keyword == "auto" or keyword.startswith("allow-")) or movers.isdisjoint(names):
        return block.lines
    left = [name for name in names if name not in movers]
    return [" ".join([keyword, *left]), *block.lines[1:]] if left else []


def _joined(parts: Iterable[list[str]]) -> str:
    text = "\n".join(line for part in parts for line in part)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def _written(wanted: Wanted, stanzas: list[Block], movers: Iterable[str]) -> Iterator[str]:
    """The stanzas of the ports, of the bridge, and of what had the address and is no port."""
    for name in wanted.ports:
        yield from (*_bare(name, stanzas, [f"\tmtu {wanted.mtu}"]), "")
    moved = [block for block in stanzas if block.words[3:4] != ["manual"]]
    main = next((block for block in moved if block.has(wanted.address)), None)
    yield from _bridge(wanted, main)
    for block in moved:
        if block is not main and not _is_empty(block):
            yield from ("", " ".join(["iface", word(wanted.name), *block.words[2:]]))
            yield from (_option(option) for option in block.options if option[0] != "mtu")
    for name in sorted({*movers} - {wanted.name, *wanted.ports}):
        yield from ("", *_bare(name, stanzas, []))


def _bare(name: str, stanzas: list[Block], more: list[str]) -> Iterator[str]:
    """An interface without addresses; commands and settings of a stanza of that kind stay."""
    yield from (f"auto {word(name)}", f"iface {word(name)} inet manual", *more)
    manual = [block for block in stanzas if block.words[1:] == [name, "inet", "manual"]]
    yield from (_option(option) for block in manual for option in block.options if option[0] != "mtu")


def _bridge(wanted: Wanted, main: Block | None) -> Iterator[str]:
    """The bridge with what else the stanza had that gave the address."""
    yield from (f"auto {word(wanted.name)}", f"iface {word(wanted.name)} inet static")
    yield from (f"\taddress {wanted.address}", f"\tbridge-ports {' '.join(map(word, wanted.ports))}")
    yield from ("\tbridge-stp off", "\tbridge-fd 0", f"\tmtu {wanted.mtu}")
    yield from (_option(option) for option in (main.options if main else []) if not _said(option, wanted))


def _is_empty(block: Block) -> bool:
    """Whether nothing is in it that the bridge's own stanza does not say."""
    return block.words[3:4] == ["static"] and all(_OURS.match(key) for key, *_ in block.options)


def _said(option: list[str], wanted: Wanted) -> bool:
    key, *value = option
    return bool(_OURS.match(key)) or (key == "address" and _plain(*value) == _plain(wanted.address))


def _option(option: list[str]) -> str:
    return "\t" + " ".join(option)


def _blocks(text: str) -> list[Block]:
    """The stanzas in their order; blank lines and comments at a stanza's end are blocks of their own."""
    blocks: list[Block] = []
    for line in _whole_lines(text):
        first = (line.split() or [""])[0]
        starts = _KEYWORD.match(first) or not blocks
        if starts:
            blocks.append(Block([line]))
        else:
            blocks[-1].lines.append(line)
    return [part for block in blocks for part in _parted(block)]


def _parted(block: Block) -> Iterator[Block]:
    end = len(block.lines)
    while end > 1 and (not block.lines[end - 1].strip() or block.lines[end - 1].lstrip()[0] == "#"):
        end -= 1
    yield Block(block.lines[:end])
    yield from [Block(block.lines[end:])] if block.lines[end:] else []


def _whole_lines(text: str) -> Iterator[str]:
    """A line that ends in a backslash goes on in the next."""
    return iter(re.sub(r"\s*\\\n\s*", " ", text).splitlines())
