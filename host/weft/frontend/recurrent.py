"""Recurrent layers as the nodes of their steps: Linear, Sigmoid, Tanh, Mul, Add and Sub.

What a step multiplies with its input is worked out for all steps at once; only products with the
state wait for the step before. The attribute "roles" of a node says, for each input and last for
the output, which part of a step it is: tensors of one role get one scale, and layers with the same
roles one copy of the weights, whatever the step (`weft.passes.roles`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from weft.frontend.build import Builder
from weft.graph import Array

STEPS_LIMIT = 1024  # of a sequence: each step becomes nodes and instructions of its own

State = str | Array  # an activation [1, 1, H], or a constant [H]
States = tuple[State, ...]
Given = Mapping[str, str]  # what the input gives to each gate


@dataclass(frozen=True)
class Parameters:
    """Per gate W [H, I], R [H, H], and what is added to W·x and to R·h [H]."""

    w: Mapping[str, Array]
    r: Mapping[str, Array]
    input_bias: Mapping[str, Array]
    kept_bias: Mapping[str, Array]

    @staticmethod
    def stacked(gates: Sequence[str], *arrays: Array) -> Parameters:
        """From W [G·H, I], R [G·H, H] and the two biases [G·H], gates one below the other."""
        parts = (np.split(array, len(gates)) for array in arrays)
        return Parameters(*(dict(zip(gates, part, strict=True)) for part in parts))

    def one_bias(self, apart: Sequence[str] = ()) -> Parameters:
        """With both biases added to W·x, but for the gates that need them `apart`."""
        total = {g: v + self.kept_bias[g] for g, v in self.input_bias.items()}
        none = {g: np.zeros_like(v) for g, v in self.kept_bias.items()}
        own = {g: self.input_bias[g] for g in apart}
        kept = {g: self.kept_bias[g] for g in apart}
        return Parameters(self.w, self.r, total | own, none | kept)

    def negated(self, gate: str) -> Parameters:
        """With the opposite of what enters a gate."""
        parts = (self.w, self.r, self.input_bias, self.kept_bias)
        return Parameters(*({**part, gate: -part[gate]} for part in parts))


class Cell(Protocol):
    """A recurrent layer in one direction."""

    w: Layer

    def step(self, given: Given, states: States, label: str) -> tuple[str, ...]:
        """Adds the nodes of a step; the states behind it, the hidden one first."""


@dataclass
class Layer:
    """Adds the nodes of a layer in one direction.

    `states` is what the role of hidden states begins with, where layers share their scale.
    """

    b: Builder
    name: str
    p: Parameters
    states: str = ""
    _roles: dict[str, str] = field(default_factory=dict)
    _constants: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def add(
        self,
        op: str,
        part: str,
        inputs: Sequence[str],
        label: str = "",
        attrs: Mapping[str, Any] = MappingProxyType({}),
        role: str = "",
    ) -> str:
        """Adds a node whose output is `part` of the step `label`."""
        own = self.role(role or part)
        roles = (*(self._roles.get(name, "") for name in inputs), own)
        name = f"{self.name}{label}/{part}"
        out = self._free(name)
        self.b.emit(op, inputs, {**attrs, "roles": roles}, name=name, outputs=(out,))
        self._roles[out] = own
        return out

    def role(self, part: str) -> str:
        """The role of a part."""
        return f"{self.states or self.name}/h" if part == "h" else f"{self.name}/{part}"

    def is_part(self, name: str, part: str) -> str:
        """Says what an activation from outside is; the activation."""
        self._roles[name] = self.role(part)
        return name

    def constant(self, part: str, value: Array) -> str:
        """A constant, the same one each time that a part has the same values; it has one matrix."""
        value = np.ascontiguousarray(value, np.float32)
        key = part, value.tobytes() if value.ndim < 2 else b""
        if key not in self._constants:
            name = self._free(f"{self.name}/{part}")
            self._constants[key] = self.b.constant(name, value)
        return self._constants[key]

    def given(self, x: str) -> dict[str, str]:
        """What an input [1, T, I] gives to each gate [1, T, H]."""
        return {
            gate: self._linear(x, w, self.p.input_bias[gate], f"given_{gate}", "")
            for gate, w in self.p.w.items()
        }

    def product(self, state: State, gate: str, label: str) -> str:
        """What a state gives to a gate."""
        bias, part = self.p.kept_bias[gate], f"kept_{gate}"
        if isinstance(state, str):
            return self._linear(state, self.p.r[gate], bias, part, label)
        return self.constant(part, self.p.r[gate] @ state + bias)

    def gate(self, function: str, gate: str, given: Given, kept: str, label: str) -> str:
        """function(given + kept). Gates have one scale, and so one table, for all σ of a step."""
        shared = "gate" if function == "Sigmoid" else gate
        total = self.add("Add", f"{gate}_sum", (given[gate], kept), label, role=f"{shared}_sum")
        return self.add(function, gate, (total,), label, role=shared)

    def operand(self, state: State, part: str) -> str:
        """A state as an operand of elementwise nodes."""
        return state if isinstance(state, str) else self.constant(part, state)

    def _linear(self, x: str, w: Array, bias: Array, part: str, label: str) -> str:
        names = [x, self.constant(f"{part}.w", w.T), ""]
        if np.any(bias):
            names[2] = self.constant(f"{part}.bias", bias)
        return self.add("Linear", part, names, label)

    def _free(self, name: str) -> str:
        return self.b.fresh(name) if name in self.b.tensors else name


def is_zero(state: State) -> bool:
    """Whether a state is known to be zeros."""
    return not isinstance(state, str) and not np.any(state)


@dataclass
class Gru:
    """Cho et al. (EMNLP 2014); gates reset, update, new.

        r = σ(W·x + R·h)   u = 1 − σ(W·x + R·h)   n = tanh(W·x + r∘(R·h))   h' = h + u∘(n − h)

    With `reset_first` it is R·(r∘h). The update gate of `w` is negated (`Gru.of` does it): since
    σ(−x) = 1 − σ(x), a gate that keeps the state has the code 0, and then it stays as it is.
    """

    w: Layer
    reset_first: bool = False

    @staticmethod
    def of(
        b: Builder, name: str, p: Parameters, reset_first: bool = False, states: str = ""
    ) -> Gru:
        """The cell of parameters as they are written in papers, with z in place of u."""
        apart = () if reset_first else ("new",)
        return Gru(Layer(b, name, p.one_bias(apart).negated("update"), states), reset_first)

    def step(self, given: Given, states: States, label: str) -> tuple[str, ...]:
        """Adds the nodes of a step."""
        w, h = self.w, states[0]
        reset = w.gate("Sigmoid", "reset", given, w.product(h, "reset", label), label)
        update = w.gate("Sigmoid", "update", given, w.product(h, "update", label), label)
        new = w.gate("Tanh", "new", given, self._kept(h, reset, label), label)
        if is_zero(h):
            return (w.add("Mul", "h", (update, new), label),)
        old = w.operand(h, "h")
        change = w.add("Mul", "step", (update, w.add("Sub", "change", (new, old), label)), label)
        return (w.add("Add", "h", (old, change), label),)

    def _kept(self, h: State, reset: str, label: str) -> str:
        w = self.w
        if not self.reset_first:
            product = w.product(h, "new", label)
            idle = is_zero(h) and not np.any(w.p.kept_bias["new"])
            return product if idle else w.add("Mul", "kept", (reset, product), label)
        if is_zero(h):
            return w.product(h, "new", label)
        part = w.add("Mul", "kept", (reset, w.operand(h, "h")), label)
        return w.product(part, "new", label)


@dataclass
class Lstm:
    """Hochreiter, Schmidhuber (1997), Gers et al. (2000); gates input, output, forget, new.

        i, o, f = σ(W·x + R·h)   g = tanh(W·x + R·h)   c' = f∘c + i∘g   h' = o∘tanh(c')

    Without weights of an input gate it is 1 − f. `clip` limits the cell (0: not), `projection`
    [O, H] makes a shorter hidden state.
    """

    w: Layer
    clip: float = 0.0
    projection: Array | None = None

    def step(self, given: Given, states: States, label: str) -> tuple[str, ...]:
        """Adds the nodes of a step; states are (h, c)."""
        w, (h, c) = self.w, states
        gates = [gate for gate in ("input", "output", "forget") if gate in w.p.w]
        made = {g: w.gate("Sigmoid", g, given, w.product(h, g, label), label) for g in gates}
        if "input" not in made:
            one = w.constant("one", np.ones(len(w.p.kept_bias["forget"])))
            made["input"] = w.add("Sub", "input", (one, made["forget"]), label)
        new = w.gate("Tanh", "new", given, w.product(h, "new", label), label)
        if is_zero(c):
            cell = w.add("Mul", "c", (made["input"], new), label)
        else:
            kept = w.add("Mul", "kept", (made["forget"], w.operand(c, "c")), label)
            change = w.add("Mul", "step", (made["input"], new), label)
            cell = w.add("Add", "c", (kept, change), label)
        if self.clip:
            cell = w.add("Clip", "c", (cell,), label, {"min": -self.clip, "max": self.clip})
        squashed = w.add("Tanh", "squashed", (cell,), label)
        if self.projection is None:
            return w.add("Mul", "h", (made["output"], squashed), label), cell
        hidden = w.add("Mul", "hidden", (made["output"], squashed), label)
        matrix = w.constant("projection.w", self.projection.T)
        return w.add("Linear", "h", (hidden, matrix, ""), label), cell


@dataclass
class Rnn:
    """Elman (1990): h' = f(W·x + R·h); one gate, new."""

    w: Layer
    function: str = "Tanh"

    def step(self, given: Given, states: States, label: str) -> tuple[str, ...]:
        """Adds the nodes of a step."""
        w = self.w
        kept = w.product(states[0], "new", label)
        total = w.add("Add", "new_sum", (given["new"], kept), label)
        return (w.add(self.function, "h", (total,), label),)


def unrolled(
    cell: Cell, x: str, states: States, label: str = "", reverse: bool = False
) -> list[tuple[str, ...]]:
    """The states behind every step of an input [1, T, I], in the order of time."""
    b, given = cell.w.b, cell.w.given(x)
    steps = b.shape(x)[1]
    found: dict[int, tuple[str, ...]] = {}
    for t in range(steps)[::-1] if reverse else range(steps):
        own = {gate: _row(b, name, t, steps) for gate, name in given.items()}
        found[t] = cell.step(own, states, f"{label}/t{t}")
        states = found[t]
    return [found[t] for t in range(steps)]


def _row(b: Builder, name: str, t: int, steps: int) -> str:
    """Row t of what the input gives."""
    if steps == 1:
        return name
    attrs = {"starts": (t,), "ends": (t + 1,), "axes": (1,), "steps": (1,)}
    return b.emit("Slice", (name,), attrs, name=f"{name}/t{t}")


def stacked(cell: Cell, states: Sequence[str], label: str = "") -> str:
    """Hidden states [1, 1, H] of T steps as one [1, T, H]."""
    if len(states) == 1:
        return states[0]
    return cell.w.add("Concat", "h", states, f"{label}/all", {"axis": 1})
