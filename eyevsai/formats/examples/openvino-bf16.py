"""python example.py IMAGE prints the five likeliest classes. Needs openvino, numpy and pillow."""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image, ImageOps

here = Path(__file__).parent
classes = json.loads((here / "manifest.json").read_text("utf-8"))["classes"]
image = np.array(ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB"))  # any height and width
hints = {"INFERENCE_PRECISION_HINT": "bf16"}  # what the figures in manifest.json were measured with
model = openvino.Core().compile_model(here / "model.xml", "CPU", hints)
probabilities = model([image[None]])[0]
for number in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][number]:.4f}  {classes[number]}")
