"""The style sheet of the day report for screen, phone and print, light and dark, with contrast of WCAG AA."""

from __future__ import annotations

from importlib.resources import files

CSS = "\n" + files(__package__).joinpath("style.css").read_text(encoding="utf-8")
