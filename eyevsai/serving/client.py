"""Client of `eyevsai serve` for Python programs."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eyevsai.core.errors import JobError, UserError, read_error
from eyevsai.core.paths import expand, is_file, path_error
from eyevsai.inference_log.ids import new_request_id

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import requests

    ClientImage = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8]

TOKEN_VARIABLE = "EYEVSAI_TOKEN"
BACKOFF_S = 0.1  # pause before the third attempt is twice this; it doubles with each further one
RETRIED = (429, 502, 503)  # the server refused before it predicted, or ended
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # characters that no header can contain
SOURCE = re.compile(r"(person|rule|import)(:[^\s:][^:\r\n]{0,99})?")


@dataclass(frozen=True)
class ServedPrediction:
    """Prediction of a server.

    Attributes:
        label: most probable class, or `unsure` below the threshold of the version.
        probability: probability of the most probable class.
        probabilities: the most probable classes in descending order, as many as the server sent.
        id: id of the answer, for feedback.
        version: number of the version that answered.
        arm: `production`, or `candidate` in a rollout.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    id: str
    version: int
    arm: str
    _client: Client = field(repr=False, compare=False)

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes and their probabilities, in descending order."""
        return list(self.probabilities.items())[:count]

    def feedback(self, label: str, *, source: str = "person") -> None:
        """Send the true class of the image.

        Args:
            label: one of the model's classes.
            source: `person`, `rule` or `import`, with a name after a colon if there are several:
                `person:ann`.

        Raises:
            UserError: the server refused the label, or the source has another form.
            JobError: the server is unreachable.
        """
        self._client.send_feedback(self.id, label, source=source)


class Client:
    """Client of a server, for several threads. It keeps connections open; close it, or use `with`.

        with eyevsai.Client("http://127.0.0.1:5080") as client:
            client.predict("seven.png").label

    Requests that the server refuses because it is busy (503, 429), that find no server, lose the
    connection, or get 500 or 502 from a proxy whose server ended, are sent again with increasing
    pauses. A prediction may then be computed twice; it is logged once, and the caller gets one.

    Args:
        url: URL of the server, without a path.
        token: token with the scope predict, and feedback to send labels; by default that of the
            environment variable EYEVSAI_TOKEN.
        timeout_s: seconds to wait for a connection, and for each part of a response.
        retries: number of further attempts.
        ca_file: PEM file with the certificate of the server or of its authority; by default the
            authorities of `requests`.

    Raises:
        UserError: the URL is not valid, or a token would be sent unencrypted to another machine.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: int = 6,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.url = _check_url(url)
        token = (token or os.environ.get(TOKEN_VARIABLE, "")).strip() or None
        if token is not None and not TOKEN.fullmatch(token):
            raise UserError(
                f"The token has characters that no token has. Check the argument token, or "
                f"{TOKEN_VARIABLE}."
            )
        if token is not None and urlsplit(self.url).scheme == "http":
            _check_local(self.url)
        self._timeout_s = timeout_s
        # given with each request: an attribute of the session would lose to REQUESTS_CA_BUNDLE
        self._verify = None if ca_file is None else str(expand(os.fspath(ca_file)))
        self._retries = retries
        self._session = _open_session(token, retries)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def predict(
        self, image: ClientImage, *, key: str | None = None, top_k: int | None = None
    ) -> ServedPrediction:
        """Return the prediction for one image.

        Args:
            image: path of an image file, its content, or an array H,W,3 uint8 RGB.
            key: text that identifies the user or device: requests with the same key are answered by
                the same version during a rollout. The server stores only a hash of it.
            top_k: number of classes in `probabilities`; that of the server by default.

        Raises:
            UserError: the image cannot be read, or the server refused the request.
            JobError: the server is unreachable, busy or failed.
        """
        headers: dict[str, str | bytes] = {
            "Content-Type": "application/octet-stream",
            "Eyevsai-Request": new_request_id(),
        }
        if key is not None:
            headers["Eyevsai-Key"] = _encode_key(key)
        answer = self._post(
            "/v1/predict",
            data=_read_content(image),
            headers=headers,
            params=None if top_k is None else {"top_k": top_k},
        )
        return ServedPrediction(
            label=answer["label"],
            probability=answer["probability"],
            probabilities=answer["probabilities"],
            id=answer["id"],
            version=answer["version"],
            arm=answer["arm"],
            _client=self,
        )

    def send_feedback(self, answer_id: str, label: str, *, source: str = "person") -> None:
        """Send the true class of the image of an earlier answer.

        Args:
            answer_id: id of the answer.
            label: one of the model's classes.
            source: as in `ServedPrediction.feedback`.

        Raises:
            UserError: the server refused the label, or the source has another form.
            JobError: the server is unreachable.
        """
        if not SOURCE.fullmatch(source):
            raise UserError(
                f"The source {source!r} is not valid. Use person, rule or import, with a name "
                "after a colon if there are several, such as person:ann."
            )
        self._post("/v1/feedback", json={"id": answer_id, "label": label, "source": source})

    def _post(self, path: str, **options: Any) -> dict[str, Any]:
        for attempt in range(self._retries + 1):
            response, content = self._send(path, options)
            if not _is_of_proxy(response) or attempt == self._retries:
                break
            time.sleep(BACKOFF_S * 2**attempt)
        if response.ok and not response.is_redirect:
            try:
                return dict(response.json())
            except (ValueError, TypeError):
                raise JobError(
                    f"The response of {self.url} is not that of eyevsai serve. Check the URL."
                ) from None
        raise _refusal(self.url, response.status_code, content)

    def _send(self, path: str, options: Mapping[str, Any]) -> tuple[requests.Response, bytes]:
        """Send a request, and again what `_open_session` lists."""
        with self._explain_errors():
            response = self._session.post(
                f"{self.url}{path}",
                timeout=self._timeout_s,
                verify=self._verify,
                allow_redirects=False,  # a redirect would send the image and the token elsewhere
                **options,
            )
            return response, response.content

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        import requests

        try:
            yield
        except requests.exceptions.SSLError as error:
            raise JobError(
                f"The certificate of {self.url} is not trusted: {error}. Set ca_file to the "
                "certificate of its authority."
            ) from error
        except requests.exceptions.RequestException as error:
            raise JobError(
                f"{self.url} is unreachable: {error}. Start it with eyevsai serve, or check the "
                "URL."
            ) from error


