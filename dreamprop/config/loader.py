"""Configs: YAML files and dot-list overrides, merged by OmegaConf into a tree of frozen dataclasses.

Nothing here knows a method: the schema is passed in. Whatever is wrong with what a user wrote becomes an
`InputError` of one line that gives the value, the rule and the remedy.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamprop.config.validate import PAGE, brief, nearest, shortened
from dreamprop.config.yaml_size import check_size
from dreamprop.errors import InputError

T = TypeVar("T")

LOOKUPS = 200
"""How many values may be looked up to resolve all interpolations of a config; chains of them multiply."""
REFERENCE = re.compile(r"\$\{([^${}:]+)\}")
"""An interpolation into another key."""


def word(layers: Sequence[DictConfig], key: str, default: str) -> str:
    """The plain word that the last of the layers gives for a key of the top level, before anything is merged.

    Raises:
        InputError: it is an interpolation or no word.
    """
    for layer in reversed(layers):
        if key in layer.keys():  # noqa: SIM118 - `in layer` would resolve an interpolation
            node: Any = layer._get_node(key)
            value = node._value() if node is not None else None
            if not isinstance(value, str) or node._is_interpolation():
                raise InputError(f"{key} must be a word, got {brief(value)}; use {default}")
            return value
    return default


def rmspace(text: str, by: str = "_") -> str:
    """threestudio's resolver `${rmspace:text,_}`: spaces replaced, as its tags are made."""
    return str(text).replace(" ", str(by))


OmegaConf.register_resolver("rmspace", rmspace, replace=True)


def read(path: Path | str) -> DictConfig:
    """Read a YAML config.

    Raises:
        InputError: the file is missing, unreadable, not YAML or not a mapping.
    """
    path = Path(path)
    if not os.path.isfile(path):  # which is False, and no error, for names that the system refuses
        here = sorted(str(p) for p in Path("configs").glob("*.yaml"))
        raise InputError(f"config {shortened(str(path), 80)} is not a file; {nearest(str(path), here)}")
    try:
        check_size(path.read_bytes(), f"config {path}")
        loaded = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"config {path} is not YAML: {error.problem}{where}; correct that line") from None
    except RecursionError:
        raise InputError(f"config {path} is nested too deeply; write it flat") from None
    except InputError:
        raise
    except (
        yaml.YAMLError,
        OmegaConfBaseException,
        ValueError,
        OSError,
    ) as error:  # ValueError: what int() refuses
        raise InputError(f"config {path} cannot be read: {_first_line(error)}; correct the file") from None
    if not isinstance(loaded, DictConfig):
        raise InputError(
            f"config {path} must be a mapping of keys to values, got a list; start with `name: ...`"
        )
    return loaded


def overrides(arguments: Sequence[str]) -> DictConfig:
    """Read `key.key=value` arguments as OmegaConf's dot-lists.

    Raises:
        InputError: an argument has no `=`, an empty key, or a value that is not YAML.
    """
    merged: Any = OmegaConf.create()
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign or not all(key.split(".")) or any(c.isspace() for c in key):
            raise InputError(
                f"override {brief(argument)} must look like key.key=value; quote a value that has spaces"
            )
        try:
            if "*" in value:  # without which there is no alias
                check_size(value, f"override {brief(argument)}")
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([argument]))
        except RecursionError:
            raise InputError(f"override {brief(argument)} is nested too deeply; write it flat") from None
        except InputError:
            raise
        except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
            raise InputError(
                f"override {brief(argument)}: the value is not YAML ({_first_line(error)}); put it in quotes"
            ) from None
    return cast(DictConfig, merged)


def merge(schema: type[T], layers: Sequence[DictConfig]) -> DictConfig:
    """Merge layers over the defaults of a dataclass, later over earlier, and resolve interpolations.

    Args:
        schema: a dataclass whose fields are the known keys.
        layers: what `read` and `overrides` returned.

    Returns:
        A resolved config that holds every key.

    Raises:
        InputError: an unknown key, a value of a wrong type, or an interpolation that leads nowhere.
    """
    merged: Any = OmegaConf.structured(schema)
    try:
        for layer in layers:
            checked = layer.copy()
            _check_keys(checked, schema, "", schema)
            merged = OmegaConf.merge(merged, checked)
        _check_lookups(merged)
        # Frozen dataclasses make read-only nodes, which OmegaConf.resolve cannot write to.
        plain = OmegaConf.to_container(merged, resolve=True)
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(plain))
        missing = sorted(str(key) for key in OmegaConf.missing_keys(merged))
    except InputError:
        raise
    except RecursionError:
        raise InputError("config is nested too deeply, or a key leads to itself; write values") from None
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        key = getattr(error, "full_key", None)
        raise InputError(f"{key or 'config'}: {_first_line(error)}; {_expected(schema, key)}") from None
    if missing:
        raise InputError(f"{missing[0]} has no value; give {missing[0]}=...")
    return cast(DictConfig, merged)


