"""`fetch` a lab's installers before they are needed, `list`, `verify` them, `clean` the cache of others."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from provision import images
from provision.errors import InventoryError, LabError
from provision.images.cache import Entry
from provision.inventory import InstallMedia, Lab, load


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """The command line; 0, 1 when something is missing or wrong, 4 when the lab file is."""
    given = _parser().parse_args(arguments)
    try:
        lab = load(given.labfile, env)
        wrong = COMMANDS[given.command](lab, given)
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 4
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m provision.images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in (
        ("fetch", "download and prepare all that the lab file names under images"),
        ("list", "show what is there, and what the cache takes"),
        ("verify", "read every file of the lab's media, and say which are not as they should be"),
        ("clean", "remove from the cache what this lab does not need"),
    ):
        command = commands.add_parser(name, help=does)
        command.add_argument("labfile", type=Path)
        if name == "fetch":
            command.add_argument(
                "--from", dest="given", type=Path, action="append", default=[], metavar="ISO",
                help="an ISO on this machine, taken in place of a download; repeatable",
            )  # fmt: skip
    return parser


def _fetch(lab: Lab, given: argparse.Namespace) -> bool:
    absent = [path for path in given.given if not path.is_file()]
    if absent:
        raise LabError(f"there is no file {absent[0]}")
    with images.ready(lab, _say, given=given.given):
        for system in lab.images:
            print(f"{system}: {lab.media[system].iso.parent}")
    if not lab.images:
        print("the lab file names nothing under images")
    return False


def _list(lab: Lab, _given: argparse.Namespace) -> bool:
    cache = images.kept_for(lab)
    states = [(system, _state(cache.entry(image.sha256), lab.media[system]))
              for system, image in lab.images.items()]  # fmt: skip
    for system, state in states:
        print(f"{system}: {state}")
    for entry in cache.others():
        used = time.strftime("%d %b %Y", time.localtime(entry.used))
        print(f"not of this lab: {entry.sha256[:12]}…, {images.in_words(entry.size)}, last needed on {used}")
    total = sum(entry.size for entry in cache.entries())
    print(f"{cache.folder}: {images.in_words(total)} of {images.in_words(cache.most)}")
    return any(not state.startswith("ready") for _, state in states)


def _state(entry: Entry, media: InstallMedia) -> str:
    if images.is_prepared(media):
        about = images.manifest(media.vmlinuz.parent)
        return f"ready: {about['product']} {about['release']}, {images.in_words(entry.size)}"
    if entry.iso.exists():
        return "downloaded, not prepared"
    return f"{images.in_words(entry.part.stat().st_size)} downloaded" if entry.part.exists() else "not there"


def _verify(lab: Lab, _given: argparse.Namespace) -> bool:
    wrong = {system: list(_faults(lab, system)) for system in lab.media}
    for system, faults in wrong.items():
        print(f"{system}: {'; '.join(faults) or 'as it should be'}")
    return any(wrong.values())


def _faults(lab: Lab, system: str) -> Iterator[str]:
    media = lab.media[system]
    if system in lab.images and not images.is_prepared(media):
        yield "not there; fetch it"
        return
    yield from (f"{name} has changed since it was made" for name in images.differing(media.vmlinuz.parent))
    try:
        images.examine(system, media)
    except LabError as error:
        yield error.message
    except OSError as error:
        yield f"{error.filename} cannot be read: {error.strerror}"


def _clean(lab: Lab, _given: argparse.Namespace) -> bool:
    cache = images.kept_for(lab)
    for entry in cache.others():
        size = cache.remove(entry)
        said = "is in use and stays" if size is None else f"removed, {images.in_words(size)}"
        print(f"{entry.sha256[:12]}…: {said}")
    return False


COMMANDS = {"fetch": _fetch, "list": _list, "verify": _verify, "clean": _clean}


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
