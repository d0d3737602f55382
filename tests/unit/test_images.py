"""`images:` of a lab file, from its words to the files that the server step uploads; the cache in between."""

from __future__ import annotations

import fcntl
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision import images, server_media
from provision.errors import GaveUp, InventoryError, LabError
from provision.images import Cache
from provision.images.__main__ import main
from provision.images.cache import LIMIT, limit
from provision.inventory import Lab, load
from tests.unit import iso_material as isos
from tests.unit.mirror import Mirror, serving
from virtual_lab import media

LABS = Path(__file__).parents[2] / "labs"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own, and no tool of Proxmox on this machine."""
    monkeypatch.setenv("RACKPROOF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RACKPROOF_IMAGES_LIMIT", raising=False)
    monkeypatch.setattr("provision.images.preparation.ASSISTANT", "not-on-this-machine")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An ISO of each system, which no test changes."""
    folder = tmp_path_factory.mktemp("published")
    return {"proxmox-9": isos.proxmox(folder / "pve.iso"), "ubuntu-24.04": isos.ubuntu(folder / "ubuntu.iso")}


@pytest.fixture
def published(shelf: dict[str, Path]) -> dict[str, Path]:
    """The ISOs that the mirrors have and whose checksums stand in lab files."""
    return dict(shelf)


@pytest.fixture
def mirrors(published: dict[str, Path]) -> Iterator[dict[str, Mirror]]:
    """A mirror for each ISO."""
    with ExitStack() as ends:
        yield {
            system: ends.enter_context(serving(Mirror(iso.read_bytes()))) for system, iso in published.items()
        }


Write = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path, published: dict[str, Path]) -> Write:
    """Writes a lab file with these images, by their addresses."""

    def write(addresses: dict[str, str | Mirror], name: str = "lab.yaml", **more: object) -> Path:
        lab = yaml.safe_load((LABS / "virtual.yaml").read_text())
        lab["images"] = {
            system: {"url": address if isinstance(address, str) else address.url,
                     "sha256": isos.sha256(published[system]), **more}
            for system, address in addresses.items()
        }  # fmt: skip
        (tmp_path / name).write_text(yaml.safe_dump(lab))
        return tmp_path / name

    return write


def use(lab: Lab, tell: Callable[[str], None] = lambda _: None, given: Sequence[Path] = ()) -> None:
    """Have the lab's images ready, as the server step does."""
    with images.ready(lab, tell, given=given):
        pass


def mistakes(path: Path) -> str:
    with pytest.raises(InventoryError) as wrong:
        load(path, {})
    return str(wrong.value)


@isos.needs_xorriso
def test_the_server_is_brought_what_was_published(
    mirrors: dict[str, Mirror], written: Write, published: dict[str, Path], home: Path
) -> None:
    lab = load(written({"proxmox-9": mirrors["proxmox-9"], "ubuntu-24.04": mirrors["ubuntu-24.04"]}))
    said: list[str] = []
    with images.ready(lab, said.append):
        files = {system: server_media.files_of(system, media) for system, media in lab.media.items()}
    assert {system: set(names) for system, names in files.items()} == {
        "proxmox-9": {"vmlinuz", "initrd.img", "proxmox.iso"},
        "ubuntu-24.04": {"vmlinuz", "initrd.img", "ubuntu.iso"},
    }
    assert files["ubuntu-24.04"]["ubuntu.iso"].read_bytes() == published["ubuntu-24.04"].read_bytes()
    shown = media.iso_files(files["proxmox-9"]["proxmox.iso"], "auto-installer-mode.toml", media.ID_FILE)
    inside = media.initrd_files(files["proxmox-9"]["initrd.img"].read_bytes())
    assert shown["auto-installer-mode.toml"].startswith(b'mode = "http"')
    assert shown[media.ID_FILE] == inside[media.ID_FILE]
    assert all(path.is_relative_to(home / "installers") for each in files.values() for path in each.values())
    assert "proxmox-9: Proxmox VE 9.2-1 is ready, prepared by xorriso" in said
    said.clear()
    with images.ready(lab, said.append):
        assert said == [], "a second time there is nothing to do"
    assert [len(mirror.asked) for mirror in mirrors.values()] == [1, 1]


