"""All that is wrong with the user-data of Ubuntu's installer: its form, its keys, the kinds of their values.

The keys are those of canonical/subiquity's autoinstall-schema.json that rackproof writes. Where that schema
lets anything pass, as in `storage`, they are those that subiquity's code reads: another would be ignored,
and a `match` of none but unknown ones takes any disk.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from provision.errors import LabError

HEADER = "#cloud-config\n"
TOOL = "cloud-init"
SECONDS = 60.0


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Section(BaseModel):
    """A part of an autoinstall; no value becomes another kind, and no key is unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=_kebab, hide_input_in_errors=True)


class Keyboard(Section):
    """`toggle` is the key that changes the layout."""

    layout: str
    variant: str = ""
    toggle: str | None = None


class Identity(Section):
    """The first account; the password is a hash."""

    hostname: str
    username: str
    password: str
    realname: str = ""


class Ssh(Section):
    """Whether and how the installed system can be reached."""

    install_server: bool
    allow_pw: bool
    authorized_keys: list[str]


class Match(Section):
    """A disk, by globs on udev's ID_SERIAL and ID_MODEL, or by the kernel's path."""

    serial: str | None = None
    model: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _says_which(self) -> Match:
        if not (self.serial or self.model or self.path):
            raise ValueError("names no disk, and would take any")
        return self


class Layout(Section):
    """A guided layout; without `match` it would take the largest disk."""

    name: Literal["direct", "lvm"]
    match: Match
    sizing_policy: Literal["scaled", "all"] | None = None


class Storage(Section):
    """The disk that the system goes to."""

    layout: Layout


class Apt(Section):
    """What becomes of an installation without a mirror, and whether the place is asked for."""

    fallback: Literal["abort", "offline-install", "continue-anyway"]
    geoip: bool


class Network(Section):
    """Netplan's own words, in version 2."""

    version: Literal[2]
    ethernets: dict[str, dict[str, Any]]
    bridges: dict[str, dict[str, Any]]


class Webhook(Section):
    """Where events go."""

    type: Literal["webhook"]
    endpoint: str
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Autoinstall(Section):
    """The whole."""

    version: Literal[1]
    locale: str
    keyboard: Keyboard
    timezone: str
    identity: Identity
    ssh: Ssh
    early_commands: list[list[str]]
    storage: Storage
    packages: list[str]
    apt: Apt
    network: Network
    user_data: dict[str, Any]
    late_commands: list[list[str]]
    error_commands: list[list[str]]
    reporting: dict[str, Webhook]
    shutdown: Literal["reboot", "poweroff"]


def faults(user_data: str) -> list[str]:
    """All that is wrong, a line each, and what `cloud-init schema` says where it is installed.

    Raises LabError when that tool gives no verdict.
    """
    if not user_data.startswith(HEADER):
        return [f"does not begin with {HEADER.strip()}, so cloud-init would pass it over"]
    try:
        content = yaml.safe_load(user_data)
    except yaml.YAMLError as error:
        return [f"is no YAML: {getattr(error, 'problem', None) or 'it cannot be read'}"]
    if not isinstance(content, dict) or set(content) != {"autoinstall"}:
        return ["must have the one key autoinstall"]
    return [*_keys_at_fault(content["autoinstall"]), *_objections(user_data, content["autoinstall"])]


def _keys_at_fault(autoinstall: object) -> list[str]:
    try:
        Autoinstall.model_validate(autoinstall)
    except ValidationError as error:
        return [f"{'.'.join(map(str, one['loc'])) or 'autoinstall'}: {one['msg']}" for one in error.errors()]
    return []


def _objections(user_data: str, autoinstall: object) -> list[str]:
    """What cloud-init minds in the whole, and in the part that is for the installed system."""
    tool = shutil.which(TOOL)
    if tool is None:
        return []
    later = autoinstall.get("user-data", {}) if isinstance(autoinstall, dict) else {}
    texts = {"user-data": user_data, "autoinstall.user-data": HEADER + yaml.safe_dump(later)}
    return [f"{name}: {said}" for name, text in texts.items() if (said := _schema_says(tool, text))]


def _schema_says(tool: str, text: str) -> str:
    with TemporaryDirectory(prefix="rackproof-seed-") as folder:
        path = Path(folder) / "user-data"
        path.write_text(text)
        command = [tool, "schema", "--config-file", str(path)]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, capture_output=True,
                                  timeout=SECONDS, check=False)  # fmt: skip
        except (subprocess.TimeoutExpired, OSError) as error:
            raise LabError(f"{TOOL} schema gave no verdict: {type(error).__name__}") from error
    said = (done.stderr or done.stdout).strip().replace(str(path), "it")
    return "" if done.returncode == 0 else " ".join(said.split())
