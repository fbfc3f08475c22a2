"""What settings are: fields with a type and a limit, checked wherever a value comes from."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import os
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from utils.atomic import write_json
from utils.errors import UserError, refuse_device

AnySettings = TypeVar("AnySettings", bound="Settings")


@dataclass(frozen=True)
class Limit:
    """What a value must be, beyond its type."""

    accepts: Callable[[Any], bool]
    rule: str
    """In words, after "must be"."""


@dataclass(frozen=True)
class UsedBy:
    """The methods that a setting is for; with the others its flag is refused."""

    methods: tuple[str, ...]
    """Those that use it, or, if `others`, those that do not."""
    others: bool = False

    def __contains__(self, method: str) -> bool:
        return (method in self.methods) is not self.others

    def __str__(self) -> str:
        return ("not " if self.others else "") + ", ".join(self.methods)


def at_least(minimum: float) -> Limit:
    """Returns the limit of a number."""
    return Limit(lambda value: value >= minimum, f"{minimum} or more")


def between(minimum: int, maximum: int) -> Limit:
    """Returns the limits of a number, both included."""
    return Limit(lambda value: minimum <= value <= maximum, f"in {minimum}..{maximum}")


def one_of(names: Iterable[str]) -> Limit:
    """Returns the limit of a word."""
    known = tuple(names)
    return Limit(lambda value: value in known, f"one of {', '.join(known)}")


def some_of(names: Iterable[str]) -> Limit:
    """Returns the limit of several words."""
    known = tuple(names)
    return Limit(lambda value: set(value) <= set(known), f"of {', '.join(known)}")


def only(*methods: str) -> UsedBy:
    """Returns what refuses a flag with all other methods."""
    return UsedBy(methods)


def not_by(*methods: str) -> UsedBy:
    """Returns what refuses a flag with these methods."""
    return UsedBy(methods, others=True)


MOST_WHOLE = 2**32
MOST_IMAGES = 16384  # of a batch; with six times as many the digits need 21 GB
LEAST, MOST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of what TensorFlow computes with, float32
POSITIVE = Limit(lambda value: value > 0, "a number above 0")
BELOW_1 = Limit(lambda value: 0 <= value < 1, "in [0, 1)")
SHARE = Limit(lambda value: 0 <= value <= 1, "in [0, 1]")
SEED = Limit(lambda value: 0 <= value < 2**32, "in 0..2³²-1")
SEEDS = Limit(lambda value: all(map(SEED.accepts, value)), SEED.rule)
PIXELS = Limit(lambda value: all(0 <= mean <= 255 for mean in value), "numbers in [0, 255]")
SIDES = Limit(
    lambda value: 16 <= min(value[:2]) <= max(value[:2]) <= 1024, "16 to 1,024 pixels a side"
)
SHAPE = Limit(lambda value: SIDES.accepts(value) and value[2] > 0, f"{SIDES.rule}, and channels")
UNITS = Limit(lambda value: all(units >= 1 for units in value), "1 or more units in each layer")
PICTURE = Limit(
    lambda value: value.suffix.lower() in (".png", ".jpg", ".jpeg"),
    "a file that ends in .png or .jpg",
)
FOLDER_NAME = Limit(
    lambda value: (
        value.isprintable()
        and value.strip(". ") != ""
        and not set("/\\") & set(value)
        and len(value.encode()) <= 200
    ),
    "a printable folder name of at most 200 bytes, without slashes",
)


@dataclass(frozen=True)
class Field:
    """A field of settings."""

    name: str
    kind: Any
    """Its type, without what `Annotated` adds."""
    limits: tuple[Limit, ...]
    used_by: UsedBy | None
    """None: every method."""

    def checked(self, value: Any) -> Any:
        """Returns a value as this field's type, or raises `UserError`."""
        values = value if isinstance(value, (list, tuple)) else (value,)
        if "" in values and not self.limits:
            raise UserError(f"{self.name}: is empty; name something")
        value = fitted(value, self.kind, self.name)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(f"{self.name}: {value!r} must be UTF-8; rename it, or choose another")
        for limit in self.limits:
            if value is not None and not limit.accepts(value):
                shown = str(value) if isinstance(value, Path) else repr(value)
                if isinstance(value, tuple):
                    shown = " ".join(map(str, value))
                raise UserError(f"{self.name}: {shown} must be {limit.rule}")
        return value


def fields_of(kind: type) -> dict[str, Field]:
    """Returns the fields of a dataclass, by name.

    One that is declared again without `Annotated` keeps its limits.

    Raises:
        UserError: one is declared again with another type.
    """
    hints = [inspect.get_annotations(owner, eval_str=True) for owner in kind.__mro__]
    found = {}
    for field in dataclasses.fields(kind):
        declared = [of_class[field.name] for of_class in hints if field.name in of_class]
        annotated = [hint for hint in declared if typing.get_origin(hint) is Annotated]
        extras = annotated[0].__metadata__ if annotated else ()
        types = [typing.get_args(hint)[0] if hint in annotated else hint for hint in declared]
        if types[0] != types[-1]:
            meant = types[-1].__name__ if isinstance(types[-1], type) else types[-1]
            raise UserError(
                f"{inspect.getsourcefile(kind)}: {field.name}: its type must stay "
                f"{str(meant).replace('typing.', '')}; change the value alone"
            )
        found[field.name] = Field(
            field.name,
            types[0],
            tuple(extra for extra in extras if isinstance(extra, Limit)),
            next((extra for extra in extras if isinstance(extra, UsedBy)), None),
        )
    return found


