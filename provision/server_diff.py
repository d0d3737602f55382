"""The change of the server step as a text for people: what is done, and every file as a unified diff."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator

from provision.certificate import CERTIFICATE, KEY
from provision.inventory import Lab
from provision.remote import Remote
from provision.server_bridge import Bridging
from provision.server_facts import Facts, OnDisk, Unit
from provision.server_media import Delivery
from provision.server_plan import PACKAGES, REQUIREMENTS, SOURCE, File, Part
from provision.server_survey import Survey
from provision.server_told import ACCOUNTS, NODES

NOTHING = "/dev/null"
UNCACHED = "-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="


def summary(lab: Lab, found: Survey) -> dict[str, str]:
    """What is done for each thing that the step may change, by its name."""
    said = {
        **({found.bridge.name: _bridging(found.bridge)} if found.bridge else {}),
        "packages": f"apt-get install {' '.join(found.packages)}{_site(found)}",
        "user rackproof": "useradd --system",
        "Python packages": f"pip install {_requirements()} packages into {PACKAGES}, by their hashes",
        "certificate": f"openssl makes {KEY} and {CERTIFICATE}",
        NODES: f"told of {len(lab.nodes)} nodes",
        ACCOUNTS: f"told of {len(lab.people)} people",
    }
    media = {f"media {name}": _deliveries(due) for name, due in found.media.items()}
    return said | media | {part.name: _doing(part, found.facts) for part in found.parts}


def apts_own(server: Remote, found: Survey) -> Iterator[str]:
    """What else apt would install for these packages, and remove; nothing where it cannot say."""
    if found.packages:
        # Without the caches, which it would write.
        asked = f"apt-get -s -q {UNCACHED} install --no-install-recommends {shlex.join(found.packages)}"
        said = [line.split() for line in server.run(f"LC_ALL=C {asked}").stdout.splitlines()]
        for verb, word in (("Inst", "with it"), ("Remv", "remove")):
            names = [words[1] for words in said if words[:1] == [verb] and words[1] not in found.packages]
            if names:
                yield f"{word}: {' '.join(sorted(names))}"


def diffs(server: Remote, found: Survey) -> Iterator[str]:
    """The files of the parts that change: what each holds now, read from the server, against what it will.

    What is in a secret file is not read, nor is its digest shown where another file names it.
    """
    files = [file for part in found.changing for file in part.files if not file.stands(found.facts)]
    hide = _hiding(found)
    if found.bridge:
        held = found.bridge.held.files
        for file in found.bridge.files:
            yield from _diff(server, file, held.get(file.path), _without_wifi)
    # The settings first; the project's own code is long, and is known.
    for file in sorted(files, key=lambda file: file.path.startswith(SOURCE)):
        yield from _diff(server, file, found.facts.files.get(file.path), hide)


def _doing(part: Part, facts: Facts) -> str:
    """Its commands, in their order."""
    unit = facts.units.get(part.unit, Unit())
    differ = sum(not file.stands(facts) for file in part.files)
    commands = [f"{differ} file{'s' if differ != 1 else ''}"] if differ else []
    commands += [part.prepare] if part.prepare != "true" else []
    commands += [f"systemctl restart {part.unit}"]
    commands += [f"systemctl enable {part.unit}"] if unit.enabled != "enabled" else []
    return ", ".join(commands)


def _bridging(bridging: Bridging) -> str:
    """What comes first may cut the connection, and goes back by itself then."""
    install = [f"apt-get install {' '.join(bridging.packages)}"] if bridging.packages else []
    count = len(bridging.files)
    files = [f"{count} file{'s' if count != 1 else ''}"] if count else []
    return ", ".join(
        [*install, *files, f"{bridging.held.manager} makes it of {', '.join(bridging.wanted.ports)}"]
    )


def _without_wifi(line: str) -> str:
    """What another interface of the same file may have for a password."""
    return re.sub(r"((?:wpa|wireless)-\S+\s+|password: |secret: )\S.*", r"\1(not shown)", line)


def _site(found: Survey) -> str:
    """The site that answers on every address comes and goes with the package."""
    return ", rm /etc/nginx/sites-enabled/default" if "nginx-light" in found.packages else ""


def _deliveries(due: Iterable[Delivery]) -> str:
    sent = [
        f"{each.path} ({f'{each.size:,} bytes' if each.size else 'made of its image first'})"
        for each in due
        if not each.whole
    ]
    return f"send {', '.join(sent)}"


def _requirements() -> int:
    return REQUIREMENTS.read_text().count("==")


def _hiding(found: Survey) -> Callable[[str], str]:
    """Takes the digests of secret files out of a text: whoever guesses a password could prove it by them."""
    secret = [file for part in found.parts for file in part.files if file.secret]
    words = {file.sha256: "(that of the new file)" for file in secret}
    before = (found.facts.files.get(file.path) for file in secret)
    words |= {old.sha256: "(that of the old file)" for old in before if old and old.sha256 not in words}

    def hide(text: str) -> str:
        for digest, word in words.items():
            text = text.replace(digest, word)
        return text

    return hide


def _diff(server: Remote, file: File, old: OnDisk | None, hide: Callable[[str], str]) -> Iterator[str]:
    before = f"{old.mode} {old.owner}" if old else ""
    after = f"{file.mode:o} {file.owner}"
    yield f"--- {file.path}\t{before}" if old else f"--- {NOTHING}"
    yield f"+++ {file.path}\t{after}{_unshown(file, old)}"
    if not (_unshown(file, old) or (old and old.sha256 == file.sha256)):
        yield from _lines(server.read(file.path) if old else b"", file.content, hide)


def _unshown(file: File, old: OnDisk | None) -> str:
    if file.secret:
        return f" ({len(file.content)} bytes, not shown: they may hold secrets)"
    if not old and file.path.startswith(SOURCE):
        return f" ({len(file.content)} bytes of this project's own code)"
    return ""


def _lines(old: bytes | None, new: bytes, hide: Callable[[str], str]) -> Iterator[str]:
    try:
        before, after = (content.decode().splitlines() for content in (old or b"", new))
    except UnicodeDecodeError:
        yield "(its content is no text)"
        return
    for line in list(difflib.unified_diff(before, after, lineterm=""))[2:]:
        yield hide(line)
