"""weft without PyTorch: nothing imports it, and weft.torch says what to install."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.strip()


def test_weft_does_not_import_torch() -> None:
    assert (
        run("import sys, weft; weft.compile; weft.open; print('torch' in sys.modules)") == "False"
    )


def test_what_to_install_is_said() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"  # as if it were not installed
        "from weft.errors import MissingDependency\n"
        "try:\n    import weft.torch\n"
        "except MissingDependency as error:\n    print(error)"
    )
    assert run(code) == (
        "weft.torch needs PyTorch, which is not installed: pip install 'weft[torch]'"
    )
