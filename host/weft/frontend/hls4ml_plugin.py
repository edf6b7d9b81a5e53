"""The classes that hls4ml's registry wants; imported only when hls4ml asks for its plugins."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hls4ml.backends.vivado.vivado_backend import VivadoBackend
from hls4ml.model.attributes import ConfigurableAttribute
from hls4ml.model.flow import get_flow, register_flow
from hls4ml.model.layers import Layer
from hls4ml.model.optimizer import ModelOptimizerPass
from hls4ml.writer.writers import Writer

from weft.frontend import hls4ml_backend as backend
from weft.frontend.hls4ml_options import OPTIONS

if TYPE_CHECKING:
    from weft.vendor.run import Outcome

# As in hls4ml's Vitis backend, up to the point where C++ is generated.
FLOWS = ("optimize", "vivado:init_layers", "vivado:quantization")
WRITES_CPP = ("vivado:process_fixed_point_quantizer_layer",)


class WeftWriter(Writer):  # type: ignore[misc]
    """Writes the program of a model."""

    def write_hls(self, model: Any) -> None:
        """Writes the program and its notes."""
        backend.write(model)


class BindTrace(ModelOptimizerPass):  # type: ignore[misc]
    """Gives a model weft's trace: hls4ml asks the backend for predict, but not for trace."""

    def __init__(self) -> None:
        self.name = "bind_trace"

    def transform(self, model: Any) -> bool:
        """Changes no layer."""
        model.trace = partial(backend.trace, model)
        return False


class WeftBackend(VivadoBackend):  # type: ignore[misc]
    """The backend; layers have the attributes of the Vivado backend, and weft's."""

    def __init__(self) -> None:
        super(VivadoBackend, self).__init__(name="Weft")
        self._register_layer_attributes()
        options = [
            ConfigurableAttribute(attribute, value_type=str, default="")
            for attribute, _ in OPTIONS.values()
        ]
        self.attribute_map[Layer] = [*self.attribute_map.get(Layer, []), *options]
        passes = [p for p in get_flow("vivado:optimize").optimizers if p not in WRITES_CPP]
        self._flow = register_flow(
            "program", [*passes, "weft:bind_trace"], requires=list(FLOWS), backend=self.name
        )

    def _init_file_optimizers(self) -> dict[str, Any]:
        return {}

    def _init_class_optimizers(self) -> dict[str, Any]:
        return {"bind_trace": BindTrace()}

    def create_initial_config(self, **options: Any) -> dict[str, Any]:
        """The configuration that a conversion starts with (`hls4ml_backend.settings`)."""
        return backend.settings(**options)

    def get_default_flow(self) -> str:
        """The passes of a conversion."""
        return str(self._flow)

    def get_writer_flow(self) -> str:
        """The same: nothing is generated."""
        return str(self._flow)

    def write(self, model: Any) -> None:
        """Writes the program."""
        backend.write(model)

    def compile(self, model: Any) -> str:
        """Compiles the program and opens the device."""
        return backend.compile_model(model)

    def predict(self, model: Any, x: Any) -> Any:
        """Outputs of the program."""
        return backend.predict(model, x)

    def build(self, model: Any, **options: Any) -> Outcome:
        """The bitstream's project."""
        return backend.build(model, **options)
