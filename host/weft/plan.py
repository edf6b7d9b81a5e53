"""Plan: number formats by layer, in a TOML file.

[defaults]
weights = "int4"

[layers."conv1"]
weights = "int8"
activations = "int8"
method = "mse"
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from weft import codes
from weft.errors import UsageError, unknown
from weft.formats import parse
from weft.graph import Graph

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class LayerPlan:
    """What a layer gets; "" where the defaults say."""

    weights: str = ""
    activations: str = ""
    method: str = ""


@dataclass(frozen=True)
class Plan:
    """Formats for all layers, and for some of them by name."""

    defaults: LayerPlan = LayerPlan()
    layers: Mapping[str, LayerPlan] = field(default_factory=dict)

    def for_layer(self, name: str) -> LayerPlan:
        """What a layer gets, with the defaults."""
        own = self.layers.get(name, LayerPlan())
        return LayerPlan(
            own.weights or self.defaults.weights,
            own.activations or self.defaults.activations,
            own.method or self.defaults.method,
        )

    def names_activations(self, name: str) -> bool:
        """Whether the plan names the activations of this very layer."""
        return bool(self.layers.get(name, LayerPlan()).activations)

    def verify(self, graph: Graph) -> Plan:
        """Returns itself. Raises UsageError for a layer that is not there."""
        known = [node.name for node in graph if node.op in ("Conv", "Linear")]
        for name in self.layers:
            if name not in known:
                raise UsageError(unknown("layer of the plan", name, known))
        return self

    def save(self, path: str | Path) -> None:
        """Writes the TOML file. Raises WeftError where that is not possible."""
        from weft.program_file import replacing

        with replacing(path) as temporary:
            temporary.write_text(self.text())

    def text(self) -> str:
        """The plan as TOML."""
        parts = []
        if self.defaults != LayerPlan():
            parts.append("[defaults]\n" + _table(self.defaults))
        for name, layer in self.layers.items():
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'[layers."{quoted}"]\n' + _table(layer))
        return "\n".join(parts)

    @staticmethod
    def load(path: str | Path) -> Plan:
        """The plan in a TOML file.

        Raises UsageError for a file that is none, unknown keys and formats.
        """
        try:
            facts = tomllib.loads(Path(path).read_text())
        except FileNotFoundError:
            raise UsageError(f"{path}: no such plan") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"{path}: no plan in TOML ({error})") from None
        for key in facts:
            if key not in ("defaults", "layers"):
                raise UsageError(f"{path}: {unknown('table', key, ['defaults', 'layers'])}")
        layers = facts.get("layers", {})
        if not isinstance(layers, dict):
            raise UsageError(f'{path}: [layers."name"] is a table of a layer')
        return Plan(
            _layer(facts.get("defaults", {}), f"{path}: [defaults]"),
            {name: _layer(entry, f'{path}: [layers."{name}"]') for name, entry in layers.items()},
        )


def _table(layer: LayerPlan) -> str:
    return "".join(f'{key} = "{value}"\n' for key, value in vars(layer).items() if value)


def _layer(entry: Any, where: str) -> LayerPlan:
    known = [f.name for f in fields(LayerPlan)]
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is a table of {', '.join(known)}")
    for key, value in entry.items():
        if key not in known:
            raise UsageError(f"{where}: {unknown('key', key, known)}")
        if not isinstance(value, str):
            raise UsageError(f"{where}: {key} = {value!r} is a name, in quotes")
    layer = LayerPlan(**entry)
    try:
        if layer.weights:
            parse(layer.weights)
        if layer.activations:
            codes.check(layer.activations)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return layer
