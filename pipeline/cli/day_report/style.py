"""The style sheet of the day page: screen, phone, paper, light and dark. Colours have the contrast of WCAG AA."""

from __future__ import annotations

from importlib.resources import files

CSS = "\n" + files(__package__).joinpath("style.css").read_text(encoding="utf-8")
