"""Hyper-parameters of decoders, read from a config.json of the transformers library.

Nothing else of the folder is read: weights are not needed. Names of settings are those of the
library's configuration classes; what a file leaves out has the class's default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from weft.errors import ModelError, ShapeError, UnsupportedError, unknown
from weft.frontend.safetensors_folder import read_json
from weft.frontend.transformer_blocks import Config

LIMITS = {
    "num_hidden_layers": 1024,
    "hidden_size": 1 << 16,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 1024,
    "intermediate_size": 1 << 20,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 27,
    "sliding_window": 1 << 27,
}


@dataclass(frozen=True)
class Product:
    """A matrix product with constant weights [inputs, outputs]; `copies` of it in a layer."""

    name: str
    inputs: int
    outputs: int
    copies: int = 1

    @property
    def weights(self) -> int:
        """Numbers in all copies."""
        return self.inputs * self.outputs * self.copies


@dataclass(frozen=True)
class Decoder:
    """A decoder, or an encoder and a decoder of as many heads and channels.

    `gated`: two products in front of the activation function, which is a `table` (ReLU is none);
    `positions` is the longest sequence (0: unlimited), `window` the keys that a query sees at most
    (0: all); `head_norms`: queries and keys are normalized per head.
    """

    name: str
    kind: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocab: int
    positions: int
    gated: bool = True
    table: bool = True
    rotary: bool = True
    tied: bool = False
    head_norms: bool = False
    window: int = 0
    encoder_layers: int = 0

    @property
    def group(self) -> int:
        """Queries that share a head of keys and values."""
        return self.heads // self.kv_heads

    def attention_products(self) -> tuple[Product, ...]:
        """Products around attention to the tokens of the same sequence."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        return (
            Product("q", self.width, q),
            Product("k, v", self.width, kv, 2),
            Product("o", q, self.width),
        )

    def feed_forward_products(self) -> tuple[Product, ...]:
        """Products of a feed-forward layer."""
        return (
            Product("gate, up" if self.gated else "up", self.width, self.inner, 1 + self.gated),
            Product("down", self.inner, self.width),
        )

    def output(self) -> Product:
        """From the last layer to a number per token of the vocabulary."""
        return Product("output", self.width, self.vocab)

    def products(self) -> tuple[tuple[Product, int], ...]:
        """Every product, and in how many layers it is."""
        own = self.attention_products()
        decoder = (*own, *self.feed_forward_products())
        cross = [(replace(p, name=f"cross {p.name}"), self.layers) for p in own]
        return (
            *((p, self.layers) for p in decoder),
            *(cross if self.encoder_layers else ()),
            *((p, self.encoder_layers) for p in decoder if self.encoder_layers),
            (self.output(), 1),
        )

    @property
    def parameters(self) -> int:
        """Numbers in all matrices: products, and of embeddings what is no product's, too."""
        shared = self.output().weights if self.tied else 0
        return sum(p.weights * n for p, n in self.products()) + self.embedding - shared

    @property
    def embedding(self) -> int:
        """Numbers in the table of embeddings, positions included."""
        learned = 0 if self.rotary or not self.positions else self.positions * self.width
        return self.vocab * self.width + learned


