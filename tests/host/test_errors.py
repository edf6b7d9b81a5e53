"""Errors: one exit code per kind, and messages that help."""

from __future__ import annotations

import pytest

from weft import errors


def kinds():
    return [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]


def test_all_are_weft_errors_and_leave_with_a_failure():
    for kind in kinds():
        assert issubclass(kind, errors.WeftError)
        assert 1 <= kind.exit_code <= 125


def test_usage_is_2_as_with_click():
    import click

    assert errors.UsageError.exit_code == click.UsageError.exit_code == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [("kv26", "Did you mean 'KV260'?"), ("PYNQ-z2", "Did you mean 'Pynq-Z2'?"), ("vax", "Known:")],
)
def test_unknown_names_the_near_ones(name, hint):
    message = errors.unknown("board", name, ["Pynq-Z2", "KV260"])
    assert message.startswith(f"no board {name!r}.")
    assert hint in message
    assert message.endswith("Known: KV260, Pynq-Z2")


def test_nothing_near_is_not_guessed():
    assert "Did you mean" not in errors.unknown("board", "vax", ["Pynq-Z2", "KV260"])