@isos.needs_xorriso
def test_grub_gets_one_more_file_when_it_is_asked_for(mirrors: dict[str, Mirror], written: Write) -> None:
    plain = load(written({"proxmox-9": mirrors["proxmox-9"]}))
    assert plain.media["proxmox-9"].combined is None
    use(plain)
    lab = load(written({"proxmox-9": mirrors["proxmox-9"]}, grub=True))
    with images.ready(lab, lambda _: None):
        files = server_media.files_of("proxmox-9", lab.media["proxmox-9"])
    assert files["initrd-iso.img"].stat().st_size > files["proxmox.iso"].stat().st_size
    assert len(mirrors["proxmox-9"].asked) == 1, "it is made of what is there"


@isos.needs_xorriso
def test_what_a_killed_process_left_is_cleared_away(
    mirrors: dict[str, Mirror], written: Write, home: Path
) -> None:
    lab = load(written({"proxmox-9": mirrors["proxmox-9"]}))
    use(lab)
    made = lab.media["proxmox-9"].iso.parent
    for left in (made.with_name(".preparing-dead"), made.with_name("prepared-0")):
        left.mkdir()
        (left / "proxmox.iso").write_bytes(b"half")
    (made / "manifest.json").unlink()
    use(lab)
    assert sorted(path.name for path in made.parent.iterdir()) == ["prepared-1", "published.iso"]
    assert len(mirrors["proxmox-9"].asked) == 1


@isos.needs_xorriso
def test_an_iso_of_another_release_is_refused_with_nothing_prepared(
    tmp_path: Path, written: Write, published: dict[str, Path], home: Path
) -> None:
    published["proxmox-9"] = isos.proxmox(
        tmp_path / "old.iso", {".cd-info": b"PRODUCT='pmg'\nRELEASE='9.0'\n"}
    )
    path = written({"proxmox-9": "http://127.0.0.1:9/none"})
    with pytest.raises(images.Unusable, match=r"it is pmg 9\.0, and the lab file asks for proxmox-9"):
        use(load(path), given=[tmp_path / "old.iso"])
    assert [path.name for path in (home / "installers").iterdir()] == ["locks"]


