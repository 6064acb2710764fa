"""The class tree equals the tree in the module's docstring."""

from __future__ import annotations

import re

import pytest

from pipeline.core import errors

DRAWN = re.compile(r"^( *)([A-Z]\w+)(\*?)")


def drawn_tree() -> dict[str, tuple[str, bool]]:
    """Class name -> (parent, whether it has a star, so it can be retried), from the module's docstring."""
    assert errors.__doc__
    tree: dict[str, tuple[str, bool]] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.split("```")[1].splitlines():
        for name in re.findall(r"SizeDiffers|DigestDiffers", line):  # drawn on one line with their parent
            tree[name] = ("FixityError", False)
        match = DRAWN.match(line)
        if match is None:
            continue
        indent, name, star = len(match[1]), match[2], match[3]
        path = [(at, above) for at, above in path if at < indent]
        parent = path[-1][1] if path else "Exception"
        tree[name] = (parent, bool(star) or tree.get(parent, ("", False))[1])
        path.append((indent, name))
    return tree


CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.PipelineError) and kind is not errors.Transient
}


def test_every_error_is_drawn() -> None:
    """No error exists that the drawing does not show, and none is drawn that does not exist."""
    assert drawn_tree().keys() == CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_is_where_it_is_drawn(name: str) -> None:
    """Parents are as drawn, and exactly the starred errors and their subclasses are `Transient`."""
    parent, is_transient = drawn_tree()[name]
    kind = CLASSES[name]
    assert kind.__bases__[0].__name__ == parent
    assert issubclass(kind, errors.Transient) is is_transient


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.RecordError("missing", path="room.room_id"), "room.room_id: missing"),
        (errors.RecordError("not an object", value=3), "not an object"),
        (
            errors.SizeDiffers("media/a.mkv", 5, 4),
            "media/a.mkv: expected 5, found 4; restore this object from a copy",
        ),
    ],
)
def test_a_message_names_the_thing(error: errors.PipelineError, text: str) -> None:
    """The text of an error is one line: what, where, and the next step."""
    assert str(error) == text


def test_an_api_error_carries_what_support_asks_for() -> None:
    """The error has endpoint, status, code and request id; the retry time is None until it is set."""
    error = errors.Throttled("slow down", endpoint="GET /cdr", status=429, code="RATE_LIMITED", request_id="req_1")
    assert (error.endpoint, error.status, error.code, error.request_id) == ("GET /cdr", 429, "RATE_LIMITED", "req_1")
    assert error.retry_after_s is None
