"""Templates → texts in memory: the C++ that depends on an overlay, and what builds it."""

from __future__ import annotations

from functools import cache
from typing import Any

from weft import isa
from weft.config import Overlay, data_root
from weft.errors import MissingDependency
from weft.state import ISSUE_CLOCKS


def headers(overlay: Overlay) -> dict[str, str]:
    """File name → text of the generated headers; same overlay, same bytes.

    Raises MissingDependency where jinja2 is not installed.
    """
    facts = {
        **isa.template_values(),
        "overlay": overlay,
        "digest": overlay.digest(),
        "issue_clocks": ISSUE_CLOCKS,
    }
    return {name: render(f"hls/templates/{name}.j2", facts) for name in ("config.hpp", "isa.hpp")}


def render(template: str, facts: dict[str, Any]) -> str:
    """The text of a template, named by its path from the data root; unknown names are errors.

    Raises MissingDependency where jinja2 is not installed.
    """
    return str(_environment().get_template(template).render(facts))


@cache
def _environment() -> Any:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingDependency(
            "generating C++ needs jinja2: pip install 'weft[compile]'"
        ) from None
    return Environment(
        loader=FileSystemLoader(data_root()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
