"""Has a node fetch cloud images, each from the first of its addresses that gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from provision import template_plan as plan
from provision.errors import GaveUp, LabError
from provision.inventory import Template
from provision.pve import ApiRefused, Session, TaskFailed, guests
from provision.run import Run
from provision.wait import Patience

STEP = "templates"


@dataclass
class Images:
    """The images on one node; `session` is any node's, `seconds` how long all addresses of one may take."""

    node: str
    session: Session
    run: Run
    wait: Callable[[float], Patience]
    seconds: float
    had: set[str] = field(default_factory=set)

    def have(self, template: Template) -> bool:
        """Have the template's image there, as its checksum says; True when it had to be downloaded.

        Raises LabError naming every address that was tried, and why each failed.
        """
        known = template.image.sha256 in self.had or (self._is_there(template) and self._is_intact(template))
        if not known:
            self._fetch(template)
        self.had.add(template.image.sha256)
        return not known

    def remove(self, template: Template) -> bool:
        """Delete the template's image; False when there is none."""
        if not self._is_there(template):
            return False
        upid = guests.delete_volume(self.session, self.node, plan.image_volume(template))
        if upid is not None:
            self.session.finish(upid, f"removal of {plan.image_name(template)}", self.wait(self.seconds))
        self.had.discard(template.image.sha256)
        return True

    def _is_there(self, template: Template) -> bool:
        found = guests.volumes(self.session, self.node, plan.IMAGES, "import")
        return plan.image_volume(template) in found

    def _is_intact(self, template: Template) -> bool:
        """Whether the file has its checksum, by the node's own look at it; one that has not is deleted."""
        try:
            self._download(template, template.image.url, self.seconds)
        except TaskFailed:
            self.remove(template)
            return False
        return True

    def _fetch(self, template: Template) -> None:
        addresses = list(dict.fromkeys((template.image.url, *template.image.mirrors)))
        failed: dict[str, str] = {}
        for address in addresses:
            try:
                self._download(template, address, self.seconds / len(addresses))
            except (TaskFailed, ApiRefused, GaveUp) as error:
                failed[address] = _reason(address, error)
                self._say("image-failed", f"{address}: {failed[address]}")
            else:
                self._say("image", f"{plan.image_name(template)} from {address}")
                return
        raise self._none_gave_it(template, failed)

    def _download(self, template: Template, address: str, seconds: float) -> None:
        upid = guests.download(
            self.session, self.node, plan.IMAGES,
            url=address, filename=plan.image_name(template), sha256=template.image.sha256,
        )  # fmt: skip
        try:
            self.session.finish(upid, f"download of {address}", self.wait(seconds))
        except GaveUp:
            guests.stop_task(self.session, upid)
            raise

    def _none_gave_it(self, template: Template, failed: Mapping[str, str]) -> LabError:
        return LabError(
            f"no address gave the image of template {template.name} with sha256 {template.image.sha256}",
            node=self.node,
            last_seen="\n".join(f"{address}: {why}" for address, why in failed.items()),
            likely="an address that the node cannot reach, or an image that was replaced after its checksum "
            "was written into the lab file",
        )

    def _say(self, kind: str, text: str) -> None:
        self.run.say(kind, text, step=STEP, node=self.node)


def _reason(address: str, error: LabError) -> str:
    """Why an address did not give the image: what the task said last, beside how it ended."""
    said = error.message.removeprefix(f"download of {address}").removeprefix(" failed").removeprefix(": ")
    lines = [line for line in (error.last_seen or "").splitlines() if line.strip() and address not in line]
    told = [line for line in lines if not line.startswith("TASK ERROR")]
    return f"{said} ({told[-1].strip()})" if told else said
