"""cuBLAS and cuSOLVER for tests, on the memory of NumPy arrays: what their documentation says of column-major matrices.

Nothing is checked against kernreg's own reading of it: matrices are made of addresses and leading dimensions, triangles that a
routine must not read are dropped before it computes, and those that it must not write stay as they were.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from kernreg.cublas import Cublas
from kernreg.cuda import Cuda

HANDLES = (11, 12)  # of cuBLAS and cuSOLVER
LOWER, UPPER = 0, 1
calls: Counter[str] = Counter()


def matrix(address: int, rows: int, columns: int, leading: int, real: Any) -> np.ndarray:
    """The memory at an address as a column-major matrix."""
    assert leading >= max(rows, 1)
    size = leading * (columns - 1) + rows
    kind = ctypes.c_float if real is np.float32 else ctypes.c_double
    flat = np.ctypeslib.as_array((kind * size).from_address(address))
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (flat.itemsize, leading * flat.itemsize))


def triangle(A: np.ndarray, uplo: int) -> np.ndarray:
    return np.triu(A) if uplo == UPPER else np.tril(A)


def scalar(address: int, real: Any) -> float:
    return float(matrix(address, 1, 1, 1, real)[0, 0])


def blas(real: Any) -> dict[str, Any]:
    def trsm(
        handle: int, side: int, uplo: int, trans: int, diag: int, m: int, n: int,
        alpha: int, a: int, lda: int, b: int, ldb: int,
    ) -> None:  # fmt: skip
        assert handle == HANDLES[0]
        assert diag == 0
        calls["trsm"] += 1
        order = m if side == 0 else n
        A, B = triangle(matrix(a, order, order, lda, real), uplo), matrix(b, m, n, ldb, real)
        A = A.T if trans else A
        lower = (uplo == LOWER) != bool(trans)
        if side == 0:
            B[...] = scalar(alpha, real) * solve_triangular(A, B, lower=lower)
        else:
            B[...] = scalar(alpha, real) * solve_triangular(A.T, B.T, lower=not lower).T

    def syrk(
        handle: int,
        uplo: int,
        trans: int,
        n: int,
        k: int,
        alpha: int,
        a: int,
        lda: int,
        beta: int,
        c: int,
        ldc: int,
    ) -> None:
        assert handle == HANDLES[0]
        calls["syrk"] += 1
        A, C = matrix(a, *((k, n) if trans else (n, k)), lda, real), matrix(c, n, n, ldc, real)
        product = A.T @ A if trans else A @ A.T
        updated = scalar(alpha, real) * product + scalar(beta, real) * C
        C[...] = np.where(triangle(np.ones_like(C), uplo) > 0, updated, C)

    def gemm(
        handle: int, transa: int, transb: int, m: int, n: int, k: int,
        alpha: int, a: int, lda: int, b: int, ldb: int, beta: int, c: int, ldc: int,
    ) -> None:  # fmt: skip
        assert handle == HANDLES[0]
        calls["gemm"] += 1
        A, B = (
            matrix(a, *((k, m) if transa else (m, k)), lda, real),
            matrix(b, *((n, k) if transb else (k, n)), ldb, real),
        )
        C = matrix(c, m, n, ldc, real)
        product = (A.T if transa else A) @ (B.T if transb else B)
        C[...] = scalar(alpha, real) * product + scalar(beta, real) * C

    return {"trsm": trsm, "syrk": syrk, "gemm": gemm}


def solver(real: Any) -> dict[str, Any]:
    def buffer_size(handle: int, uplo: int, n: int, a: int, lda: int) -> int:
        assert handle == HANDLES[1]
        return 7

    def potrf(handle: int, uplo: int, n: int, a: int, lda: int, work: int, lwork: int, info: int) -> None:
        assert handle == HANDLES[1]
        assert lwork == 7
        calls["potrf"] += 1
        matrix(work, 7, 1, 7, real)[...] = np.nan
        A, status = matrix(a, n, n, lda, real), 0
        full = triangle(A, uplo)
        full = full + full.T - np.diag(full.diagonal())
        for k in range(1, n + 1):
            try:
                np.linalg.cholesky(full[:k, :k])
            except np.linalg.LinAlgError:
                status = k
                break
        ctypes.c_int.from_address(info).value = status
        if not status:
            L = np.linalg.cholesky(full)
            A[...] = np.where(triangle(np.ones_like(A), uplo) > 0, L if uplo == LOWER else L.T, A)

    return {"potrf": potrf, "potrf_bufferSize": buffer_size}


def cuda() -> Cuda:
    """`Cuda` on NumPy arrays."""
    letters = {"s": np.float32, "d": np.float64}
    libraries = [
        SimpleNamespace(**{l + name: f for l, real in letters.items() for name, f in of(real).items()})
        for of in (blas, solver)
    ]
    routines = Cublas(np, libraries[0], libraries[1], HANDLES, lambda array: int(array.ctypes.data))
    return Cuda(np, routines)
