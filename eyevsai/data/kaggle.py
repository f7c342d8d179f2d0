"""Where Kaggle keeps a dataset, asked by kagglehub, which knows the API and a person's credentials.

The file itself is downloaded and unpacked here: kagglehub unpacks whatever size an archive has, and
leaves a second copy of everything in its own cache.
"""

from __future__ import annotations

import base64
import binascii
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.extras import missing_extra
from eyevsai.data.download import DownloadUrl

DENIED = (401, 403)


def check_kagglehub(name: str) -> None:
    """Raises UserError when kagglehub is not installed."""
    if find_spec("kagglehub") is None:
        raise missing_extra(f"{name}, which comes from Kaggle,", "data")


def locate_dataset(handle: str) -> DownloadUrl:
    """The URL of the newest version of `owner/name`, and its MD5 where Kaggle says it.

    Raises:
        UserError: credentials that cannot be read.
        JobError: Kaggle wants credentials.
        requests.RequestException: no answer.
    """
    import requests

    with redirect_stdout(sys.stderr):  # it prints what is new in itself
        from kagglehub.clients import build_kaggle_client
        from kagglehub.integrity import get_md5_checksum_from_response
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = handle.split("/")
        try:
            client = build_kaggle_client()
        except ValueError as error:
            raise UserError(f"Kaggle's credentials cannot be read: {error}.") from error
        try:
            with client, client.datasets.dataset_api_client.download_dataset(request) as response:
                return DownloadUrl(response.url, _hex(get_md5_checksum_from_response(response)))
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code not in DENIED:
                raise
            raise JobError(
                f"Kaggle answers {error.response.status_code}: it wants to know who you are. "
                "Make a token at https://www.kaggle.com/settings and set KAGGLE_API_TOKEN."
            ) from error


def _hex(checksum: str | None) -> str | None:
    try:
        return base64.b64decode(checksum, validate=True).hex() if checksum else None
    except binascii.Error:
        return None
