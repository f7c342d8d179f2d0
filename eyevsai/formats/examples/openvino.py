"""python example.py IMAGE prints the five likeliest classes. Needs openvino, numpy and pillow."""

import json
import sys
from pathlib import Path

import openvino
from decode import decode

here = Path(__file__).parent
manifest = json.loads((here / "manifest.json").read_text("utf-8"))
depth = manifest["preprocessing"]["depth"] or {"integer_top": 65535.0, "float_top": 1.0}
classes = manifest["classes"]
image = decode(sys.argv[1], depth)  # H,W,3 uint8 RGB of any height and width
# by itself OpenVINO takes bfloat16 where the processor has it
hints = {"INFERENCE_PRECISION_HINT": "f32"}
model = openvino.Core().compile_model(here / "model.xml", "CPU", hints)
probabilities = model([image[None]])[0]
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][number]:.4f}  {classes[number]}")
