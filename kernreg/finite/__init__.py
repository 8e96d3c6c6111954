"""Finite networks beside their kernels; needs PyTorch, the extra `kernreg[torch]`, which nothing else imports here.

networks → ensemble → training → curves;   resnet: networks that no kernel belongs to
"""

from __future__ import annotations

from kernreg.errors import KernregError

try:
    import torch
except (ImportError, OSError) as error:
    reason = str(error).splitlines()[0]
    raise KernregError(
        f"finite networks need PyTorch, which cannot be loaded ({reason}): pip install 'kernreg[torch]'"
    ) from error

__all__ = ["torch"]
