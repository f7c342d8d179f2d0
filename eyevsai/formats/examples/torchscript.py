"""python example.py IMAGE prints the five likeliest classes. Needs torch, numpy and pillow.

TorchScript is legacy: take the pt2 export where you can.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

here = Path(__file__).parent
classes = json.loads((here / "manifest.json").read_text("utf-8"))["classes"]
image = np.array(ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB"))  # any height and width
network = torch.jit.load(str(here / "model.pt"))
with torch.inference_mode():
    probabilities = network(torch.from_numpy(image[None])).numpy()
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][number]:.4f}  {classes[number]}")
