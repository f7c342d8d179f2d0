"""Print the five most probable classes of an image: python example.py IMAGE

Requires torch, numpy and pillow.
"""

import json
import sys
from pathlib import Path

import torch
from decode import decode
from network import predict_proba  # network.py in this folder

folder = Path(__file__).parent
manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
depth = manifest["preprocessing"]["depth"] or {"integer_top": 65535.0, "float_top": 1.0}
classes = manifest["classes"]
image = decode(sys.argv[1], depth)  # H,W,3 uint8 RGB of any height and width
state = torch.load(folder / "model.pth", weights_only=True)
with torch.inference_mode():
    probabilities = predict_proba(state, torch.from_numpy(image[None])).numpy()
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][number]:.4f}  {classes[number]}")
