"""What subiquity tells its reporting destinations: the start and the finish of everything, by nested names.

Sources: canonical/subiquity (subiquitycore/context.py), curtin (reporter/events.py and handlers.py): an event
is posted once, and nothing waits for a good answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from virtual_lab.http_client import HttpFailed, Request, Response

SECONDS = 30.0
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
CURTIN = {"Content-Type": "application/json", "User-Agent": "Curtin/24.1.1"}


@dataclass(slots=True)
class Events:
    """The reporting of one installation; `say` hears of all, destinations of what is of their level."""

    send: Callable[[Request, float], Response]
    say: Callable[[str], None]
    destinations: list[tuple[str, str]] = field(default_factory=list)

    def report_to(self, reporting: Mapping[str, Any]) -> None:
        """From now on tell the webhooks of an autoinstall's `reporting`, which nobody has checked yet."""
        hooks = [
            each for each in reporting.values() if isinstance(each, dict) and each.get("type") == "webhook"
        ]
        levels = {name: name for name in LEVELS}  # of another word curtin makes a warning
        self.destinations = [
            (str(hook["endpoint"]), levels.get(str(hook.get("level", "DEBUG")), "WARNING"))
            for hook in hooks
            if "endpoint" in hook
        ]

    @contextmanager
    def context(self, name: str, description: str = "", level: str = "INFO") -> Iterator[None]:
        """Something that starts, and finishes with SUCCESS, or with FAIL and the error's text."""
        self.start(name, description, level)
        try:
            yield
        except Exception as error:
            self._finish(name, str(error), level, "FAIL")
            raise
        self._finish(name, description, level, "SUCCESS")

    def start(self, name: str, description: str = "", level: str = "INFO") -> None:
        """Something starts that may never finish."""
        self._publish({"name": name, "description": description, "event_type": "start", "level": level})

    def _finish(self, name: str, description: str, level: str, result: str) -> None:
        told = {"name": name, "description": description, "event_type": "finish", "level": level}
        self._publish({**told, "result": result})

    def _publish(self, event: dict[str, str]) -> None:
        # Of a command the description is all of it, tokens included; what is said is kept.
        words = (
            event["event_type"],
            event["name"],
            event.get("result", ""),
            event["description"].split("\n")[0],
        )
        self.say(": ".join(word for word in words if word))
        body = json.dumps({**event, "origin": "curtin", "timestamp": time.time()}).encode()
        for endpoint, least in self.destinations:
            if LEVELS.index(event["level"]) >= LEVELS.index(least):
                self._post(endpoint, body)

    def _post(self, endpoint: str, body: bytes) -> None:
        try:
            self.send(Request("POST", endpoint, CURTIN, body), SECONDS)
        except HttpFailed as failure:
            self.say(f"failed posting event: {failure}")
