"""PyTorch format: a state dict, and the network as a Python file that needs torch only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.base import ExportSource, Format, Pixels, Runtime
from eyevsai.models.learner import Learner
from eyevsai.models.serialization import load, save

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MODEL, NETWORK = "model.pth", "network.py"
# import statements for the names that generated code may use
NAMES = {
    "device": "from torch import device",
    "inf": "from math import inf",
    "nan": "from math import nan",
}


class PyTorch(Format):
    """PyTorch export of a network.

    It consists of a state dict that opens with `weights_only=True`, the code of the network, and
    the learner's safetensors file and JSON card.
    """

    name = "pytorch"
    networks_only = True

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write the learner's files, `model.pth` and `network.py`."""
        import torch

        save(source.learner, folder)
        program, tensors = source.program, source.learner.tensors()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        torch.save(state | program.constants, folder / MODEL)
        (folder / NETWORK).write_text(render_network(program, list(tensors)), encoding="utf-8")

    def open(self, folder: Path) -> Runtime:
        """Load the learner with the weights of `model.pth`; no code in the folder is executed."""
        import torch

        learner = load(folder)
        state = torch.load(folder / MODEL, weights_only=True)
        learner.load_tensors({name: state[name] for name in learner.tensors()})
        return LearnerRuntime(learner)

    def open_written(self, folder: Path) -> Runtime:
        """Execute `network.py`, so that the parity check covers the file that users run.

        Raises:
            UserError: the safetensors file or the card cannot be opened.
        """
        self.open(folder)
        return NetworkRuntime(folder)

    def describe(self, runtime: Runtime) -> Mapping[str, Any]:
        """Return the learner's classes, preprocessing, family and variation."""
        assert isinstance(runtime, LearnerRuntime)
        learner = runtime.learner
        return {
            "classes": learner.classes,
            "preprocessing": learner.preprocessing.to_json(),
            "family": learner.family,
            "variation": learner.variation,
        }


def render_network(program: ExportedProgram, learner_names: Sequence[str]) -> str:
    """Return the source of a module that computes probabilities from a state dict and images.

    The module imports torch and the standard library only. In its state dict, the tensors of the
    learner have their names in `learner_names`, and other inputs of the graph have the graph's.
    """
    input_names = [
        str(spec.target) for spec in program.graph_signature.input_specs if spec.target is not None
    ]
    first = learner_names[0]
    prefix = next(name for name in input_names if name.endswith(first)).removesuffix(first)
    code = program.graph_module.graph.python_code("self")
    imports = "".join(f"{NAMES[name]}\n" for name in sorted(NAMES.keys() & code.globals.keys()))
    names = "".join(f"    {name.removeprefix(prefix)!r},\n" for name in input_names)
    return f'''"""Network in torch's own operations, generated from the graph of torch.export."""

import torch
{imports}
WEIGHTS = (
{names})


def predict_proba(state, images):
    """Return the probabilities (N,C float32) of images (N,H,W,3 uint8).

    `state` is the result of torch.load("{MODEL}", weights_only=True).
    """
    return forward(None, *(state[name] for name in WEIGHTS), images)[0]


{code.src.strip()}
'''


class LearnerRuntime:
    """Learner with the interface of an opened export."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def predict_proba(self, images: Pixels) -> Probabilities:
        return self.learner.predict_proba(images)


class NetworkRuntime:
    """Exported `network.py` and its state dict, executed without an entry in `sys.modules`."""

    def __init__(self, folder: Path) -> None:
        import torch

        path = folder / NETWORK
        self.names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
        # safe to execute: `PyTorch.open_written` is only called for files of this process
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), self.names)
        self.state = torch.load(folder / MODEL, weights_only=True)

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return N,C float32 probabilities of N,H,W,3 uint8 images."""
        import torch

        with torch.inference_mode():
            probabilities: Probabilities = self.names["predict_proba"](
                self.state, torch.from_numpy(images)
            ).numpy()
        return probabilities
