"""Step `templates`: VM templates made of cloud images by the Proxmox API, each tried by a clone.

What is made, mended, made anew or refused is told in docs/templates.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision import pve
from provision import template_plan as plan
from provision.errors import LabError, Refused
from provision.inventory import Lab, Node, Template
from provision.pve import ApiRefused, Session, TaskFailed, guests, settling
from provision.remote import Remote, connect
from provision.run import Done, Run
from provision.template_image import STEP, Images
from provision.template_trial import Clone, Reach, Trial, carry_out, unless_locked
from provision.together import together
from provision.wait import NotYet, Patience

Open = Callable[[Node, Remote], Session]
Wait = Callable[[float], Patience]
Listed = Sequence[tuple[str, guests.Guest]]

_TRY = re.compile(rf"{plan.TAG}-try-(\d+)")
_IN_USE = "still in use by linked"


def make(
    lab: Lab,
    remotes: Mapping[str, Remote],
    run: Run,
    deed: str,
    *,
    open_session: Open = pve.connect,
    patience: Wait = Patience,
    reach: Reach = connect,
) -> Done:
    """Do with the lab's templates what `deed` says: one of provision.run.DEEDS.

    `create` makes what is missing, mends what can be set, makes anew what cannot, and tries each;
    `recreate` makes all anew first, `test` only tries, `remove` removes. `remotes` are all of the lab's
    nodes. Raises LabError, Refused or GaveUp: Refused, before anything is changed, when a guest that
    rackproof did not make has a template's id.
    """
    if not lab.templates:
        return Done(unchanged=["no templates: the lab file asks for none"])
    making = _Making(lab, remotes, run, open_session, patience, reach)
    try:
        return making.carry_out(deed)
    finally:
        making.close()


@dataclass(frozen=True, slots=True)
class Place:
    """A guest that stands: the node it is on, how its node lists it, its configuration."""

    node: str
    guest: guests.Guest
    config: guests.Config


@dataclass
class _Making:
    lab: Lab
    remotes: Mapping[str, Remote]
    run: Run
    open_session: Open
    wait: Wait
    reach: Reach
    opened: Session | None = None
    fetched: Images | None = None
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)

    def carry_out(self, deed: str) -> Done:
        self._await_tasks(self.lab.templates)
        listed = list(self._listed())
        self._refuse_foreign(listed)
        self._tidy(listed)
        if deed == "remove":
            return self._remove_all()
        if deed != "test":
            self._prepare()
            for vmid, template in self.lab.templates.items():
                self._make(vmid, template, anew=deed == "recreate")
        tested = {vmid: self._try(vmid, template) for vmid, template in self.lab.templates.items()}
        facts = {str(vmid): self._facts(vmid, tested[vmid]) for vmid in self.lab.templates}
        return Done(changed=self.changed, unchanged=self.unchanged, facts={"templates": facts})

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()
        self.opened = None

    # Looking

    @property
    def base(self) -> str:
        """The node that does the work: it downloads, and makes the templates."""
        return self.lab.primary.name if self.lab.cluster else next(iter(self.lab.nodes))

    @property
    def session(self) -> Session:
        if self.opened is None:
            self.opened = self.open_session(self.lab.nodes[self.base], self.remotes[self.base])
        return self.opened

    @property
    def images(self) -> Images:
        if self.fetched is None:
            seconds = self.lab.deadlines.templates
            self.fetched = Images(self.base, self.session, self.run, self.wait, seconds)
        return self.fetched

    def _listed(self, first: str | None = None) -> Iterator[tuple[str, guests.Guest]]:
        """Every guest with its node, asked one node after the other, `first` before the others."""
        for node in sorted(self.lab.nodes, key=lambda name: name != (first or self.base)):
            for guest in guests.guests(self.session, node).values():
                yield node, guest

    def _place(self, vmid: int, first: str | None = None) -> Place | None:
        for node, guest in self._listed(first):
            if guest.vmid == vmid:
                return Place(node, guest, guests.config(self.session, node, vmid))
        return None

    def _standing(self, vmid: int) -> Place:
        place = self._place(vmid)
        if place is None or not place.guest.template:
            raise LabError(f"there is no template {vmid}; make it with --templates create", node=self.base)
        return place

    def _await_tasks(self, ids: Collection[int]) -> None:
        """Let end what a killed run, or somebody else, has begun about these guests."""

        def probe() -> bool | NotYet:
            busy = [
                f"{task} on {node}"
                for node in self.lab.nodes
                for task in guests.tasks_about(self.session, node, ids)
            ]
            return NotYet(", ".join(busy)) if busy else True

        goal = f"no task at work on {', '.join(map(str, ids))}"
        self._patience().until(goal, lambda: settling(probe), node=self.base)

    def _refuse_foreign(self, listed: Listed) -> None:
        """Refuse, all at once, the template ids that guests have which rackproof did not make."""
        named = []
        for node, guest in listed:
            if guest.vmid in self.lab.templates:
                found = guests.config(self.session, node, guest.vmid)
                named += [] if plan.is_ours(guest.vmid, found) else [_described(node, guest)]
        if named:
            raise Refused(
                f"{'; '.join(named)}: rackproof has not made that guest as this template (it lacks the tag "
                f"{plan.TAG} or the notes), and leaves it alone. Give the template another id in the lab "
                "file, or remove the guest yourself",
                node=self.base,
            )

    # Getting ready

    def _tidy(self, listed: Listed) -> None:
        """Remove the clones that a killed run has left."""
        for node, guest in listed:
            if (of := _TRY.fullmatch(guest.name)) and plan.TAG in guest.tagset:
                clone = Clone(guest.vmid, int(of[1]), node)
                if self._discard(clone):
                    text = f"clone {clone.vmid} of template {clone.template}, left by an earlier run"
                    self.changed.append(f"{text}, removed")
                    self.run.say("clone-removed", text, step=STEP, node=node)

    def _prepare(self) -> None:
        self._configure_local()
        for storage in dict.fromkeys(template.storage for template in self.lab.templates.values()):
            self._storage(storage)
        for vmid, template in self.lab.templates.items():
            self._write_snippet(vmid, template)

    def _configure_local(self) -> None:
        """Let `local` keep images, snippets and, where a template is to be on it, disks."""
        on_local = any(template.storage == plan.IMAGES for template in self.lab.templates.values())
        needed = ["import", "snippets", *(["images"] if on_local else [])]
        found = guests.contents(self.session, plan.IMAGES)
        if missing := [word for word in needed if word not in found]:
            guests.set_contents(self.session, plan.IMAGES, [*found, *missing])
            self.changed.append(f"storage {plan.IMAGES} keeps {', '.join(missing)}")

    def _storage(self, name: str) -> guests.Storage:
        """A storage that can hold templates; raises Refused when it cannot."""
        try:
            found = guests.storage(self.session, self.base, name)
        except ApiRefused as error:
            raise Refused(f'storage "{name}" for templates: {error.message}', node=self.base) from error
        if not found.serves("images"):
            state = f"active: {found.active}, enabled: {found.enabled}, content: {found.content}"
            raise Refused(
                f'storage "{name}" cannot hold the disks of templates', node=self.base, last_seen=state
            )
        return found

    def _write_snippet(self, vmid: int, template: Template) -> None:
        path, text = plan.snippet_path(vmid), plan.snippet(template)
        nodes = {name: self.remotes[name] for name in self.lab.nodes}
        written = together(nodes, lambda remote: remote.write(path, text))
        if any(written.values()):
            where = ", ".join(name for name, changed in written.items() if changed)
            self.changed.append(f"snippet of template {vmid} on {where}")

    # Making

    def _make(self, vmid: int, template: Template, *, anew: bool) -> None:
        place = self._place(vmid)
        why = self._why_anew(vmid, template, place, anew=anew)
        if place is not None and why is None:
            self._mend(vmid, template, place)
            return
        # The old one stands until the new one's image is there.
        if self.images.have(template):
            self.changed.append(f"image {plan.image_name(template)} downloaded")
        if place is not None and why is not None:
            self._destroy(vmid, place, why)
        self._create(vmid, template)

    def _why_anew(self, vmid: int, template: Template, place: Place | None, *, anew: bool) -> str | None:
        """Why a template that stands is made anew, None when it can stay."""
        if place is None or anew:
            return "it was asked for"
        why = plan.beyond_mending(vmid, template, place.guest, place.config)
        return why or self._lost_disk(template, place)

    def _lost_disk(self, template: Template, place: Place) -> str | None:
        """Which disk of a template is not on its storage any more, as after a pool was made anew."""
        kept = guests.volumes(self.session, place.node, template.storage, "images")
        disks = {drive: plan.volume_of(place.config, drive) for drive in (plan.EFI, plan.DISK)}
        return next(
            (f"its {drive}, {disk}, is gone" for drive, disk in disks.items() if disk not in kept), None
        )

    def _mend(self, vmid: int, template: Template, place: Place) -> None:
        wrong = plan.differences(plan.settings(self.lab, vmid, template), place.config)
        if not plan.has_cloud_init(template, place.config):
            wrong[plan.CLOUD_INIT] = self._cloud_init_drive(vmid, template, place.node)
        if not wrong:
            self.unchanged.append(f"template {vmid} {template.name} on {place.node}")
            self.run.say(
                "already", f"template {vmid} {template.name} stands, as the lab file asks", step=STEP
            )
            return
        self._set(vmid, place.node, wrong)
        text = f"template {vmid} mended: {', '.join(wrong)}"
        self.changed.append(text)
        self.run.say("template-mended", text, step=STEP, node=place.node)

    def _cloud_init_drive(self, vmid: int, template: Template, node: str) -> str:
        """A new cloud-init drive, or the one that the configuration lost: Proxmox has but one name for it."""
        kept = guests.volumes(self.session, node, template.storage, "images")
        lost = [volume for volume in kept if plan.is_cloud_init_of(vmid, volume)]
        return f"{lost[0]},media=cdrom" if lost else plan.cloud_init_drive(template)

    def _set(self, vmid: int, node: str, settings: Mapping[str, str]) -> None:
        def change() -> bool:
            guests.change(self.session, node, vmid, settings)
            return True

        self._patience().until(f"settings of {vmid}", lambda: unless_locked(change), node=self.base)

    def _create(self, vmid: int, template: Template) -> None:
        asked = {**plan.settings(self.lab, vmid, template), **plan.drives(template)}
        self._do(
            f"creation of VM {vmid} for a template",
            lambda: guests.create(self.session, self.base, vmid, asked),
        )
        if template.disk is not None:
            self._resize(vmid, template, template.disk)
        self._do(
            f"conversion of VM {vmid} to a template",
            lambda: guests.to_template(self.session, self.base, vmid),
        )
        self.changed.append(f"template {vmid} {template.name} made on {self.base}")
        text = f"template {vmid} {template.name}, on storage {template.storage}"
        self.run.say("template-made", text, step=STEP, node=self.base)

    def _resize(self, vmid: int, template: Template, gib: int) -> None:
        found = plan.size_of(guests.config(self.session, self.base, vmid))
        if found > gib << 30:
            raise Refused(
                f"template {vmid} is to have a disk of {gib} GiB, but its image has {found / (1 << 30):g}; "
                f"correct disk: of {template.name} in the lab file",
                node=self.base,
            )
        if found < gib << 30:
            self._do(
                f"resizing of VM {vmid}",
                lambda: guests.resize(self.session, self.base, vmid, plan.DISK, gib),
            )

    # Removing

    def _destroy(self, vmid: int, place: Place, why: str) -> None:
        """Destroy a template; raises Refused, and nothing is done, while linked clones live of it."""
        try:
            self._end(vmid, place)
        except (ApiRefused, TaskFailed) as error:
            if _IN_USE not in str(error):
                raise
            raise Refused(
                f"template {vmid} cannot be destroyed ({why}): guests cloned from it still use its disk; "
                "remove them, or make full clones of them, or give the new template another id",
                node=place.node,
                last_seen=error.last_seen,
            ) from error
        self.changed.append(f"template {vmid} destroyed: {why}")
        self.run.say("template-destroyed", f"template {vmid}: {why}", step=STEP, node=place.node)

    def _end(self, vmid: int, place: Place) -> None:
        if place.guest.status == "running":
            self._do(f"stop of {vmid}", lambda: guests.stop(self.session, place.node, vmid))
        self._do(f"removal of {vmid}", lambda: guests.destroy(self.session, place.node, vmid))

    def _remove_all(self) -> Done:
        for vmid, template in self.lab.templates.items():
            place = self._place(vmid)
            if place is None:
                self.unchanged.append(f"there is no template {vmid}")
            else:
                self._destroy(vmid, place, "it was asked for")
            self._remove_files(vmid, template)
        return Done(changed=self.changed, unchanged=self.unchanged, facts={"templates": {}})

    def _remove_files(self, vmid: int, template: Template) -> None:
        nodes = {name: self.remotes[name] for name in self.lab.nodes}
        together(nodes, lambda remote: remote.check(f"rm -f {plan.snippet_path(vmid)}"))
        self.images.remove(template)

    def _discard(self, clone: Clone) -> bool:
        """Stop and destroy a clone, wherever it is; False when its id is nobody's, or another guest's."""
        place = self._place(clone.vmid, clone.node)
        if place is None or not clone.is_ours(place.config):
            return False
        self._end(clone.vmid, place)
        return True

    def _undo(self, clone: Clone) -> None:
        """The same at the end of the run, when this step is over and has closed its session."""
        try:
            # Its making may still be at work, and names its source.
            self._await_tasks([clone.template, clone.vmid])
            self._discard(clone)
        finally:
            self.close()

    # Trying

    def _try(self, vmid: int, template: Template) -> dict[str, Any]:
        place = self._standing(vmid)
        trial = Trial(
            self.lab, self.run, self.session, vmid, template,
            node=place.node, target=self._other_node(place.node, template.storage), reach=self.reach,
            patience=self._patience, discard=self._discard, undo=self._undo,
        )  # fmt: skip
        return trial.hold()

    def _other_node(self, home: str, storage: str) -> str:
        """Where a clone is tried: on another node where its disk is there too, else on its template's."""
        if not self._storage(storage).shared:
            return home
        online = self.session.status().online
        names = [name for name in self.lab.nodes if name in online or name == home]
        return names[(names.index(home) + 1) % len(names)]

    def _facts(self, vmid: int, tested: Mapping[str, Any]) -> dict[str, Any]:
        place = self._standing(vmid)
        return {
            "node": place.node, "name": place.guest.name, "image_sha256": plan.image_of(vmid, place.config),
            "volume": plan.volume_of(place.config, plan.DISK), "tested": dict(tested),
        }  # fmt: skip

    # Small help

    def _patience(self) -> Patience:
        return self.wait(self.lab.deadlines.templates)

    def _do(self, what: str, begin: Callable[[], str]) -> None:
        carry_out(self.session, what, begin, self._patience)


def _described(node: str, guest: guests.Guest) -> str:
    lock = f", locked: {guest.lock}" if guest.lock else ""
    return f'{guest.vmid} is the id of "{guest.name}" on {node}{lock}'
