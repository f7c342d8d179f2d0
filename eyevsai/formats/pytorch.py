"""PyTorch: the weights as a state dict, and the network as a file of torch's own operations."""

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
NAMES = {
    "device": "from torch import device",
    "inf": "from math import inf",
    "nan": "from math import nan",
}


class PyTorch(Format):
    """For networks: `model.pth` opens with `weights_only=True`; safetensors and a card in JSON lie
    beside it.
    """

    name = "pytorch"
    networks_only = True

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write the weights, the settings and the code of the network."""
        import torch

        save(source.learner, folder)
        program, learned = source.program, source.learner.tensors()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in learned.items()}
        torch.save(state | program.constants, folder / MODEL)
        (folder / NETWORK).write_text(render_network(program, list(learned)), encoding="utf-8")

    def open(self, folder: Path) -> Runtime:
        """Load the learner with the weights of `model.pth`; no code in the folder is executed."""
        import torch

        learner = load(folder)
        state = torch.load(folder / MODEL, weights_only=True)
        learner.load_tensors({name: state[name] for name in learner.tensors()})
        return LearnerRuntime(learner)

    def open_written(self, folder: Path) -> Runtime:
        """Run `network.py`, which users get, so that the parity check measures that file.

        Raises:
            UserError: the safetensors file, the card or `model.pth` cannot be opened.
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


def render_network(program: ExportedProgram, learned: Sequence[str]) -> str:
    """A Python file with one function from a state dict and images to probabilities, which needs
    torch alone.

    Of the tensors that the graph takes, those that are `learned` have their names in the learner,
    others their own.
    """
    taken = [
        str(spec.target) for spec in program.graph_signature.input_specs if spec.target is not None
    ]
    outside = next(name for name in taken if name.endswith(learned[0])).removesuffix(learned[0])
    code = program.graph_module.graph.python_code("self")
    known = {name: value for name, value in code.globals.items() if name in NAMES}
    imports = "".join(f"{NAMES[name]}\n" for name in sorted(known))
    names = "".join(f"    {name.removeprefix(outside)!r},\n" for name in taken)
    return f'''"""The model in torch's own operations, as torch.export wrote them down."""

import torch
{imports}
WEIGHTS = (
{names})


def predict_proba(state, images):
    """Probabilities (N,C float32) of images (N,H,W,3 uint8).

    `state` is what torch.load("{MODEL}", weights_only=True) gives.
    """
    return forward(None, *(state[name] for name in WEIGHTS), images)[0]


{code.src.strip()}
'''


class LearnerRuntime:
    """A learner, asked as exports are."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def predict_proba(self, images: Pixels) -> Probabilities:
        return self.learner.predict_proba(images)


class NetworkRuntime:
    """An exported `network.py` with the state dict beside it, executed without an entry in
    `sys.modules`.
    """

    def __init__(self, folder: Path) -> None:
        import torch

        path = folder / NETWORK
        self.names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
        # written by this process
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), self.names)
        self.state = torch.load(folder / MODEL, weights_only=True)

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return N,C float32 probabilities of N,H,W,3 uint8 images."""
        import torch

        with torch.inference_mode():
            found: Probabilities = self.names["predict_proba"](
                self.state, torch.from_numpy(images)
            ).numpy()
        return found
