"""Plan files: which format and method each layer of a model gets.

weights = "int4:g32"                 # defaults of all layers; each may be left out
activations = "int8"
method = "gptq"
sparsity = "2:4"

[layers."conv1"]                     # as `weft inspect` names it
weights = "int8"
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.errors import UsageError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = ("weights", "activations", "method", "sparsity")


@dataclass(frozen=True)
class LayerPlan:
    """What one layer gets; None: as the plan's defaults say."""

    weights: str | None = None
    activations: str | None = None
    method: str | None = None
    sparsity: str | None = None


@dataclass(frozen=True)
class Plan:
    """Defaults (None: as the caller says) and the layers that differ."""

    weights: str | None = None
    activations: str | None = None
    method: str | None = None
    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    sparsity: str | None = None

    def check_layers(self, names: Iterable[str], model: str) -> None:
        """Raises UsageError for layers that are not among `names`, with the nearest."""
        known = list(names)
        for name in self.layers:
            if name not in known:
                message = unknown("layer with weights", name, known)
                raise UsageError(f"plan for model {model!r}: {message}")

    def toml(self) -> str:
        """The file's text."""
        lines = [f"{k} = {_quoted(v)}" for k in KEYS if (v := getattr(self, k)) is not None]
        for name, layer in self.layers.items():
            lines += ["", f"[layers.{_quoted(name)}]"]
            lines += [f"{k} = {_quoted(v)}" for k in KEYS if (v := getattr(layer, k)) is not None]
        return "\n".join(lines).lstrip("\n") + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes, and U+007F, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read(source: Plan | str | Path) -> Plan:
    """A plan from its file (or itself).

    Raises UsageError for a file that isn't there or isn't TOML, unknown keys, and values that
    don't name a format, an activation's format, a method or a sparsity.
    """
    if isinstance(source, Plan):
        return source
    path = Path(source)
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; `weft plan` writes one") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file ({error})") from None


def parse(text: str, source: str = "plan") -> Plan:
    """A plan from a file's text; `source` names it in errors. Raises UsageError as `read`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: not TOML ({error})") from None
    tables = content.pop("layers", {})
    if not isinstance(tables, dict):
        raise UsageError(f'{source}: layers = {tables!r}; tables [layers."NAME"] expected')
    made = {}
    for name, table in tables.items():
        where = f"{source}, layer {name!r}"
        if not isinstance(table, dict):
            raise UsageError(f'{where}: {table!r} given, a table [layers."{name}"] expected')
        made[name] = LayerPlan(**_values(table, where, KEYS))
    return Plan(**_values(content, source, (*KEYS, "layers")), layers=made)


def _values(table: Mapping[str, Any], where: str, known: tuple[str, ...]) -> dict[str, str]:
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where}: {unknown('key', key, known)}")
        if not isinstance(value, str):
            raise UsageError(f"{where}: {key} = {value!r}; a name in quotes expected")
        try:
            check(key, value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return dict(table)


def check(key: str, value: str) -> None:
    """Raises UsageError for a value that `key` of a plan does not take, with the nearest."""
    from weft import activation
    from weft.formats import parse as format_of
    from weft.pruning.spec import parse as sparsity_of
    from weft.quantization import ant, methods

    if key == "activations":
        activation.check(value)
    elif key == "method":
        methods.check(value)
    elif key == "sparsity":
        sparsity_of(value)
    elif value != ant.NAME:
        format_of(value)
