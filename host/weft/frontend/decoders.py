"""Which decoder a file or folder holds: llama2.c, folders of the transformers library, GGUF."""

from __future__ import annotations

from pathlib import Path

from weft.errors import ModelError, UnsupportedError
from weft.frontend import gpt2, llama, llama2c, llama_gguf, transformers_folder
from weft.frontend.decoder import Decoder
from weft.frontend.safetensors_folder import load_folder, read_json
from weft.frontend.transformer_blocks import Config
from weft.text.tokenizer import LARGEST, Pretrained

KNOWN = transformers_folder.DECODERS
# What a decoder that is asked for often would need.
_MIXTURE = "experts that a router chooses per token"
LACKS = {
    "gemma2": "scores that tanh bounds, norms behind each part and windows of every other layer",
    "gemma3_text": "norms behind each part, and windows and rotations that differ by layer",
    "mixtral": _MIXTURE,
    "qwen2_moe": _MIXTURE,
    "qwen3_moe": _MIXTURE,
    "phi": "attention beside the feed-forward part, from one norm",
    "gpt_neox": "attention beside the feed-forward part",
    "falcon": "attention beside the feed-forward part, from one norm",
    "bloom": "biases of scores in proportion to the distance",
    "mamba": "state spaces in place of attention",
}


def config_of(folder: Path) -> Config | None:
    """The config.json of a folder; None where there is none."""
    path = folder / "config.json"
    return Config(path, read_json(path)) if path.is_file() else None


def is_decoder(source: object) -> bool:
    """Whether `source` names a decoder that `load` reads."""
    if not isinstance(source, (str, Path)):
        return False
    path = Path(source)
    if path.is_dir():
        config = config_of(path)
        return config is not None and config.values.get("model_type") in KNOWN
    return llama2c.is_checkpoint(path) or llama_gguf.is_decoder(path)


def load(source: str | Path) -> Decoder:
    """The decoder of a checkpoint of llama2.c, a GGUF file or a folder of the transformers library.

    Raises ModelError, ShapeError for files that are damaged or incomplete, UnsupportedError for
    other architectures and what weft lacks of these.
    """
    path = Path(source)
    if path.suffix == ".bin":
        return llama2c.load(path)
    if path.suffix == ".gguf":
        return llama_gguf.load(path)
    config = config_of(path) if path.is_dir() else None
    if config is None:
        raise ModelError(
            f"{path}: no decoder: a folder with config.json and *.safetensors, a .gguf file or a "
            "checkpoint of llama2.c is expected"
        )
    kind = config.values.get("model_type")
    if kind not in KNOWN:
        lacks = f": weft lacks {LACKS[kind]}" if kind in LACKS else ""
        raise UnsupportedError(
            f"{path}: model_type {kind!r} is no decoder that weft knows{lacks}; it knows "
            f"{', '.join(KNOWN)}"
        )
    tokenizer = tokenizer_of(path)
    model = load_folder(path)
    if kind == "gpt2":
        return gpt2.load(config, model, tokenizer)
    return llama.of_config(config, model).decoder(tokenizer)


def tokenizer_of(folder: Path) -> Pretrained | None:
    """The tokenizer.json of a folder, if it has one."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    if path.stat().st_size > LARGEST:
        raise ModelError(f"{path}: {path.stat().st_size:,} bytes; at most {LARGEST:,} are read")
    try:
        return Pretrained(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read ({error})") from None
