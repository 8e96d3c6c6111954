"""digits: 1797 handwritten digits, 8×8×1, pixels 0..16, that come inside scikit-learn (CC BY 4.0).

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
(its test set: the only part scikit-learn carries, so that train and test rows share the 1797).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kernreg.data.source import Source, array_hash


def digits(data_dir: Path) -> Source:
    """The 1797 images as uint8 (1797, 8, 8, 1) and their labels; data_dir is not read."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = bunch["images"].astype(np.uint8)[..., None]
    y = bunch["target"].astype(np.int64)
    return Source(
        x=x,
        y=y,
        x_test=None,
        y_test=None,
        classes=tuple("0123456789"),
        hashes={"digits": array_hash(x, y)},
        white=16.0,
    )
