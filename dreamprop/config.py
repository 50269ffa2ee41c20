"""Configs: YAML files and dot-list overrides, merged by OmegaConf into a tree of frozen dataclasses.

Nothing here knows a method: the schema is passed in. Whatever is wrong with what a user wrote becomes an
`InputError` of one line that gives the value, the rule and the remedy.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


class InputError(ValueError):
    """What the user gave is wrong: one line with the value, the rule and the remedy; exit status 2.

    Args:
        message: the line.
        own: only this process of several knows of it.
    """

    def __init__(self, message: str, own: bool = False) -> None:
        self.own = own
        super().__init__(" ".join(str(message).split()))


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A remedy for an unknown word: the known words nearest to it, or all of them when none is near.

    Args:
        word: what was written.
        known: what could have been written.
        count: how many near words to name at most.

    Returns:
        `did you mean a or b?` or `known: a, b, c`.
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(word, known, n=count, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(known)}" if known else "none is known here"


def choose(value: str, known: Sequence[str], what: str) -> str:
    """Check that `value` is one of the known names.

    Args:
        value: what was written.
        known: what is available now.
        what: the key it was written for.

    Returns:
        The value.

    Raises:
        InputError: it is another one; the line lists those that are available.
    """
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{what} must be one of {', '.join(known)}, got {value!r}{hint}")
    return value


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
        raise InputError(f"config {path} is not a file; {nearest(str(path), here)}")
    try:
        loaded = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"config {path} is not YAML: {error.problem}{where}; correct that line") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
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
        key, sign, _ = argument.partition("=")
        if not sign or not all(key.split(".")) or any(c.isspace() for c in key):
            raise InputError(
                f"override {argument!r} must look like key.key=value; quote a value that has spaces"
            )
        try:
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([argument]))
        except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
            raise InputError(
                f"override {argument!r}: the value is not YAML ({_first_line(error)}); put it in quotes"
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
            _check_keys(layer, schema, "", schema)
            merged = OmegaConf.merge(merged, layer)
        # Frozen dataclasses make read-only nodes, which OmegaConf.resolve cannot write to.
        plain = OmegaConf.to_container(merged, resolve=True)
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(plain))
        missing = sorted(str(key) for key in OmegaConf.missing_keys(merged))
    except InputError:
        raise
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
    except InputError:
        raise
    except (OmegaConfBaseException, ValueError, TypeError) as error:
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
            remedy = f"did you mean {' or '.join(by_leaf[:3])}?" if by_leaf else nearest(prefix + name, known)
            raise InputError(f"unknown key {prefix}{name}; {remedy}")
        node: Any = layer._get_node(key)
        if not is_dataclass(hints[name]) or node._is_interpolation():
            continue
        if not isinstance(node, DictConfig) or node._is_none():
            remedy = _expected(root, prefix + name)
            raise InputError(f"{prefix}{name} must be a block of keys, got {layer[key]!r}; {remedy}")
        _check_keys(node, hints[name], f"{prefix}{name}.", root)


def _expected(schema: Any, key: str | None) -> str:
    """The remedy for a wrong type: what the key takes and what its default is."""
    hint: Any = schema
    for part in (key or "").split("."):
        if not is_dataclass(hint) or part not in _hints(hint):
            return "compare the key with configs/dreamfusion.yaml"
        hint = _hints(hint)[part]
    if is_dataclass(hint):
        return f"{key} takes a block with {', '.join(_hints(hint))}"
    name = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", None) else str(hint)
    return f"{key} takes {name.replace('typing.', '')}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