def fitted(value: Any, kind: Any, name: str) -> Any:
    """Returns a value as the type `kind`: an int may stand for a float, a list or one value alone
    for a tuple. `~/` at the beginning of a text or path is the home folder.

    Raises:
        UserError: it is of another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(value, (str, Path)) and str(value).startswith("~/"):
        value = type(value)(os.path.expanduser(value))  # noqa: PTH111, Path's needs a home
    if origin is Literal and value not in arguments:
        raise UserError(f"{name}: {value!r} must be one of {', '.join(arguments)}")
    if kind is float and type(value) in (int, float):
        if value != 0 and not LEAST <= abs(value) <= MOST:
            raise UserError(
                f"{name}: {value} must be a number that float32 can hold: 0, or {LEAST:.1e} to "
                f"{MOST:.1e} in size"
            )
        return float(value)
    if kind is int and type(value) is int and abs(value) >= MOST_WHOLE:
        raise UserError(f"{name}: {value} must be below 2³² in size")
    if origin is Literal or type(value) is kind or (value is None and type(None) in arguments):
        return value
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    if type(None) in arguments:  # X | None
        return fitted(value, arguments[0], name)
    if origin is not tuple:
        raise UserError(f"{name}: {value!r} is not of type {getattr(kind, '__name__', kind)}")
    several, any_length = isinstance(value, (list, tuple)), arguments[1:] == (Ellipsis,)
    if not any_length and not (several and len(value) == len(arguments)):
        raise UserError(
            f"{name}: {value!r} must have {len(arguments)} values of type {arguments[0].__name__}"
        )
    return tuple(fitted(item, arguments[0], name) for item in (value if several else (value,)))


@dataclasses.dataclass(frozen=True)
class Settings:
    """A frozen dataclass whose values are checked when it is made."""

    def __init_subclass__(cls) -> None:
        """A default may be written as a list, too, which a dataclass would refuse."""
        for name, value in list(vars(cls).items()):
            if isinstance(value, list):
                setattr(cls, name, tuple(value))

    def __post_init__(self) -> None:
        fields = fields_of(type(self))
        annotated = inspect.get_annotations(type(self))
        for name, value in vars(type(self)).items():
            if name[0] != "_" and name.islower() and name not in annotated and not is_code(value):
                raise UserError(f"{name}: write its type, too, as in {name}: int = 1")
        above = [name for base in type(self).__bases__ if dataclasses.is_dataclass(base)
                 for name in fields_of(base)]  # fmt: skip
        missing = [name for name in above if name not in annotated]
        for name, hint in annotated.items():  # a new name may be a misspelt one
            if name in above or "Annotated" in str(hint):  # a really new field has its limit
                continue
            for other in missing:
                alike = difflib.SequenceMatcher(None, name.lower(), other).ratio()
                if alike > 0.8 or sorted(name.lower()) == sorted(other):
                    raise UserError(f"{name}: no such setting; did you mean {other}?")
        for field in fields.values():
            object.__setattr__(self, field.name, field.checked(getattr(self, field.name)))

    def save(self, path: Path) -> None:
        """Writes the settings as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls: type[AnySettings], path: Path) -> AnySettings:
        """Reads settings that `save` wrote; what they do not name keeps its default.

        Raises:
            UserError: no such file, not JSON, an unknown key, or a value of the wrong type.
        """
        return cls.of(read_json(path), f"{path}: ")

    @classmethod
    def of(cls: type[AnySettings], values: Mapping[str, Any], origin: str = "") -> AnySettings:
        """Returns settings with these values, and the defaults for the rest.

        Args:
            values: by name.
            origin: where they come from, before a message.

        Raises:
            UserError: an unknown name, or an impossible value.
        """
        known = fields_of(cls)
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known)
                hint = f"did you mean {', '.join(near)}?" if near else "see --help"
                raise UserError(f"{origin}unknown key {name!r}; {hint}")
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{origin}{error}") from error


def is_code(value: Any) -> bool:
    """Tells whether a member of a class is a method or a property."""
    return callable(value) or isinstance(value, (property, classmethod, staticmethod))


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of a JSON file, or raises `ValueError` if one of its keys is there twice.

    Python would take the last one.
    """
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{name!r} is there twice")
    return dict(pairs)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds, or raises `UserError`."""
    refuse_device(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file, such as the config.json of a run")
    if not path.exists():
        raise UserError(f"{path}: no such file; name another")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text, object_pairs_hook=without_doubles)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({error}); mend it, or name another"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}, not an object")
    return values
