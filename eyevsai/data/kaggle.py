"""Download URLs of Kaggle datasets, from kagglehub, which implements the API and authentication.

The archive itself is downloaded and unpacked by eyevsai: kagglehub unpacks archives of any size,
and keeps a second copy of all files in its own cache.
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

DENIED = (401, 403)  # HTTP status


def check_kagglehub(name: str) -> None:
    """Raise UserError if kagglehub, required for the dataset `name`, is not installed."""
    if find_spec("kagglehub") is None:
        raise missing_extra(f"{name}, which comes from Kaggle,", "data")


def locate_dataset(handle: str) -> DownloadUrl:
    """Return the URL of the newest version of `owner/name`, with its MD5 if Kaggle provides it.

    Raises:
        UserError: the local credentials cannot be read.
        JobError: Kaggle requires credentials.
        requests.RequestException: the request failed.
    """
    import requests

    with redirect_stdout(sys.stderr):  # kagglehub prints news about itself
        from kagglehub.clients import build_kaggle_client
        from kagglehub.integrity import get_md5_checksum_from_response
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = handle.split("/")
        try:
            client = build_kaggle_client()
        except ValueError as error:
            raise UserError(f"Cannot read the Kaggle credentials: {error}.") from error
        try:
            with client, client.datasets.dataset_api_client.download_dataset(request) as response:
                return DownloadUrl(response.url, _hex(get_md5_checksum_from_response(response)))
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code not in DENIED:
                raise
            raise JobError(
                f"Kaggle requires credentials (HTTP {error.response.status_code}). "
                "Create a token at https://www.kaggle.com/settings and set KAGGLE_API_TOKEN."
            ) from error


def _hex(checksum: str | None) -> str | None:
    """Return a Base64 checksum in hexadecimal; None if it is missing or invalid."""
    try:
        return base64.b64decode(checksum, validate=True).hex() if checksum else None
    except binascii.Error:
        return None
