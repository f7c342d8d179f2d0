"""Print the five most probable classes of an image: python example.py IMAGE

Requires onnxruntime-gpu with TensorRT, numpy and pillow.
"""

import json
import sys
from pathlib import Path

import onnxruntime
from decode import decode

folder = Path(__file__).parent
manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
depth = manifest["preprocessing"]["depth"] or {"integer_top": 65535.0, "float_top": 1.0}
classes = manifest["classes"]
image = decode(sys.argv[1], depth)  # H,W,3 uint8 RGB of any height and width
settings = json.loads((folder / "engine.json").read_text("utf-8"))["onnxruntime"]
settings["trt_engine_cache_path"] = str(folder)
providers = [
    ("TensorrtExecutionProvider", settings),
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
]
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=providers)
(probabilities,) = session.run(None, {"images": image[None]})
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][number]:.4f}  {classes[number]}")
