"""Encoders by architecture, from a folder of the transformers library: config.json, safetensors."""

from __future__ import annotations

from pathlib import Path

from weft.errors import ModelError, UnsupportedError, UsageError
from weft.frontend import bert, llama, swin, vit
from weft.frontend.safetensors_folder import load_folder, read_json
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config
from weft.graph import Graph

TOKENS = 128  # of a text encoder, if nobody says how many
IMAGES = {"vit": vit.load_vit, "deit": vit.load_vit, "swin": swin.load_swin}
KNOWN = (*bert.KIN, *IMAGES)
DECODERS = (*llama.FAMILY, "gpt2")  # see `weft.frontend.decoders`
PAIRS = ("t5", "mt5", "bart")  # see `weft.frontend.encoder_decoders`
# What an architecture that is asked for often would need.
LACKS = {
    "albert": "weights shared between layers and a factorized embedding",
    "deberta": "disentangled attention, whose scores add products with relative positions",
    "deberta-v2": "disentangled attention, whose scores add products with relative positions",
    "electra": "the projection between embeddings and layers",
    "mpnet": "position biases by distance, computed from a table",
}


def config_of(folder: str | Path) -> Config | None:
    """The config.json of a folder; None where there is none. Raises ModelError for a broken one."""
    path = Path(folder) / "config.json"
    return Config(path, read_json(path)) if path.is_file() else None


def is_known(folder: str | Path) -> bool:
    """Whether `folder` holds an encoder whose architecture is known."""
    config = config_of(folder)
    return config is not None and config.values.get("model_type") in KNOWN


def missing(folder: str | Path) -> str:
    """Why the encoder in a folder has no graph, to put into a message; "" without a config.json."""
    config = config_of(folder)
    if config is None or "model_type" not in config.values:
        return ""
    kind = str(config.values["model_type"])
    if kind in (*DECODERS, *PAIRS):
        return f" (model_type {kind!r} generates text: weft.compile, weft.open_decoder)"
    lacks = f"weft lacks {LACKS[kind]}" if kind in LACKS else "an architecture weft does not know"
    return f" (model_type {kind!r}: {lacks}; known: {', '.join(sorted(KNOWN))})"


def is_text(folder: str | Path) -> bool:
    """Whether `folder` holds a text encoder that `load_text` reads."""
    config = config_of(folder)
    return config is not None and config.values.get("model_type") in bert.KIN


def load(folder: str | Path, tokens: int | None = None, *, padding: bool = False) -> Graph:
    """The graph of an encoder: of a text one for `tokens` tokens (128, or what it can), which
    with `padding` takes the number of those that are there, too.

    Raises UnsupportedError for other architectures, saying what weft lacks, ModelError and
    ShapeError for folders that are incomplete or contradict their config.json, and for more
    tokens than positions.
    """
    model, config, kind = _open(folder)
    if kind in bert.KIN:
        kin = bert.KIN[kind]
        count = min(TOKENS, kin.positions(config)) if tokens is None else tokens
        return kin.load(model, config, count, padding)
    if tokens is not None:
        raise UsageError(f"{folder}: tokens = {tokens} is for text, {kind} takes images")
    return IMAGES[kind](model, config)


def tables(folder: str | Path) -> bert.Tables:
    """The embedding tables of a text encoder; raises as `load` does."""
    model, config, kind = _open(folder)
    if kind not in bert.KIN:
        raise UsageError(f"{folder}: {kind} has no word embeddings; text encoders are {text()}")
    return bert.KIN[kind].tables(model, config)


def positions(folder: str | Path) -> int:
    """The longest sequence of a text encoder."""
    _, config, kind = _open(folder)
    if kind not in bert.KIN:
        raise UsageError(f"{folder}: {kind} is no text encoder; those are {text()}")
    return bert.KIN[kind].positions(config)


def text() -> str:
    """The text encoders, for messages."""
    return ", ".join(bert.KIN)


def _open(folder: str | Path) -> tuple[StoredModel, Config, str]:
    config = config_of(folder)
    if config is None:
        raise ModelError(f"{folder}: no config.json; a folder of the transformers library has one")
    kind = str(config.values.get("model_type", "none"))
    if kind not in KNOWN:
        why = missing(folder) or " (no model_type)"
        raise UnsupportedError(f"{folder}{why}; export it to ONNX and load that")
    return load_folder(folder), config, kind
