"""Recurrent networks one step at a time: states that stay on the device, encoder-decoders."""

from weft.recurrent.generate import Generator as Generator
from weft.recurrent.network import Decoding as Decoding
from weft.recurrent.network import EncoderDecoder as EncoderDecoder
from weft.recurrent.session import StepSession as StepSession
from weft.recurrent.session import Took as Took
from weft.recurrent.session import open_steps as open_steps
from weft.recurrent.states import entry_program as entry_program

__all__ = [
    "Decoding",
    "EncoderDecoder",
    "Generator",
    "StepSession",
    "Took",
    "entry_program",
    "open_steps",
]
