"""The project's vocabulary: no banned word of the glossary in help, messages, docs or names."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main

from pipeline.cli import cli
from tests.support.paths import ROOT
from tests.support.words import banned_in, banned_phrases, banned_words_of, checked_files


@pytest.mark.parametrize("path", checked_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_word(path: Path) -> None:
    """Docs, messages, docstrings, comments and names contain no banned word."""
    assert banned_words_of(path) == []


def help_texts() -> dict[str, str]:
    """Help, short help, epilog and option helps of every command."""
    texts: dict[str, str] = {}

    def add(name: str, command: typer.main.TyperCommand | typer.main.TyperGroup) -> None:
        options = [getattr(parameter, "help", None) for parameter in command.params]
        texts[name] = "\n".join(filter(None, [command.help, command.short_help, command.epilog, *options]))
        for child in getattr(command, "commands", {}).values():
            add(f"{name} {child.name}", child)

    add("postroom", typer.main.get_command(cli))
    return texts


def test_no_banned_word_in_help() -> None:
    """`--help` of every command contains no banned word."""
    texts = help_texts()
    assert len(texts) > 25
    assert {name: banned_in(text) for name, text in texts.items() if banned_in(text)} == {}


def test_golden_texts_have_no_banned_word() -> None:
    """Output of commands, as in tests/golden/show, contains no banned word."""
    for path in (ROOT / "tests/golden/show").iterdir():
        assert banned_in(path.read_text()) == [], path.name


def test_the_check_finds_a_phrase() -> None:
    """A phrase is found across a line break and in any case, not inside code or longer words."""
    assert len(banned_phrases()) > 40
    assert banned_in("It Knows\nall at\nonce") == [(1, "Knows"), (2, "at\nonce")]
    assert banned_in("`knows`, unknown, retold") == []