def load(path: str | Path) -> Decoder:
    """The decoder of a config.json, or of the folder it is in.

    Raises ModelError for a broken or absurd one, ShapeError where sizes contradict each other,
    UnsupportedError for other architectures.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    config = Config(file, read_json(file))
    kind = config.values.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"{file}: no model_type; config.json of the transformers library has one")
    if kind not in KINDS:
        raise UnsupportedError(f"{file}: {unknown('decoder', kind, KINDS)}")
    for name in ("num_experts", "num_local_experts"):
        if config.values.get(name):
            raise UnsupportedError(f"{file}: {name} = {config.values[name]!r}: weft lacks experts")
    return _checked(KINDS[kind](config, kind), file)


def is_config(path: str | Path) -> bool:
    """Whether a path is meant as a configuration: a .json file, or a folder with config.json."""
    path = Path(path)
    return path.suffix == ".json" or (path.is_dir() and (path / "config.json").is_file())


def _size(config: Config, name: str, *others: str, default: int | None = None) -> int:
    """A setting within its limit."""
    value = config.size(name, *others, default=default)
    most = LIMITS[name]
    if value > most:
        raise ModelError(f"{config.path}: {name} = {value:,}; at most {most:,}")
    return value


def _flag(config: Config, name: str, default: bool) -> bool:
    value = config.values.get(name)
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"{config.path}: {name} = {value!r}; true or false")
    return default if value is None else value


def _name(config: Config) -> str:
    """What the model calls itself; else the file or its folder."""
    given = config.values.get("_name_or_path")
    if isinstance(given, str) and given.strip("./"):
        return Path(given).name
    return config.path.parent.name if config.path.name == "config.json" else config.path.stem


def _llama(config: Config, kind: str) -> Decoder:
    heads = _size(config, "num_attention_heads")
    width = _size(config, "hidden_size")
    own = config.values.get("head_dim") is not None
    default = 128 if kind == "qwen3" else width // heads
    if not own and kind != "qwen3" and width % heads:
        raise ShapeError(
            f"{config.path}: hidden_size = {width} is no multiple of num_attention_heads = {heads}"
        )
    slides = kind == "mistral" or _flag(config, "use_sliding_window", False)
    there = config.values.get("sliding_window") is not None
    return Decoder(
        _name(config), kind, _size(config, "num_hidden_layers"), width, heads,
        _size(config, "num_key_value_heads", default=heads),
        _size(config, "head_dim", default=default),
        _size(config, "intermediate_size"), _size(config, "vocab_size"),
        _size(config, "max_position_embeddings", default=2048),
        tied=_flag(config, "tie_word_embeddings", False),
        head_norms=kind == "qwen3",
        window=_size(config, "sliding_window") if slides and there else 0,
    )  # fmt: skip


def _gpt2(config: Config, kind: str) -> Decoder:
    width = _size(config, "hidden_size", "n_embd", default=768)
    heads = _size(config, "num_attention_heads", "n_head", default=12)
    if width % heads:
        raise ShapeError(f"{config.path}: n_embd = {width} is no multiple of n_head = {heads}")
    return Decoder(
        _name(config), kind, _size(config, "num_hidden_layers", "n_layer", default=12), width,
        heads, heads, width // heads,
        _size(config, "intermediate_size", "n_inner", default=4 * width),
        _size(config, "vocab_size", default=50257),
        _size(config, "max_position_embeddings", "n_positions", default=1024),
        gated=False, rotary=False, tied=_flag(config, "tie_word_embeddings", True),
    )  # fmt: skip


def _t5(config: Config, kind: str) -> Decoder:
    heads = _size(config, "num_attention_heads", "num_heads", default=8)
    layers = _size(config, "num_hidden_layers", "num_layers", default=6)
    decoder = config.size("num_decoder_layers", default=layers)
    feed_forward = str(config.values.get("feed_forward_proj", "relu"))
    made = Decoder(
        _name(config), kind, decoder, _size(config, "hidden_size", "d_model", default=512),
        heads, heads, _size(config, "head_dim", "d_kv", default=64),
        _size(config, "intermediate_size", "d_ff", default=2048),
        _size(config, "vocab_size", default=32128), 0,
        gated=feed_forward.startswith("gated"), table=not feed_forward.endswith("relu"),
        rotary=False, tied=_flag(config, "tie_word_embeddings", True), encoder_layers=layers,
    )  # fmt: skip
    if decoder > LIMITS["num_hidden_layers"]:
        raise ModelError(f"{config.path}: num_decoder_layers = {decoder:,}; at most 1,024")
    return made


def _checked(made: Decoder, file: Path) -> Decoder:
    """Raises ShapeError for heads that can't share keys and values."""
    if made.heads % made.kv_heads:
        raise ShapeError(
            f"{file}: num_attention_heads = {made.heads} is no multiple of num_key_value_heads = "
            f"{made.kv_heads}"
        )
    return made


KINDS: Mapping[str, Callable[[Config, str], Decoder]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
    "t5": _t5,
    "mt5": _t5,
}
