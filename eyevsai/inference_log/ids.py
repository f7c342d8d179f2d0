"""Ids of answers, which cannot be guessed, and hashes of the keys of clients.

An id has 48 hexadecimal digits: a UUID of version 7 (RFC 9562), which sorts by time, and a tag of
64 bits, its keyed hash (BLAKE2b, RFC 7693, which takes half the time of an HMAC). A server
recognises its own ids without a query of the database, so that labels for invented ids cost nothing
and are not stored.

A client may send the UUID of its request. The id is then made from the request: one that is sent
again, because its answer was lost, has one row in the log, whichever servers answer it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import threading
import time

ID_LENGTH = 48
MAX_AGE_S, MAX_AHEAD_S = 300.0, 5.0  # of the UUID of a request, by the clock of the server
_UUID_DIGITS = 32
_TAG_BYTES = 8
_KEY_BYTES = 16
_VARIANT = 0b10 << 62
_RANDOM_MASK = (1 << 62) - 1
_STEP_BITS = 12  # a fraction of a millisecond (RFC 9562, method 3)
_STEPS_PER_MS = 1 << _STEP_BITS
_STEP_MASK = _STEPS_PER_MS - 1
_UUID = re.compile(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}")


def new_request_id() -> str:
    """Return a UUID of version 7 for a request, 32 hexadecimal digits."""
    return _make_uuid(time.time_ns() * _STEPS_PER_MS // 1_000_000)


def _make_uuid(steps: int) -> str:
    """Return a random UUID of version 7 with a time in steps."""
    random = int.from_bytes(os.urandom(8)) & _RANDOM_MASK | _VARIANT
    return f"{steps >> _STEP_BITS:012x}7{steps & _STEP_MASK:03x}{random:016x}"


class Identities:
    """Source of ids and hashes that depend on a secret.

    Processes that write to one log need the same secret. Different purposes have keys of their own,
    derived from it.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._tag_key = self._derive("answer id")
        self._request_key = self._derive("request")
        self._model_keys: dict[str, bytes] = {}
        self._last = 0
        self._lock = threading.Lock()

    def new_id(self) -> str:
        """Return a new id. Later ids of this process are larger, even if the clock goes back."""
        steps = time.time_ns() * _STEPS_PER_MS // 1_000_000
        with self._lock:
            self._last = steps = max(steps, self._last + 1)
        uuid = _make_uuid(steps)
        return uuid + self._tag(uuid)

    def id_of_request(
        self, request_id: str, model: str, key: str | None, content: bytes
    ) -> str | None:
        """Return the id of the answer to a request, or None if its UUID is not of these minutes.

        Ids serve as an index of time: a client must not choose another one. The random part is a
        keyed hash of the whole request, so that a client cannot choose the id of another answer,
        and requests with one UUID for different images or models have different ids.

        Args:
            request_id: UUID of version 7 of the client.
            model: name of the model.
            key: key of the client; None without one.
            content: body of the request.
        """
        if not _UUID.fullmatch(request_id):
            return None
        age_s = time.time() - time_of(request_id)
        if not -MAX_AHEAD_S < age_s < MAX_AGE_S:
            return None
        request = json.dumps([request_id, model, key]).encode() + hashlib.sha256(content).digest()
        digest = hashlib.blake2b(request, key=self._request_key, digest_size=8).digest()
        number = int.from_bytes(digest) & _RANDOM_MASK | _VARIANT
        uuid = f"{request_id[:16]}{number:016x}"
        return uuid + self._tag(uuid)

    def is_valid(self, answer_id: object) -> bool:
        """Return True if an id was made with this secret. The comparison takes constant time."""
        if not isinstance(answer_id, str) or len(answer_id) != ID_LENGTH or not answer_id.isascii():
            return False
        uuid, tag = answer_id[:_UUID_DIGITS], answer_id[_UUID_DIGITS:]
        return hmac.compare_digest(self._tag(uuid), tag)

    def hash_key(self, model: str, key: str) -> str:
        """Return the hash of a client's key, 32 hexadecimal digits.

        The same key has different hashes for different models.
        """
        model_key = self._model_keys.get(model)
        if model_key is None:
            model_key = self._model_keys[model] = self._derive(f"client key of {model}")
        data = key.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, key=model_key, digest_size=_KEY_BYTES).hexdigest()

    def _derive(self, purpose: str) -> bytes:
        return hmac.digest(self._secret, purpose.encode(), "sha256")

    def _tag(self, uuid: str) -> str:
        data = uuid.encode()
        return hashlib.blake2b(data, key=self._tag_key, digest_size=_TAG_BYTES).hexdigest()


def time_of(answer_id: str) -> float:
    """Return the time at which an id was made, in Unix seconds."""
    return int(answer_id[:12], 16) / 1000


def first_id(at: float) -> str:
    """Return the smallest id of a time in Unix seconds, as a bound for comparisons."""
    return f"{max(int(at * 1000), 0):012x}"
