"""Downloads that are checked, retried, shown, and never left half done under their final name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pooch
import requests

from utils.atomic import whole_file
from utils.errors import UserError

ATTEMPTS = 2  # per address: a server that fails twice in a row is left for the next one
TIMEOUT = 20.0  # seconds without a byte before an attempt is given up


def download(
    urls: Sequence[str], path: Path, check: Callable[[Path], object], by_hand: str
) -> Path:
    """Fetches `path` from the first address that delivers a file which passes `check`.

    Args:
        urls: the addresses, in the order in which they are tried.
        path: the final name. The file gets it only after `check` has passed.
        check: raises `UserError` if the file at the path it is given is not the right one.
        by_hand: what the user then names, and by which flag, if there is no network here.

    Returns:
        `path`.

    Raises:
        UserError: no address delivered; names each with its reason.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    reasons: dict[str, str] = {}
    with whole_file(path) as partial:
        for url in (url for url in urls for _ in range(ATTEMPTS)):
            try:
                print(f"downloading {url}", flush=True)
                partial.unlink(missing_ok=True)
                pooch.retrieve(
                    url,
                    known_hash=None,
                    fname=partial.name,
                    path=partial.parent,
                    downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT),
                )
                check(partial)
                return path
            except (requests.RequestException, ValueError, UserError) as error:
                reason = str(error).replace(str(partial), "the download")
                reached = not isinstance(error, requests.ConnectionError)
                reasons[url] = reason if reached else f"not reached: {type(error).__name__}"
        tried = "; ".join(f"{url} ({reason})" for url, reason in reasons.items())
        raise UserError(
            f"{path.name}: could not be downloaded; fetch it on a machine with network and name "
            f"{by_hand}; small digits without a download: python create_mnistm.py --embedded; "
            f"tried: {tried}"
        )
