"""Times, durations and facts in the words of the dashboard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def duration(seconds: float, *, clock: bool = False) -> str:
    """So long: "7 s", "2:05 min", "25 min", "3:12 h", "4 days"; as a clock "0:07", "2:05", "3:12:00"."""
    whole = max(int(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    if clock:
        return f"{hours}:{minutes_left:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{minutes}:{rest:02} min"
    if hours < 1:
        return f"{minutes} min"
    return f"{hours}:{minutes_left:02} h" if hours < 48 else f"{hours // 24} days"


def clock_time(moment: float) -> str:
    """When, of a day: "22:31:05"; UTC."""
    return time.strftime("%H:%M:%S", time.gmtime(moment))


def date_time(moment: float) -> str:
    """When: "22 Nov 2026 22:31:05 UTC"."""
    return time.strftime("%d %b %Y %H:%M:%S UTC", time.gmtime(moment)).lstrip("0")


def moment(at: float, now: float) -> str:
    """When, as short as it can be at `now`: "22:31:05" of today, "21 Nov 22:31" of another day."""
    day, today = time.gmtime(at), time.gmtime(now)
    if day[:3] == today[:3]:
        return time.strftime("%H:%M:%S", day)
    return time.strftime("%d %b %H:%M" if day.tm_year == today.tm_year else "%d %b %Y", day).lstrip("0")


def iso_time(moment: float) -> str:
    """When, for machines: "2026-11-22T22:31:05Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def words(key: str) -> str:
    """A fact's name to be read: "boot mode" for "boot_mode"."""
    return str(key).replace("_", " ").replace("-", " ")


def one_line(value: Any) -> str:
    """A fact to be read; a list or an object on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(
            words(key) if each is True else f"{words(key)} {one_line(each)}"
            for key, each in value.items()
            if each not in (None, False, "", [], {})
        )
    if isinstance(value, list | tuple):
        return "; ".join(one_line(each) for each in value)
    return "not known" if value is None else str(value)