@isos.needs_xorriso
def test_two_runs_at_once_download_once(mirrors: dict[str, Mirror], written: Write) -> None:
    lab = load(written({"proxmox-9": mirrors["proxmox-9"]}))
    both_use_it = threading.Barrier(2, timeout=60)

    def use_it() -> None:
        with images.ready(lab, lambda _: None):
            both_use_it.wait()
            done.append(images.is_prepared(lab.media["proxmox-9"]))

    done: list[bool] = []
    runs = [threading.Thread(target=use_it) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert done == [True, True], "what is ready is used by both at the same time"
    assert len(mirrors["proxmox-9"].asked) == 1


def test_who_comes_second_waits_and_is_told_for_what(written: Write, home: Path) -> None:
    lab = load(written({"proxmox-9": "http://127.0.0.1:9/none"}))
    impatient = lab.model_copy(update={"deadlines": lab.deadlines.model_copy(update={"images": 0.0})})
    (home / "installers/locks").mkdir(parents=True)
    said: list[str] = []
    with (home / "installers/locks" / lab.images["proxmox-9"].sha256).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(GaveUp, match=r"not reached within 0 s\n.*another process was still at work"):
            use(impatient, said.append)
    assert said == ["proxmox-9: waiting: another process is at work on it"]


def entry(home: Path, number: int, size: int, used: float) -> Path:
    folder = home / "installers" / f"{number:064x}"
    folder.mkdir(parents=True)
    (folder / "published.iso").write_bytes(random.Random(number).randbytes(size))
    os.utime(folder, (used, used))
    return folder


def test_the_least_recently_used_goes_and_never_what_the_lab_needs(home: Path) -> None:
    folders = [entry(home, number, 1_000_000, used) for number, used in ((1, 30), (2, 10), (3, 20), (4, 40))]
    cache = Cache(keep=[folders[1].name], most=4_100_000)
    cache.make_room(1_500_000)
    assert [folder.exists() for folder in folders] == [False, True, False, True]
    cache.make_room(4_000_000)
    assert [folder.exists() for folder in folders] == [False, True, False, False]
    cache.make_room(4_000_000)
    assert folders[1].exists(), "beyond the limit rather than without"


def test_what_another_run_uses_stays(home: Path) -> None:
    folders = [entry(home, number, 1_000_000, number) for number in (1, 2)]
    (home / "installers/locks").mkdir()
    with (home / "installers/locks" / folders[0].name).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        Cache(most=0).make_room(1)
    assert [folder.exists() for folder in folders] == [True, False]


def test_too_little_room_is_told_in_numbers_before_anything_is_asked(
    mirrors: dict[str, Mirror], written: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = load(written({"proxmox-9": mirrors["proxmox-9"]}, size=1_709_506_560))
    (usage := type("Usage", (), {})()).free = 1_200_000_000
    monkeypatch.setattr("provision.images.cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(LabError, match=r"has too little room: 3\.8 GB are needed and 1\.2 GB are free"):
        use(lab)
    assert mirrors["proxmox-9"].asked == []


@pytest.mark.parametrize(
    ("given", "size"),
    [("", LIMIT), ("500", 500), ("40G", 40 * 10**9), ("1.5G", None), ("lots", None), ("-1", None)],
)
def test_the_limit_is_a_size(given: str, size: int | None) -> None:
    if size is not None:
        assert limit({"RACKPROOF_IMAGES_LIMIT": given}) == size
        return
    with pytest.raises(
        InventoryError, match=f'RACKPROOF_IMAGES_LIMIT: "{given}" is no size; write it as 40G'
    ):
        limit({"RACKPROOF_IMAGES_LIMIT": given})


@isos.needs_xorriso
def test_the_command_from_an_empty_cache_to_a_clean_one(
    mirrors: dict[str, Mirror], written: Write, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written({"proxmox-9": mirrors["proxmox-9"]}))
    assert main(["list", path]) == 1
    assert capsys.readouterr().out.startswith("proxmox-9: not there\n")
    assert main(["verify", path]) == 1
    assert capsys.readouterr().out == "proxmox-9: not there; fetch it\n"
    assert main(["fetch", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].startswith("proxmox-9: ")
        and lines[-1] == f"proxmox-9: {load(Path(path)).media['proxmox-9'].iso.parent}"
    )
    assert main(["list", path]) == 0
    assert capsys.readouterr().out.startswith("proxmox-9: ready: Proxmox VE 9.2-1, ")
    assert main(["verify", path]) == 0
    assert capsys.readouterr().out == "proxmox-9: as it should be\n"
    folder = entry(home, 5, 1_000_000, 1.0)
    assert main(["list", path]) == 0
    assert (
        f"not of this lab: {folder.name[:12]}…, 1.0 MB, last needed on 01 Jan 1970" in capsys.readouterr().out
    )
    assert main(["clean", path]) == 0
    assert capsys.readouterr().out == f"{folder.name[:12]}…: removed, 1.0 MB\n"
    assert main(["list", path]) == 0


@isos.needs_xorriso
def test_a_file_that_rotted_in_the_cache_is_found(
    mirrors: dict[str, Mirror], written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written({"proxmox-9": mirrors["proxmox-9"]})
    assert main(["fetch", str(path)]) == 0
    made = load(path).media["proxmox-9"]
    content = bytearray(made.iso.read_bytes())
    content[-1000] ^= 1
    made.iso.write_bytes(content)
    made.vmlinuz.unlink()
    capsys.readouterr()
    assert main(["verify", str(path)]) == 1
    assert capsys.readouterr().out == (
        "proxmox-9: vmlinuz has changed since it was made; proxmox.iso has changed since it was made; "
        f"{made.vmlinuz} cannot be read: No such file or directory\n"
    )


@isos.needs_xorriso
def test_media_prepared_by_hand_are_verified_too(
    tmp_path: Path, written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    media.build(tmp_path / "by-hand", build_id="one")
    path = written({})
    path.write_text(path.read_text() + f"media: {{proxmox-9: {tmp_path / 'by-hand'}}}\n")
    assert main(["verify", str(path)]) == 0
    media.build(tmp_path / "other", build_id="two")
    (tmp_path / "other/initrd.img").rename(tmp_path / "by-hand/initrd.img")
    capsys.readouterr()
    assert main(["verify", str(path)]) == 1
    assert "not of one build" in capsys.readouterr().out


@isos.needs_xorriso
def test_an_iso_that_is_here_is_taken_in_place_of_a_download(
    tmp_path: Path, written: Write, published: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written({"ubuntu-24.04": "http://127.0.0.1:9/none"}))
    other = str(published["proxmox-9"])
    assert main(["fetch", path, "--from", str(tmp_path / "absent.iso")]) == 1
    assert capsys.readouterr().err == f"there is no file {tmp_path / 'absent.iso'}\n"
    assert main(["fetch", path, "--from", other, "--from", str(published["ubuntu-24.04"])]) == 0
    assert f"ubuntu-24.04: taken from {published['ubuntu-24.04']}" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(
    written: Write, mirrors: dict[str, Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    mirrors["proxmox-9"].status = 404
    assert main(["fetch", str(written({"proxmox-9": mirrors["proxmox-9"]}))]) == 1
    assert f"{mirrors['proxmox-9'].url}: it answered 404 Not Found" in capsys.readouterr().err
    assert main(["fetch", str(written({}))]) == 0
    assert capsys.readouterr().out == "the lab file names nothing under images\n"
    assert main(["fetch", str(written({"proxmox-9": "ftp://a/b"}))]) == 4
    assert 'images.proxmox-9.url: "ftp://a/b" is no http or https address' in capsys.readouterr().err


def test_a_name_of_an_image_leads_to_no_other_place(written: Write, home: Path) -> None:
    path = written({"proxmox-9": "http://127.0.0.1/a.iso"})
    assert load(path).media["proxmox-9"].iso.is_relative_to(home / "installers")
    path.write_text(path.read_text().replace(load(path).images["proxmox-9"].sha256, "../../../etc"))
    assert 'images.proxmox-9.sha256: "../../../etc" is no SHA-256' in mistakes(path)


def test_one_system_has_its_files_from_one_place(written: Write) -> None:
    path = written({"proxmox-9": "http://127.0.0.1/a.iso"})
    path.write_text(path.read_text() + "media: {proxmox-9: /srv/pve9}\n")
    line = path.read_text().splitlines().index("media: {proxmox-9: /srv/pve9}") + 1
    assert (
        f'images.proxmox-9: "proxmox-9" has its files under media already: keep one (line {line})'
        in mistakes(path)
    )


def test_what_an_image_cannot_have_is_said(written: Write) -> None:
    ubuntu = written({"ubuntu-24.04": "http://me:secret@10.10.1.9/a.iso"}, grub=True)
    told = mistakes(ubuntu)
    assert "images.ubuntu-24.04.grub: is for Proxmox alone: ubuntu-24.04 fetches its ISO by itself" in told
    assert "images.ubuntu-24.04.url: has a log-in in it" in told
    assert "secret" not in told
    assert "size" in mistakes(written({"proxmox-9": "http://10.10.1.9/a.iso"}, size=0))


WORDS = st.none() | st.sampled_from(["x", "9", "true", "a" * 64, "http://a/b", "../..", "[]"])
THINGS = st.recursive(
    WORDS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["proxmox-9", "ubuntu-24.04", "url", "mirrors", "sha256", "size", "grub"]), inner, max_size=5),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(things=THINGS, media=THINGS)
def test_anything_under_images_loads_or_is_a_mistake(things: object, media: object, tmp_path: Path) -> None:
    lab = yaml.safe_load((LABS / "virtual.yaml").read_text()) | {"images": things, "media": media}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(lab))
    try:
        assert isinstance(load(tmp_path / "lab.yaml", {}), Lab)
    except InventoryError as error:
        assert error.mistakes
