"""Print the five most probable classes of an image: python example.py IMAGE

Requires torch, numpy and pillow.
"""

import json
import sys
from pathlib import Path

import torch
from decode import decode

folder = Path(__file__).parent
manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
depth = manifest["preprocessing"]["depth"] or {"integer_top": 65535.0, "float_top": 1.0}
classes = manifest["classes"]
image = decode(sys.argv[1], depth)  # H,W,3 uint8 RGB of any height and width
network = torch.export.load(folder / "model.pt2").module()
probabilities = network(torch.from_numpy(image[None])).detach().numpy()
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][number]:.4f}  {classes[number]}")
