"""Download of the MNIST idx files, checked against the published MD5 sums and kept in a cache."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import ModuleType

from pygan.errors import DataError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
# MD5 as published with the files' mirrors, SHA-256 of the same bytes.
SUMS = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
TIMEOUT_SECONDS = 20


def download_mnist(names: tuple[str, ...]) -> Path:
    """The cache folder, holding the named MNIST files; those not there yet are fetched.

    The folder is ``$PYGAN_CACHE/data`` or the user's cache folder. Every file is checked on every
    call, so a damaged one is fetched again; standard error says what is being fetched. Raises
    DataError, with each mirror's own failure, where a file cannot be had.
    """
    try:
        import pooch
    except ImportError:
        raise DataError(
            "downloading needs pooch, which is not installed (pip install 'pygan[data]')"
        ) from None
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    root = os.environ.get("PYGAN_CACHE") or pooch.os_cache("pygan")
    folder = Path(root) / "data"
    try:
        for name in names:
            if not (folder / name).exists():
                print(f"downloading MNIST's {name}", file=sys.stderr, flush=True)
            _retrieve(pooch, name, folder)
    finally:
        logger.setLevel(level)
    return folder


def _retrieve(pooch: ModuleType, name: str, folder: Path) -> None:
    failures: dict[str, list[str]] = {}
    for mirror in MIRRORS:
        try:
            pooch.retrieve(
                url=mirror + name,
                known_hash=SUMS[name],
                fname=name,
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS),
            )
            return
        # pooch lets exceptions of requests, urllib3 and ssl through; each means "not from here".
        except Exception as error:
            failures.setdefault(_short(error), []).append(mirror.split("/")[2])
    reasons = "; ".join(f"{', '.join(hosts)}: {reason}" for reason, hosts in failures.items())
    raise DataError(f"{name} could not be downloaded: {reasons}")


def _short(error: Exception) -> str:
    text = str(error)
    for sign, words in (
        ("resolve", "no such host (is this machine offline?)"),
        ("Read-only", "the cache folder cannot be written (PYGAN_CACHE names another)"),
        ("timed out", f"no answer in {TIMEOUT_SECONDS} s"),
        ("does not match", "another file than published (wrong checksum)"),
    ):
        if sign in text:
            return words
    return f"{type(error).__name__}: {text.splitlines()[0][:120] if text else ''}"