def build(schema: type[T], config: DictConfig) -> T:
    """Make the dataclasses of a merged config; their own checks run here.

    Raises:
        InputError: a dataclass refused a value.
    """
    try:
        made = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise InputError(_first_line(error)) from None
    assert isinstance(made, schema)
    return made


def keys(schema: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a tree of dataclasses."""
    found = []
    for name, hint in _hints(schema).items():
        found.append(prefix + name)
        if is_dataclass(hint):
            found += keys(hint, f"{prefix}{name}.")
    return found


def _hints(schema: Any) -> dict[str, Any]:
    hints = get_type_hints(schema)
    return {f.name: hints[f.name] for f in fields(schema)}


def _check_keys(layer: DictConfig, schema: Any, prefix: str, root: Any) -> None:
    """Refuse unknown keys before the merge, so that the line can name the nearest key on any level."""
    hints = _hints(schema)
    for key in layer:
        name = str(key)
        if name not in hints:
            known = keys(schema, prefix)
            by_leaf = [k for k in known if k.rpartition(".")[2] == name]
            remedy = nearest(prefix + name, by_leaf or known)
            raise InputError(f"unknown key {prefix}{shortened(name, 40)}; {remedy} All keys: {PAGE}")
        node: Any = layer._get_node(key)
        if hints[name] is str and node._is_none():
            layer[key] = ""  # `tag=` on the command line, and `tag:` in a file, are the empty word
            continue
        kinds = {dict: DictConfig, list: ListConfig}
        kind = kinds.get(get_origin(hints[name]))
        if kind and not isinstance(node, kind) and not node._is_interpolation():
            remedy = _expected(root, prefix + name)
            raise InputError(
                f"{prefix}{name} must be another kind of value, got {brief(layer[key])}; {remedy}"
            )
        if not is_dataclass(hints[name]) or node._is_interpolation():
            continue
        if not isinstance(node, DictConfig) or node._is_none():
            remedy = _expected(root, prefix + name)
            raise InputError(f"{prefix}{name} must be a block of keys, got {brief(layer[key])}; {remedy}")
        _check_keys(node, hints[name], f"{prefix}{name}.", root)


def _expected(schema: Any, key: str | None) -> str:
    """The remedy for a wrong type: what the key takes and what its default is."""
    hint: Any = schema
    for part in (key or "").split("."):
        if not is_dataclass(hint) or part not in _hints(hint):
            return f"see {PAGE}"
        hint = _hints(hint)[part]
    if is_dataclass(hint):
        return f"{key} takes a block of keys such as {next(iter(_hints(hint)))}, see {PAGE}"
    name = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", None) else str(hint)
    return f"{key} takes {name.replace('typing.', '')}"


def _check_lookups(merged: DictConfig) -> None:
    """Refuse interpolations that lead to others, and those to more, until nobody waits for the value."""
    texts: dict[str, str] = {}

    def collect(node: Any, place: str) -> None:
        if isinstance(node, DictConfig | ListConfig) and not node._is_interpolation() and not node._is_none():
            names: Any = node.keys() if isinstance(node, DictConfig) else range(len(node))
            for name in names:
                collect(node._get_node(name), f"{place}.{name}" if place else str(name))
        elif node is not None and node._is_interpolation():
            texts[place] = str(node._value())

    @cache
    def count(place: str) -> int:
        return 1 + sum(count(target(place, name)) for name in REFERENCE.findall(texts.get(place, "")))

    def target(place: str, name: str) -> str:
        name = name.strip()
        up = len(name) - len(name.lstrip("."))  # `${.key}` is beside the key, `${..key}` beside its block
        return ".".join([*place.split(".")[:-up], name[up:]]) if up else name

    collect(merged, "")
    for place in texts:
        if count(place) > LOOKUPS:
            raise InputError(
                f"{place} must lead to its value in at most {LOOKUPS} steps, got {brief(texts[place])}, which leads "
                "to others again and again; write the value"
            )


def _first_line(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return shortened(first, 120)
