"""synthetic-images: as many natural-looking images as you ask for, to work at scale without a download.

Each class has a template, a Gaussian random field with the power spectrum of photographs, |k|^-spectrum
(spectrum = 2: D. J. Field, J. Opt. Soc. Am. A 4, 2379, 1987). An image is its class's template, moved
cyclically by a random step of at most `shift` pixels, plus a field of its own:

    x = √signal · template[label](· − step) + √(1 − signal) · field

Fields have mean 0 and pixel variance 1, channels correlate by 0.8 as colours do, and pixels are rounded to
256 levels, 1/32 apart, as in an 8-bit file: rounding also hides the last digits in which FFTs differ between
machines. Row i is made from (seed, i) alone: the counter of a Philox generator starts at i, so any n is
nested in any larger one, and test rows use another key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from kernreg.data.dataset import Dataset, Floats, Integers, one_hot
from kernreg.data.normalise import scale
from kernreg.data.source import check_sizes, require_choice, require_number, require_room

CHANNEL_CORRELATION = 0.8
LEVELS_PER_STD = 32
ROWS_AT_ONCE = 256
TRAIN, TEST, TEMPLATES = 0, 1, 2  # keys of the generator


def synthetic_images(
    n: int = 1000,
    test: int = 1000,
    seed: int = 0,
    balanced: bool = True,
    normalise: str = "none",
    dtype: str = "float32",
    size: int = 32,
    channels: int = 3,
    classes: int = 10,
    spectrum: float = 2.0,
    signal: float = 0.1,
    shift: int = 4,
) -> Dataset:
    """n train and `test` test images (size, size, channels) and their classes.

    balanced: row i has class i mod classes; else each row draws its class. spectrum is the exponent of the
    power spectrum, signal (0..1) the share of variance that tells the class, shift the largest step of the
    template in pixels. normalise is "none" (mean 0 and variance 1 hold by construction) or "per-image".
    """
    require_choice("normalise of synthetic-images", normalise, ("none", "per-image"))
    sizes = {"size": (size, 2), "channels": (channels, 1), "classes": (classes, 2), "shift": (shift, 0)}
    check_sizes("synthetic-images", n, test, seed, dtype, **sizes)
    for name, number, most in (("spectrum", spectrum, 8.0), ("signal", signal, 1.0)):
        require_number(f"synthetic-images: {name}", number, 0.0, most)
    require_room("synthetic-images", (n + test + 2 * classes + 6 * ROWS_AT_ONCE) * size * size * channels)
    maker = _Maker(int(seed), size, channels, classes, spectrum, signal, shift, balanced)
    x_train, labels_train = maker.rows(TRAIN, n, normalise, dtype)
    x_test, labels_test = maker.rows(TEST, test, normalise, dtype)
    provenance: dict[str, Any] = {
        "name": "synthetic-images",
        "n": int(n),
        "test": int(test),
        "seed": int(seed),
        "balanced": bool(balanced),
        "normalise": normalise,
        "dtype": dtype,
        "row_order": "synthetic-images-1",
        "shape": [size, size, channels],
        "targets": f"one-hot minus 1/{classes}",
        "classes": int(classes),
        "class_names": [str(c) for c in range(classes)],
        "hashes": {},
        "size": int(size),
        "channels": int(channels),
        "spectrum": float(spectrum),
        "signal": float(signal),
        "shift": int(shift),
    }
    return Dataset(
        name="synthetic-images",
        x_train=x_train,
        y_train=one_hot(labels_train, classes),
        x_test=x_test,
        y_test=one_hot(labels_test, classes),
        labels_train=labels_train,
        labels_test=labels_test,
        rows_train=np.arange(n, dtype=np.int64),
        rows_test=np.arange(test, dtype=np.int64),
        provenance=provenance,
    )


class _Maker:
    """Makes rows of one seed and one set of settings."""

    def __init__(
        self,
        seed: int,
        size: int,
        channels: int,
        classes: int,
        spectrum: float,
        signal: float,
        shift: int,
        balanced: bool,
    ) -> None:
        self.seed, self.size, self.channels, self.classes = seed, size, channels, classes
        self.signal, self.shift, self.balanced = signal, shift, balanced
        self.pixels = size * size * channels
        self.words = -(-self.pixels // 4) * 4 + 4  # one for each pixel, then label and step; 4 to a count
        k = np.sqrt(fft.fftfreq(size)[:, None] ** 2 + fft.rfftfreq(size)[None, :] ** 2)
        k[0, 0] = np.inf  # no constant part: every field has mean 0
        self.amplitude = k ** (-spectrum / 2) * (k < np.inf)
        # Columns of the half spectrum stand for two frequencies each, but for the first and an even last.
        twice = np.full(size // 2 + 1, 2.0)
        twice[0] = 1.0
        if size % 2 == 0:
            twice[-1] = 1.0
        self.amplitude *= size / np.sqrt((self.amplitude**2 * twice).sum())
        # M = a·1 + b·11ᵀ has M² = (1 − ρ)·1 + ρ·11ᵀ, the wanted correlation of channels.
        a = np.sqrt(1 - CHANNEL_CORRELATION)
        b = (np.sqrt(1 - CHANNEL_CORRELATION + CHANNEL_CORRELATION * channels) - a) / channels
        self.mix = a * np.eye(channels) + b
        fields = np.concatenate([self._fields(words) for _, words in self._random(TEMPLATES, classes)])
        axes = (1, 2, 3)
        fields -= fields.mean(axis=axes, keepdims=True)
        self.templates = fields / np.sqrt(np.square(fields).mean(axis=axes, keepdims=True))

    def rows(self, key: int, count: int, normalise: str, dtype: str) -> tuple[Floats, Integers]:
        """Images (count, size, size, channels) of dtype and labels (count,) of rows 0..count-1 of a key."""
        x: Floats = np.empty((count, self.size, self.size, self.channels), dtype=dtype)
        labels = np.empty(count, dtype=np.int64)
        pixel = np.arange(self.size)
        for start, words in self._random(key, count):
            block = slice(start, start + len(words))
            drawn = (words[:, self.pixels] % np.uint64(self.classes)).astype(np.int64)
            label = np.arange(block.start, block.stop) % self.classes if self.balanced else drawn
            step = (words[:, self.pixels + 1 : self.pixels + 3] % np.uint64(2 * self.shift + 1)).astype(
                np.int64
            )
            down, right = ((pixel - s[:, None] + self.shift) % self.size for s in step.T)
            template = self.templates[label[:, None, None], down[:, :, None], right[:, None, :]]
            image = np.sqrt(self.signal) * template + np.sqrt(1 - self.signal) * self._fields(words)
            levels = np.clip(np.rint(image * LEVELS_PER_STD), -128, 127) / LEVELS_PER_STD
            x[block] = scale(levels, np.arange(len(levels)), normalise, dtype)
            labels[block] = label
        return x, labels

    def _random(self, key: int, count: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """Raw words (rows, self.words) of rows 0..count-1, a block at a time with its first row."""
        for start in range(0, count, ROWS_AT_ONCE):
            rows = min(ROWS_AT_ONCE, count - start)
            philox = np.random.Philox(key=self.seed | key << 64, counter=start * (self.words // 4))
            yield start, philox.random_raw(rows * self.words).reshape(rows, self.words)

    def _fields(self, words: NDArray[np.uint64]) -> Floats:
        """Fields (rows, size, size, channels) of mean 0 and variance 1 from raw words."""
        # The sum of a word's four 16-bit parts is nearly Gaussian, and exact on every machine.
        parts = np.ascontiguousarray(words[:, : self.pixels]).view(np.uint16).reshape(len(words), -1, 4)
        white = np.add(parts[..., 0], parts[..., 1], dtype=np.float64)
        white += parts[..., 2]
        white += parts[..., 3]
        white -= 2.0 * (2**16 - 1)
        white /= np.sqrt((2.0**32 - 1) / 3)
        noise = white.reshape(len(words), self.channels, self.size, self.size)
        spectrum = fft.rfft2(noise) * self.amplitude
        smooth = fft.irfft2(spectrum, s=(self.size, self.size))
        fields: Floats = np.moveaxis(smooth, 1, -1) @ self.mix
        return fields