def _open_session(token: str | None, retries: int) -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    policy = Retry(
        total=retries,
        backoff_factor=BACKOFF_S,
        status_forcelist=RETRIED,
        allowed_methods=None,  # POST, too: a prediction changes nothing, and labels are idempotent
        raise_on_status=False,
        respect_retry_after_header=True,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=policy, pool_maxsize=64))
    session.auth = _Bearer(token)
    return session


def _is_of_proxy(response: requests.Response) -> bool:
    """Return True for an error 500 of a proxy, whose server ended before it answered.

    The server itself explains each error in JSON; its 500 means that the model failed.
    """
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    return response.status_code == 500 and not is_json


class _Bearer:
    """Authorization of requests. Without one, `requests` would use logins of the file .netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _encode_key(key: str) -> bytes:
    """Return a key as the value of a header.

    Raises:
        UserError: it has control characters.
    """
    if CONTROL.search(key) or key != key.strip():
        raise UserError(f"The key {key!r} has control characters, or a space at an end.")
    return key.encode()


def _check_url(url: str) -> str:
    """Return a URL without a slash at its end.

    Raises:
        UserError: it is no URL of a server, or contains a login.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"The URL {url!r} is not valid. Use http://HOST:PORT or https://HOST.")
    if parts.username is not None or parts.query:
        raise UserError("The URL contains a login or a query. Use the argument token instead.")
    return url.rstrip("/")


def _check_local(url: str) -> None:
    """Raise UserError if a URL is on another machine, to which a token would go unencrypted."""
    from eyevsai.serving.http.access import is_loopback

    if not is_loopback(str(urlsplit(url).hostname)):
        raise UserError(f"The token would be sent unencrypted to {url}. Use https://.")


def _read_content(image: ClientImage) -> bytes:
    """Return the content of an image file.

    Raises:
        UserError: the file cannot be read, or an array is not H,W,3 uint8.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if not is_file(path):
            raise path_error(path) or UserError(f"There is no image file {path}.")
        try:
            return path.read_bytes()
        except OSError as error:
            raise read_error(path, error, "Check its permissions.") from error
    from PIL import Image

    from eyevsai.serving.images import decode_image

    buffer = io.BytesIO()
    Image.fromarray(decode_image(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _refusal(url: str, status: int, content: bytes) -> UserError:
    """Return the error for a response; one that the caller cannot fix is a JobError."""
    import json

    try:
        reason = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        reason = "The response is not that of eyevsai serve."
    cls = UserError if 400 <= status < 500 and status != 429 else JobError
    return cls(f"{url} refused the request with status {status}: {reason}")
