"""A rack made of this machine: hardware, BMCs, firmware, installers, nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provision.inventory.models import Lab
    from virtual_lab.rack import Rack

# Every process of a rack imports this package; what raises racks is imported only where one is raised.


def raise_rack(lab: Lab, *, instance: str | None = None, say: Callable[[str], None] = print) -> Rack:
    """See `virtual_lab.rack.raise_rack`."""
    from virtual_lab import rack  # noqa: PLC0415

    return rack.raise_rack(lab, instance=instance, say=say)


def standing(lab: Lab, instance: str | None = None) -> Rack:
    """See `virtual_lab.rack.standing`."""
    from virtual_lab import rack  # noqa: PLC0415

    return rack.standing(lab, instance)
