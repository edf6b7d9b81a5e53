"""PyTorch modules: float, quantized by torchao (PT2E), and by Brevitas. Skipped without torch."""

from __future__ import annotations

import numpy as np
import pytest

import weft
from weft import demo
from weft.errors import MissingDependency, UnsupportedError, UsageError
from weft.frontend import pytorch, sources


class Module:
    """Looks like a PyTorch module to whoever may not import torch."""

    training = False


Module.__module__ = "torch.nn.modules.module"


def test_modules_are_recognized_without_torch():
    assert sources.is_module(Module())
    assert not sources.is_module("model.onnx")
    with pytest.raises(UsageError, match="example_inputs"):
        weft.compile(Module())


def test_missing_packages_are_named(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("torch", "onnxscript"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match=r"weft\[torch\]"):
        pytorch.load_module(Module(), np.zeros((1, 3)))


def network(torch):
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)),
    )


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (64, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def torch():
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    return pytest.importorskip("torch", reason="torch is not installed")


def run(program, x) -> np.ndarray:
    with weft.open(program) as session:
        return np.asarray(session.run(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_float_module(torch, x):
    module = network(torch).train()
    program = weft.compile(module, "tiny", example_inputs=torch.zeros(2, 3, 8, 8), calibration=x)
    assert module.training
    wanted = module.eval()(torch.tensor(x)).detach().numpy()
    assert np.abs(run(program, x) - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_traced_is_named(torch):
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedError, match="can't export"):
        weft.compile(Branching(), example_inputs=torch.zeros(1, 4), dynamic=True)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_channel", [False, True])
def test_torchao_keeps_its_integers(torch, x, per_channel):
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

    example = (torch.zeros(2, 3, 8, 8),)
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=per_channel)
    quantizer = xnnpack.XNNPACKQuantizer().set_global(config)
    exported = torch.export.export(network(torch).eval(), example).module()
    prepared = prepare_pt2e(exported, quantizer)
    for i in range(0, 64, 2):
        prepared(torch.tensor(x[i : i + 2]))
    module = convert_pt2e(prepared)
    pairs = [module(torch.tensor(x[i : i + 2])).detach().numpy() for i in range(0, 64, 2)]
    wanted = np.concatenate(pairs)
    graph = weft.load_model(module, example_inputs=example)
    weights = [graph[n.inputs[1]] for n in graph if n.op in ("Conv", "Linear")]
    assert [w.data.dtype for w in weights] == [np.int8] * 3
    scale = graph[graph.outputs[0]].quant.scale
    y = run(weft.compile(graph, "tiny"), x)
    assert np.abs(np.rint(y / scale) - np.rint(wanted / scale)).max() <= 1


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_brevitas_module(torch):
    qnn = pytest.importorskip("brevitas.nn", reason="brevitas is not installed")
    pytest.importorskip("onnxoptimizer", reason="onnxoptimizer is not installed")
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat

    torch.manual_seed(0)
    how = {"bias": False, "weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": 3}
    module = torch.nn.Sequential(
        qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8),
        qnn.QuantConv2d(1, 8, 3, padding=1, **how),
        qnn.QuantReLU(bit_width=3),
        torch.nn.Flatten(),
        qnn.QuantLinear(512, 10, **how),
    )
    images = (demo.load_data().images[:64] / 16).astype(np.float32)
    module(torch.tensor(images))
    module.eval()
    wanted = module(torch.tensor(images)).detach().numpy()
    program = weft.compile(module, "tiny", example_inputs=torch.zeros(1, 1, 8, 8))
    np.testing.assert_allclose(run(program, images), wanted, atol=1e-4)
