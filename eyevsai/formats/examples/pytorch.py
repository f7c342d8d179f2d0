"""python example.py IMAGE prints the five likeliest classes. Needs torch, numpy and pillow."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from network import predict_proba  # the file beside this one
from PIL import Image, ImageOps

here = Path(__file__).parent
classes = json.loads((here / "manifest.json").read_text("utf-8"))["classes"]
image = np.array(ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB"))  # any height and width
state = torch.load(here / "model.pth", weights_only=True)
with torch.inference_mode():
    probabilities = predict_proba(state, torch.from_numpy(image[None])).numpy()
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][number]:.4f}  {classes[number]}")
