"""What commands are made of, loaded when it is first used: help and wrong arguments wait for none of it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline import flows, observing, provisioning, results, room_fields, room_wanted, rooms
    from pipeline.cli import show
else:

    class _Lazy:
        """Stands for a module until something of it is asked for."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self._name), attribute)

    flows, observing, provisioning, results, room_fields, room_wanted, rooms = (
        _Lazy(f"pipeline.{name}")
        for name in ("flows", "observing", "provisioning", "results", "room_fields", "room_wanted", "rooms")
    )
    show = _Lazy("pipeline.cli.show")

__all__ = ["flows", "observing", "provisioning", "results", "room_fields", "room_wanted", "rooms", "show"]
