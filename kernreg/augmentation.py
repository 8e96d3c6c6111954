"""Augmented rows: mirror images and shifts of the training images as further rows, for kernels what augmented batches are.

Kernel regression on all images of a group's orbit equals regression with the kernel averaged over the group, whose predictor is
invariant (Mei, Misiakiewicz, Montanari 2021; Li et al. 2019).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data import Dataset
from kernreg.errors import KernregError


def augmented(dataset: Dataset, flip: bool = True, crop: int = 0) -> Dataset:
    """The data set with every training image followed by its mirror image and its shifts; test rows stay as they are.

    Args:
        dataset: of images, with n rows.
        flip: mirror left and right.
        crop: shift by every (dy, dx), |dy| and |dx| at most crop, zeros coming in.

    Returns:
        n·copies rows, the copies of a row next to each other and the row itself first: the first m·copies rows are the first
        m images augmented. `rows_train` repeats the row numbers.

    Raises:
        KernregError: vectors, or a shift larger than the image.
    """
    x = images(dataset.x_train, flip, crop)
    copies = x.shape[1]
    labels = dataset.labels_train
    return replace(
        dataset,
        x_train=np.ascontiguousarray(x.reshape(-1, *x.shape[2:])),
        y_train=np.repeat(dataset.y_train, copies, axis=0),
        labels_train=None if labels is None else np.repeat(labels, copies),
        rows_train=np.repeat(dataset.rows_train, copies),
        provenance={
            **dataset.provenance,
            "n": dataset.n * copies,
            "augmentation": {"flip": flip, "crop": crop, "copies": copies},
        },
    )


def images(x: NDArray[Any], flip: bool = True, crop: int = 0) -> NDArray[Any]:
    """(n, copies, H, W, C): each image, its mirror image if `flip`, and the shifts of both."""
    if x.ndim != 4:
        raise KernregError(f"augmentation mirrors and shifts images; these rows have the shape {x.shape[1:]}")
    H, W = x.shape[1:3]
    if not 0 <= crop < min(H, W):
        raise KernregError(f"crop is {crop}; a shift must be at least 0 and smaller than the image, {H}×{W}")
    padded = np.pad(x, ((0, 0), (crop, crop), (crop, crop), (0, 0)))
    moves = [(dy, dx) for dy in range(-crop, crop + 1) for dx in range(-crop, crop + 1)]
    moves.sort(key=lambda move: (abs(move[0]) + abs(move[1]), move))  # the image as it is comes first
    made = []
    for dy, dx in moves:
        shifted = padded[:, crop + dy : crop + dy + H, crop + dx : crop + dx + W]
        made.append(shifted)
        if flip:
            made.append(shifted[:, :, ::-1])
    return np.stack(made, axis=1)
