"""An inference log with the answers of a real version, for tests of what reads it."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eyevsai.evaluation.image_statistics import measure_image
from eyevsai.inference_log.ids import Identities
from eyevsai.inference_log.images import ImageFolder, find_folder, insert_images
from eyevsai.inference_log.label_store import LabelResults
from eyevsai.inference_log.records import RANDOM, Answer, KeptImage, Label, Version
from eyevsai.inference_log.store import LogStore
from eyevsai.serving.classifier import load_classifier


class Served:
    """Answers of the versions of a model, as a server logs them, with all images stored.

    Args:
        database: file of the log.
        model: name of the registered model.
    """

    def __init__(self, database: Path, model: str) -> None:
        self.url, self.model = f"sqlite:///{database}", model
        self.store = LogStore.open(self.url)
        self.identities = Identities(b"a secret of this test")
        folder = find_folder(self.store, None)
        assert folder is not None
        self.images: ImageFolder = folder

    def answer(
        self, images: Sequence[np.ndarray], version: int = 1, *, keep: bool = True, failed: int = 0
    ) -> list[str]:
        """Log the answers of a version for H,W,3 uint8 images, and failures; return their ids."""
        classifier = load_classifier(f"models:/{self.model}/{version}")
        self.store.add_versions([Version(self.model, version, classifier.classes)])
        squares = [classifier.resize_to_square(image) for image in images]
        rows = classifier.predict_squares(squares)
        answers, kept = list[Answer](), list[KeptImage]()
        for image, square, row in zip(images, squares, rows, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            digest = hashlib.sha256(buffer.getvalue()).digest()
            answer = Answer(
                self.identities.new_id(),
                time.time(),
                self.model,
                version,
                label=classifier.classes[int(row.argmax())],
                probability=float(row.max()),
                probabilities=row,
                statistics=measure_image(square, image.shape[1] / image.shape[0]),
                model_ms=3.0,
                queue_ms=0.1,
                sha256=digest,
            )
            answers.append(answer)
            kept.append(KeptImage(digest, answer.id, RANDOM, buffer.getvalue()))
        answers += [
            Answer(
                self.identities.new_id(), time.time(), self.model, version, status="failed",
                error="it failed",
            )
            for _ in range(failed)
        ]  # fmt: skip
        self.store.add_answers(answers)
        if keep:
            for each in kept:
                self.images.write(each)
            with self.store.writing() as connection:
                insert_images(connection, kept)
        return [each.id for each in answers]

    def label(
        self, ids: Sequence[str], labels: Sequence[str], source: str = "person:anna"
    ) -> LabelResults:
        """Log a label of each answer."""
        now = time.time()
        return self.store.add_labels(
            [Label(key, name, source, now, now) for key, name in zip(ids, labels, strict=True)]
        )
