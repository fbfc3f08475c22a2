"""Command-line flags from a documented dataclass: one flag a field, under the class's headings."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import shlex
import sys
import textwrap
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from config.settings import Field, fields_of
from utils.errors import UserError

METAVARS = {int: "N", float: "X", Path: "PATH"}
HEADING = re.compile(r" {4}# (\w[^=]*)")  # = is in a field that somebody has commented out


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a user's: one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see --help")


def parse(
    kinds: Sequence[type],
    description: str | None,
    epilog: str = "",
    shown: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the values of the flags that were given, by field; ends the process on --help.

    Args:
        kinds: dataclasses. What a field's docstring says is the help of its flag; a comment line
            such as `# training` above fields is their heading.
        description: of the script: what stands first in its help.
        epilog: what stands last, as it is.
        shown: values that --help shows instead of the defaults, by field.

    Raises:
        UserError: an unknown flag, or a value of the wrong type.
    """
    parser = Parser(
        usage="%(prog)s [FLAGS]",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fields = {name: field for kind in kinds for name, field in fields_of(kind).items()}
    defaults = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
    for heading, helps in [group for kind in kinds for group in documented(kind).items()]:
        group = parser.add_argument_group(heading)
        for name, text in helps.items():
            add_flags(group, fields[name], (shown or {}).get(name, defaults[name]), text)
    given, unknown = parser.parse_known_args()
    if unknown:
        opposites = [f"no_{name}" for name, field in fields.items() if field.kind is bool]
        raise UserError(unknown_flag(unknown[0], [*fields, *opposites]))
    values = vars(given)
    missing = [name for name, default in defaults.items()
               if default is dataclasses.MISSING and name not in values]  # fmt: skip
    if missing:
        raise UserError(f"--{missing[0]} is needed; see --help")
    return {name: from_text(texts, fields[name].kind, name) for name, texts in values.items()}


def flag_in_sight(name: str) -> str | None:
    """Returns the value of a flag before all others, and before --help ends the process."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}")
    return getattr(parser.parse_known_args()[0], name)


def add_flags(group: Any, field: Field, default: Any, text: str) -> None:
    """Adds the flag of a field to a group of the help; a switch has an opposite, `--no_…`."""
    text = " ".join([text, f"({field.used_by})" if field.used_by else ""]).strip()
    if field.kind is bool:
        shown, other = (f"--{field.name}", f"--no_{field.name}")[:: -1 if default else 1]
        text = f"Turns this off: {text}" if default else text
        for flag in (shown, other):
            group.add_argument(
                flag, dest=field.name, action="store_const", const=not flag.startswith("--no_"),
                help=text if flag == shown else argparse.SUPPRESS,
            )  # fmt: skip
        return
    if default not in (None, "", (), dataclasses.MISSING):
        values = default if isinstance(default, (tuple, list)) else (default,)
        words = [value.name if isinstance(value, Path) and value.is_absolute() else str(value)
                 for value in values]  # fmt: skip
        text += f" [{' '.join(words)}]"
    inner = without_none(field.kind)
    one = typing.get_args(inner)[0] if typing.get_origin(inner) is tuple else inner
    options: dict[str, Any] = {"nargs": None, "metavar": METAVARS.get(one, "NAME")}
    if typing.get_origin(inner) is tuple:
        size = len(typing.get_args(inner))
        any_length = Ellipsis in typing.get_args(inner)
        options |= {"nargs": "+", "action": "extend"} if any_length else {"nargs": size}
    elif typing.get_origin(inner) is Literal:
        options["metavar"] = "{" + ",".join(typing.get_args(inner)) + "}"
    group.add_argument(f"--{field.name}", help=text.replace("%", "%%"), **options)


def without_none(kind: Any) -> Any:
    """Returns X for the type X | None."""
    inner = typing.get_args(kind)
    return inner[0] if type(None) in inner else kind


def from_text(text: Any, kind: Any, name: str) -> Any:
    """Returns what a flag's text means, as the type `kind`; "None" where that is allowed."""
    inner = without_none(kind)
    if isinstance(text, list):
        if text == ["None"] and inner is not kind:
            return None
        return tuple(from_text(item, typing.get_args(inner)[0], name) for item in text)
    if text == "None" and inner is not kind:
        return None
    if text == "":
        raise UserError(f"--{name}: is empty; name something, or leave it out")
    if inner not in (int, float, Path):
        return text
    try:
        return inner(text)
    except ValueError as error:
        what = {int: "a whole number", float: "a number"}[inner]
        raise UserError(f"--{name}: {text!r} is not {what}") from error


def unknown_flag(flag: str, names: list[str]) -> str:
    """Returns the message about a flag that does not exist, with those that may be meant."""
    word = flag.split("=", maxsplit=1)[0].lstrip("-").replace("-", "_")
    if not flag.startswith("-"):
        return f"{flag}: belongs to no flag; see --help"
    initials = [name for name in names if word in "".join(part[0] for part in name.split("_"))]
    near = difflib.get_close_matches(word, names, n=3) + [name for name in names if word in name]
    meant = list(dict.fromkeys(initials * (1 < len(word) < 4) + near))[:4]
    hint = f"did you mean {', '.join(f'--{name}' for name in meant)}?" if meant else "see --help"
    return f"{flag.split('=', maxsplit=1)[0]}: no such flag; {hint}"


def documented(kind: type) -> dict[str, dict[str, str]]:
    """Returns the docstrings of a dataclass's fields, by heading and name.

    A class's own headings come before those that it inherits; a field that it declares again
    stands where it is declared last.
    """
    found: dict[str, dict[str, str]] = {}
    seen: set[str] = set()
    for owner in kind.__mro__[:-1]:
        if not dataclasses.is_dataclass(owner):
            continue
        source = textwrap.dedent(inspect.getsource(owner))
        headings = {number: match[1] for number, line in enumerate(source.splitlines(), 1)
                    if (match := HEADING.fullmatch(line))}  # fmt: skip
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for field, doc in itertools.pairwise(body):
            if not isinstance(field, ast.AnnAssign) or not isinstance(doc, ast.Expr):
                continue
            name, text = field.target.id, " ".join(doc.value.value.split())  # type: ignore
            above = [number for number in headings if number < field.lineno]
            heading = headings[max(above)] if above else "flags"
            if name not in seen:
                found.setdefault(heading, {})[name] = text
                seen.add(name)
    return found


def command_of(script: str | None, *arguments: object) -> str:
    """Returns the command of a script (None: this one), to be pasted into a shell."""
    here = Path(sys.argv[0])
    return shlex.join(["python", str(here.with_name(script or here.name)), *map(str, arguments)])
