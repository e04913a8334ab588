"""scikit-learn's handwritten digits: 1,797 grey pictures of 8 x 8, within the package, so always at hand."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from training.data.dataset import Dataset, Example
from training.data.reading import ImageArray
from training.data.splitting import draw_stratified


def digits() -> Dataset:
    """70 % train, 10 % validation, 20 % test of each class; values 0..16 are scaled to 0..255."""
    source = load_digits()
    pictures = np.round(source.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    labels = [int(label) for label in source.target]
    classes = tuple(str(name) for name in source.target_names)
    examples = [
        Example(f"digits/{number}", label, ImageArray(picture))
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    ]
    train, val, test = (
        tuple(examples[i] for i in part) for part in draw_stratified(labels, {"val": 0.1, "test": 0.2}, classes)
    )
    return Dataset(
        name="digits",
        classes=classes,
        train=train,
        val=val,
        test=test,
        flip=False,
        template="a photo of the digit {}",
        licence="CC BY 4.0 (Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI)",
    )
