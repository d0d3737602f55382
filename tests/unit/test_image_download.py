"""Large files come whole, from whichever address gives them, or not at all; mirrors are played on loopback."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import GaveUp, LabError
from provision.images.download import TRIES, Download, Order, _range, in_words
from provision.wait import Deadline
from tests.unit.mirror import Mirror, serving, unreachable

CONTENT = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def mirror() -> Iterator[Callable[..., Mirror]]:
    """Begins mirrors, which end with the test."""
    with ExitStack() as ends:
        yield lambda content=CONTENT, **ways: ends.enter_context(serving(Mirror(content, **ways)))


class Fetched:
    """Downloads into one folder, and what was said of them."""

    def __init__(self, folder: Path) -> None:
        self.part, self.target = folder / "image.iso.part", folder / "image.iso"
        self.said: list[str] = []
        self.pauses: list[float] = []

    def fetch(
        self, *mirrors: Mirror | str, size: int | None = None, seconds: float = 60, **how: object
    ) -> None:
        addresses = tuple(mirror if isinstance(mirror, str) else mirror.url for mirror in mirrors)
        order = Order(addresses, SHA256, size)
        options = {"tell": self.said.append, "sleep": self.pauses.append, **how}
        Download(order, self.part, Deadline(seconds), **options).fetch(self.target)  # type: ignore[arg-type]
        assert self.target.read_bytes() == CONTENT
        assert [path.name for path in self.target.parent.iterdir()] == [self.target.name]


@pytest.fixture
def fetched(tmp_path: Path) -> Fetched:
    return Fetched(tmp_path)


Begin = Callable[..., Mirror]


def test_a_file_comes_whole_and_is_told_of(mirror: Begin, fetched: Fetched) -> None:
    source = mirror()
    fetched.fetch(source, size=len(CONTENT))
    assert source.asked[0].get("Range") is None
    assert any("3.0 MB from 127.0.0.1" in line for line in fetched.said)
    assert fetched.said[-1] == "checking the 3.0 MB that came"


def test_a_cut_download_goes_on_where_it_was(mirror: Begin, fetched: Fetched) -> None:
    source = mirror(cuts=[1_000_000, 700_000])
    fetched.fetch(source)
    ranges = [(asked.get("Range"), asked.get("If-Range")) for asked in source.asked]
    assert ranges == [(None, None), ("bytes=1000000-", '"one"'), ("bytes=1700000-", '"one"')]
    assert len(fetched.pauses) == 2


def test_an_answer_without_a_length_that_is_cut_is_completed(mirror: Begin, fetched: Fetched) -> None:
    fetched.fetch(mirror(cuts=[1_000_000], sized=False), size=len(CONTENT))


def test_a_later_process_goes_on_where_the_killed_one_was(mirror: Begin, fetched: Fetched) -> None:
    source = mirror(cuts=[1_000_000] + [0] * TRIES)
    with pytest.raises(LabError, match="no address gave the file"):
        fetched.fetch(source)
    assert fetched.part.read_bytes() == CONTENT[:1_000_000]
    fetched.fetch(source)
    assert source.asked[-1]["Range"] == "bytes=1000000-"


def test_a_mirror_that_ignores_ranges_begins_anew(mirror: Begin, fetched: Fetched) -> None:
    source = mirror(ranges="ignored", cuts=[1_000_000])
    fetched.fetch(source)
    assert len(source.asked) == 2


def test_a_mirror_that_sends_wrong_ranges_is_asked_for_all(mirror: Begin, fetched: Fetched) -> None:
    source = mirror(ranges="wrong", cuts=[1_000_000])
    fetched.fetch(source)
    assert [asked.get("Range") for asked in source.asked] == [None, "bytes=1000000-", None]


def test_a_file_that_changed_in_between_is_read_from_its_beginning(mirror: Begin, fetched: Fetched) -> None:
    source = mirror(OTHER, cuts=[1_000_000])

    def change() -> None:
        source.content, source.version = CONTENT, '"two"'

    source.then = change
    fetched.fetch(source)
    assert source.asked[1]["If-Range"] == '"one"'


@pytest.mark.parametrize("version", ["", 'W/"weak"'])
def test_a_change_that_nothing_tells_is_found_by_the_checksum(
    version: str, mirror: Begin, fetched: Fetched
) -> None:
    source = mirror(OTHER, cuts=[1_000_000], version=version)
    source.then = lambda: setattr(source, "content", CONTENT)
    fetched.fetch(source)
    assert [asked.get("Range") for asked in source.asked] == [None, "bytes=1000000-", None]
    assert any("from the beginning" in line for line in fetched.said)


def test_what_is_here_of_a_longer_file_is_thrown_away(mirror: Begin, fetched: Fetched) -> None:
    fetched.part.write_bytes(OTHER + OTHER)
    fetched.fetch(mirror())


def test_a_download_that_had_all_but_its_name_is_not_asked_for_again(mirror: Begin, fetched: Fetched) -> None:
    fetched.part.write_bytes(CONTENT)
    source = mirror()
    fetched.fetch(source, size=len(CONTENT))
    assert source.asked == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_the_next_mirror_is_asked_when_one_has_no_such_file(
    status: int, mirror: Begin, fetched: Fetched
) -> None:
    without, source = mirror(status=status), mirror()
    fetched.fetch(without, source)
    assert len(without.asked) == 1, "it is not asked again"
    assert any(f"it answered {status}" in line for line in fetched.said)


def test_the_next_mirror_goes_on_where_one_failed(mirror: Begin, fetched: Fetched) -> None:
    failing, source = mirror(cuts=[1_000_000] + [0] * TRIES), mirror()
    fetched.fetch(failing, source)
    assert len(failing.asked) == 1 + TRIES
    assert (source.asked[0]["Range"], source.asked[0].get("If-Range")) == ("bytes=1000000-", None)


def test_each_kind_of_failure_is_told_by_its_address(mirror: Begin, fetched: Fetched) -> None:
    lame, nothing = mirror(status=503), unreachable()
    keyed = f"{unreachable()}?key=secret"
    other, small, gone = mirror(OTHER), mirror(CONTENT[:-1]), mirror(status=404)
    with pytest.raises(LabError, match=f"no address gave the file with sha256 {SHA256}") as failed:
        fetched.fetch(lame, nothing, keyed, other, small, gone, size=len(CONTENT))
    assert (failed.value.last_seen or "").splitlines() == [
        f"{lame.url}: it answered 503 Service Unavailable; 0 bytes are here, and no more after 3 tries",
        f"{nothing}: the connection was refused; 0 bytes are here, and no more after 3 tries",
        f"{keyed.partition('?')[0]}: the connection was refused; 0 bytes are here, and no more after 3 tries",
        f"{other.url}: it gave another file: its checksum is not {SHA256[:12]}…",
        f"{small.url}: its file has 2999999 bytes, and the lab file says 3000000",
        f"{gone.url}: it answered 404 Not Found",
    ]
    assert not fetched.target.exists(), "nothing has the final name whose checksum was not right"


def test_an_endless_file_is_cut_short(
    mirror: Begin, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = mirror(CONTENT + OTHER, sized=False)
    with pytest.raises(LabError, match="sends more than the 3000000 bytes of the file"):
        fetched.fetch(endless, size=len(CONTENT))
    monkeypatch.setattr("provision.images.download.LARGEST", 1_000_000)
    with pytest.raises(LabError, match="sends more than the 1000000 bytes of the file"):
        fetched.fetch(endless)


def test_a_download_that_stalls_is_named_with_what_came(mirror: Begin, fetched: Fetched) -> None:
    stalling = mirror(cuts=[1_000_000, 0, 0, 0], silent=True)
    with pytest.raises(LabError) as failed:
        fetched.fetch(stalling, stall=0.05)
    assert "nothing came for too long; 1.0 MB are here, and no more after 3 tries" in str(failed.value)


def test_a_deadline_ends_a_download_with_what_was_last_seen(mirror: Begin, fetched: Fetched) -> None:
    with pytest.raises(GaveUp, match=r"not done within 0 s") as slow:
        fetched.fetch(mirror(), seconds=0)
    assert "of 3.0 MB are here" in (slow.value.last_seen or "")
    with pytest.raises(GaveUp, match="not reached within 0 s") as cut:
        fetched.fetch(mirror(status=503), seconds=0)
    assert "it answered 503" in (cut.value.last_seen or "")


def test_room_is_asked_for_before_the_first_byte(mirror: Begin, fetched: Fetched) -> None:
    def none(needed: int) -> None:
        raise LabError(f"too little room for {needed}")

    source = mirror(cuts=[1_000_000])
    with pytest.raises(LabError, match="too little room for 3000000"):
        fetched.fetch(source, room=none)
    assert not fetched.part.exists()
    asked: list[int] = []
    source.cuts[:] = [1_000_000]
    fetched.fetch(source, room=asked.append)
    assert asked == [3_000_000, 2_000_000]


def test_of_a_file_of_unknown_size_no_room_is_asked_for(mirror: Begin, fetched: Fetched) -> None:
    asked: list[int] = []
    fetched.part.write_bytes(CONTENT[:1_000_000])
    fetched.fetch(mirror(sized=False, ranges="ignored"), room=asked.append)
    assert asked == [0]


def test_two_downloads_side_by_side_do_not_mix(mirror: Begin, tmp_path: Path) -> None:
    source = mirror(cuts=[100_000] * 6)
    both = [Fetched(tmp_path / name) for name in ("one", "two")]
    threads = []
    for each in both:
        each.part.parent.mkdir()
        threads.append(threading.Thread(target=each.fetch, args=[source]))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert [each.target.read_bytes() == CONTENT for each in both] == [True, True]


@given(st.text(st.characters(codec="ascii", exclude_characters="\r\n"), max_size=40))
def test_any_content_range_is_understood_or_not_the_asked_one(header: str) -> None:
    response = requests.Response()
    response.headers["Content-Range"] = header
    start, total = _range(response)
    assert start >= -1
    assert total is None or total >= 0


def test_sizes_are_worded_as_makers_of_images_do() -> None:
    assert [in_words(size) for size in (0, 999, 1500, 2_000_000, 1_709_506_560)] == [
        "0 bytes", "999 bytes", "1.5 kB", "2.0 MB", "1.7 GB"
    ]  # fmt: skip
