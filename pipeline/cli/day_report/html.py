"""HTML and SVG from escaped pieces: text from outside cannot become markup (pure)."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal


class Html(str):
    """Text that is already markup; all other text is escaped."""

    __slots__ = ()


Piece = str | None | Iterable["Piece"]


def el(tag: str, *children: Piece, **attributes: str | float | None) -> Html:
    """One element. Attribute names: `class_` is `class`, `_` inside is `-`; an attribute that is None is left out."""
    attributes_text = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{attributes_text}>{join(children)}</{tag}>")


def join(pieces: Iterable[Piece]) -> Html:
    return Html("".join(_escaped(piece) for piece in pieces))


def _escaped(piece: Piece) -> str:
    if piece is None or isinstance(piece, Html):
        return piece or ""
    return html.escape(piece) if isinstance(piece, str) else join(piece)


def number_text(value: Decimal | float) -> str:
    """`12,345`; one decimal for a fraction below 100."""
    is_whole = float(value).is_integer() or abs(float(value)) >= 100
    return f"{value:,.0f}" if is_whole else f"{value:,.1f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[Piece]], *, numbers: Iterable[int] = ()) -> Html:
    """A table of text. `numbers` are the indexes of right-aligned columns."""
    right_aligned = frozenset(numbers)

    def cells(tag: str, row: Sequence[Piece], **attributes: str) -> list[Html]:
        return [
            el(tag, cell, class_="number" if index in right_aligned else None, **attributes)
            for index, cell in enumerate(row)
        ]

    head = el("thead", el("tr", cells("th", headings, scope="col")))
    body = el("tbody", [el("tr", cells("td", row)) for row in rows])
    return el("div", el("table", head, body), class_="wide")


@dataclass(frozen=True)
class Bar:
    """One horizontal bar: its label, length, and the text after it; `tone` is the CSS class of its colour."""

    label: str
    value: float
    text: str
    tone: str = "plain"


def bars(headings: tuple[str, str], rows: Sequence[Bar]) -> Html:
    """Horizontal bars in a table, each with its number."""
    longest = max((row.value for row in rows), default=0) or 1
    body = [
        el(
            "tr",
            el("th", row.label, scope="row"),
            el("td", _bar(100 * row.value / longest, row.tone), class_="bar"),
            el("td", row.text, class_="number"),
        )
        for row in rows
    ]
    head = el("tr", el("th", headings[0], scope="col"), el("td"), el("th", headings[1], scope="col", class_="number"))
    return el("table", el("thead", head), el("tbody", body), class_="bars")


def _bar(percent: float, tone: str) -> Html:
    rect = el("rect", width=f"{percent:.2f}", height="10", class_=tone)
    return el("svg", rect, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true", focusable="false")


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 380, 170, 30, 10, 22


def columns(title: str, values: Sequence[float], labels: Sequence[str], *, label_every: int = 1) -> Html:
    """A column chart: one column per value, a scale at the left, and every `label_every`-th label below."""
    top = _round_up(max(values, default=0))
    floor = _HEIGHT - _BOTTOM
    step = (_WIDTH - _LEFT) / max(len(values), 1)
    parts = [el("title", title)]
    for share in (0, 0.5, 1):
        y = floor - share * (floor - _TOP)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(el("text", number_text(top * share), x=_LEFT - 5, y=f"{y + 4:.1f}", text_anchor="end"))
    for index, (value, label) in enumerate(zip(values, labels, strict=True)):
        height = value / top * (floor - _TOP)
        x = _LEFT + index * step + step * 0.12
        tooltip = el("title", f"{label}: {number_text(value)}")
        parts.append(
            el(
                "rect",
                tooltip,
                x=f"{x:.1f}",
                y=f"{floor - height:.1f}",
                width=f"{step * 0.76:.1f}",
                height=f"{height:.1f}",
                class_="plain",
            )
        )
        if index % label_every == 0:
            middle = _LEFT + (index + 0.5) * step
            parts.append(el("text", label, x=f"{middle:.1f}", y=_HEIGHT - 6, text_anchor="middle"))
    return el("svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=title, class_="columns")


def _round_up(highest: float) -> float:
    """The top of a scale whose middle is a whole number: 2, 4, 10, 20, 40, 100, …"""
    steps = (float(first * 10**power) for power in range(12) for first in (2, 4, 10))
    return next((step for step in steps if step >= highest), highest)
