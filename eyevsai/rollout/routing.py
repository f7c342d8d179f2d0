"""Assignment of keys to the production version or the candidate of a rollout."""

from __future__ import annotations

import hashlib
import hmac

from eyevsai.registry.rollout_tag import FULL_SHARE

PRODUCTION, CANDIDATE, SHADOW = "production", "candidate", "shadow"  # arms of an answer


def bucket_of(secret: bytes, salt: str, key: str) -> int:
    """Return the bucket of a key, from 0 to 9,999, uniform over keys.

    Without the secret, nobody can choose a key that the candidate answers. With a salt for each
    rollout, the buckets of two rollouts are independent: users of one candidate are not those of
    the next.

    Args:
        secret: secret of the servers, the same on all of them.
        salt: salt of the rollout.
        key: key of the client, or the id of the request.
    """
    digest = hmac.digest(secret, f"{salt}\0{key}".encode(), hashlib.sha256)
    return int.from_bytes(digest[:8], "big") % FULL_SHARE


def arm_of(secret: bytes, salt: str, key: str, share: int) -> str:
    """Return `CANDIDATE` for a share of the keys, else `PRODUCTION`.

    A larger share only adds keys: those of the candidate stay with it.

    Args:
        secret: secret of the servers.
        salt: salt of the rollout.
        key: key of the client, or the id of the request.
        share: share of the candidate, of 10,000.
    """
    return CANDIDATE if bucket_of(secret, salt, key) < share else PRODUCTION
