"""What makes two failures the same: the case and what it said, without what differs from run to run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from reports.story import Outcome

MOST = 1000
"""Characters of a line that count."""

_BLANKS = tuple(
    (re.compile(pattern, re.IGNORECASE), blank)
    for pattern, blank in (
        (r"\b\d{8}-\d{4}-[a-z0-9]{4}\b", "<run>"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?", "<time>"),
        (r"\b0x[0-9a-f]+\b", "<hex>"),
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<hex>"),
        (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
        (r"(?<![\w.])\d{1,3}(\.\d{1,3}){3}(/\d{1,2})?(?![\w.]*\d)", "<address>"),
        (r"(?<![\w:])[0-9a-f]{0,4}(:[0-9a-f]{0,4}){2,7}(/\d{1,3})?(?![\w:])", "<address>"),
        (r"\b(?=[a-f]*\d)[0-9a-f]{8,}\b", "<hex>"),
        # A number within a name (node4, vmbr1, osd.3) is part of the name; after one of these words it
        # is what tells this failure from others.
        (r"(?<!code )(?<!status )(?<!exit_status=)(?<!error: )(?<!errno )(?<!HTTP )"
         r"(?<![\w.])(?<!\w-)-?\d+([.,]\d+)*(?!\w*-\w)(?=\b|[a-z%])", "<n>"),
    )
)  # fmt: skip


def fingerprints(outcome: Outcome, nodes: Iterable[str]) -> dict[str, str]:
    """What an outcome said, by fingerprint: one entry for each node that it names, or one for all."""
    return {fingerprint(outcome.name, part): part for part in parts(outcome.said, nodes)}


def fingerprint(name: str, said: str) -> str:
    """Twelve characters that are the same in every run in which this case fails in this way."""
    lines = said.strip().splitlines()[:1]
    # What was last seen may be another packet each time; what is likely is the diagnosis.
    lines += [line for line in said.splitlines()[1:] if line.strip().startswith("likely:")]
    told = "\n".join([name, *(blanked(line[:MOST]) for line in lines)])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def blanked(text: str) -> str:
    """A text with what differs from run to run replaced: numbers, times, addresses, identifiers."""
    for pattern, blank in _BLANKS:
        text = pattern.sub(blank, text)
    return " ".join(text.split())


def parts(said: str, nodes: Iterable[str]) -> list[str]:
    """The failures of several nodes in one text, apart: each begins with the name of its node."""
    heads = tuple(f"{node}: " for node in nodes)
    told: list[str] = []
    for line in said.splitlines():
        if told and not line.startswith(heads):
            told[-1] += f"\n{line}"
        else:
            told.append(line)
    return told or [""]
