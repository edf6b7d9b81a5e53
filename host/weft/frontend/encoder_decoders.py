"""Which encoder-decoder a folder of the transformers library holds: T5, mT5, BART."""

from __future__ import annotations

from pathlib import Path

from weft.errors import ModelError, UnsupportedError
from weft.frontend import bart, t5
from weft.frontend.decoders import config_of, tokenizer_of
from weft.frontend.safetensors_folder import load_folder
from weft.frontend.seq2seq import Seq2Seq, settings
from weft.frontend.transformers_folder import PAIRS


def is_pair(source: object) -> bool:
    """Whether `source` names an encoder-decoder that `load` reads."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return False
    config = config_of(Path(source))
    return config is not None and config.values.get("model_type") in PAIRS


def load(source: str | Path) -> Seq2Seq:
    """The encoder-decoder of a folder.

    Raises ModelError, ShapeError for folders that are damaged or incomplete, UnsupportedError for
    other architectures and what weft lacks of these.
    """
    path = Path(source)
    config = config_of(path) if path.is_dir() else None
    if config is None:
        raise ModelError(f"{path}: no encoder-decoder: a folder with config.json is expected")
    kind = config.values.get("model_type")
    if kind not in PAIRS:
        raise UnsupportedError(
            f"{path}: model_type {kind!r} is no encoder-decoder that weft knows: {', '.join(PAIRS)}"
        )
    load_kind = bart.load if kind == "bart" else t5.load
    return load_kind(settings(path, config), load_folder(path), tokenizer_of(path))
