"""Number formats."""
from weft.format import Format
from weft.formats import int8
FORMATS: dict[str, Format] = {f.name: f for f in (int8.INT8,)}
BY_NUMBER = dict(enumerate(FORMATS.values()))
NUMBERS = {f.name: i for i, f in BY_NUMBER.items()}
def parse(name):
    return FORMATS[name]
