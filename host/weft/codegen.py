"""Overlay → the C++ that depends on it: config.hpp and isa.hpp, as texts in memory."""

from __future__ import annotations

from weft import isa
from weft.config import Overlay, data_root
from weft.errors import MissingDependency
from weft.units.state import ISSUE_CLOCKS


def headers(overlay: Overlay) -> dict[str, str]:
    """File name → text of the generated headers; same overlay, same bytes.

    Raises MissingDependency where jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingDependency(
            "generating C++ needs jinja2: pip install 'weft[compile]'"
        ) from None
    environment = Environment(
        loader=FileSystemLoader(data_root() / "hls" / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    facts = {
        **isa.template_values(),
        "overlay": overlay,
        "digest": overlay.digest(),
        "issue_clocks": ISSUE_CLOCKS,
    }
    names = ("config.hpp", "isa.hpp")
    return {name: environment.get_template(f"{name}.j2").render(facts) for name in names}
