"""Gram matrices with known spectra or of real images, for tests of solvers."""

from __future__ import annotations

from functools import cache

import numpy as np

import kernreg
from kernreg.architecture import Architecture


def laplace(n: int, seed: int = 0) -> np.ndarray:
    """exp(−|x − z|) of Gaussian points: positive definite, condition about n²."""
    x = np.random.default_rng(seed).standard_normal((n, 3))
    return np.asarray(np.exp(-np.sqrt(np.square(x[:, None] - x[None]).sum(-1))))


def with_eigenvalues(e: np.ndarray, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(e), len(e))))
    K = (Q * e) @ Q.T
    return np.asarray((K + K.T) / 2)


@cache
def digits_ntk(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, n) float64 NTK of a fully connected network on digits, and the targets (n, 10)."""
    digits = kernreg.load("digits", n=n, test=0, dtype="float64")
    K = kernreg.gram(digits.x_train, None, Architecture.fcn(depth=3), kernel="ntk", backend="cpu")
    return np.asarray(K), digits.y_train
