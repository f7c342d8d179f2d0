"""Print the five most probable classes of an image: python example.py IMAGE

Requires openvino, numpy and pillow.
"""

import json
import sys
from pathlib import Path

import openvino
from decode import decode

folder = Path(__file__).parent
manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
depth = manifest["preprocessing"]["depth"] or {"integer_top": 65535.0, "float_top": 1.0}
classes = manifest["classes"]
image = decode(sys.argv[1], depth)  # H,W,3 uint8 RGB of any height and width
hints = {"INFERENCE_PRECISION_HINT": "bf16"}  # as in the parity check
model = openvino.Core().compile_model(folder / "model.xml", "CPU", hints)
probabilities = model([image[None]])[0]
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][number]:.4f}  {classes[number]}")
