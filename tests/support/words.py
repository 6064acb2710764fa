"""Finds the banned words of the glossary in docs, string literals, comments and names.

python -m tests.support.words [PATH ...]    print every occurrence, by default of the whole project
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

GLOSSARY = ROOT / "docs/contributing/glossary.md"
_CODE = re.compile(r"```.*?```|``.*?``|`[^`\n]*`", re.S)
_NO_PROSE = re.compile(r"[rbf]*[\"'](CREATE|ALTER|UPDATE|INSERT) ")
_STORED_NAMES = {"hops"}
"""Field names of format 1 on disk."""
_EXCEPT = ("tests/golden/", "tests/samples/", "docs/reference/enablex-api.md")


@cache
def banned_phrases() -> tuple[str, ...]:
    """Every code span in the first column of the glossary's table."""
    table = GLOSSARY.read_text(encoding="utf-8").split("## Banned words")[1]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return tuple(phrase for cell in cells for phrase in re.findall(r"`([^`]+)`", cell))


@cache
def _pattern() -> re.Pattern[str]:
    phrases = sorted(banned_phrases(), key=len, reverse=True)
    alternatives = "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in phrases)
    return re.compile(rf"(?<!\w)({alternatives})(?![\w]|\.\w)", re.I)


def banned_in(text: str) -> list[tuple[int, str]]:
    """Line and phrase of every banned word in a text, outside code spans and blocks."""
    text = _CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return [(text.count("\n", 0, match.start()) + 1, match[0]) for match in _pattern().finditer(text)]


def banned_in_markdown(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    if path == GLOSSARY:
        text = text.split("## Banned words")[0]
    return banned_in(text)


def banned_in_python(path: Path) -> list[tuple[int, str]]:
    """In string literals, docstrings and comments, and in the names of modules, classes, functions and arguments."""
    source = path.read_text(encoding="utf-8")
    found = []
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if (
            token.type == tokenize.STRING
            and token.string.strip("\"'") not in _STORED_NAMES
            and not _NO_PROSE.match(token.string)
        ):
            found += [(token.start[0] + line - 1, phrase) for line, phrase in banned_in(token.string)]
        elif token.type == tokenize.COMMENT:
            comments.append((token.start[0], token.string.lstrip("# ")))
    for line, text in comments:
        found += [(line, phrase) for _, phrase in banned_in(text)]
    found += [(line, f"name {name}") for line, name in _names(ast.parse(source)) if banned_in(name.replace("_", " "))]
    return sorted(found)


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def checked_files() -> list[Path]:
    """Documentation, and the Python of the product."""
    patterns = ["*.md", "docs/**/*.md", "notebooks/*.md", "tests/**/*.md", "pipeline/**/*.py", "jobs/**/*.py"]
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return [path for path in paths if not str(path.relative_to(ROOT)).startswith(_EXCEPT)]


def banned_words_of(path: Path) -> list[tuple[int, str]]:
    return banned_in_markdown(path) if path.suffix == ".md" else banned_in_python(path)


if __name__ == "__main__":
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or checked_files()
    for file in chosen:
        for line, phrase in banned_words_of(file):
            print(f"{file.relative_to(ROOT)}:{line}: {' '.join(phrase.split())}")
