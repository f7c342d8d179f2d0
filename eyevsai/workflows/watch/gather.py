"""Actions that gather data: a labelling request, and frozen data. Both can be repeated."""

from __future__ import annotations

import logging

from eyevsai.retraining.record import Event, Frozen, Requested, Retraining
from eyevsai.retraining.settings import policy_digest, retraining_key
from eyevsai.workflows.watch.context import WatchContext
from eyevsai.workflows.watch.freeze import freeze_data
from eyevsai.workflows.watch.requests import request_labels as write_request

log = logging.getLogger("eyevsai")


def request_labels(context: WatchContext, record: Retraining) -> Event:
    """Select answers to label, and write them for labelling tools."""
    folder = context.folder / f"request-{record.sequence:06d}"
    request = write_request(
        context.store, context.model, context.policy.rules.suggest, folder, context.settings
    )
    context.run.log_json(f"{folder.name}.json", request.to_json())
    log.warning(
        "Labels are needed: %d answers to label are in %s. Then: eyevsai feedback add %s FILE",
        request.count,
        folder,
        context.model,
    )
    return Requested(request.count)


def freeze(context: WatchContext, record: Retraining) -> Event:
    """Freeze the data of the version in Production with the labelled images."""
    base, rules = context.base(record), context.policy.rules
    labelled = context.labelled()
    shares = rules.recent_fraction, float(base.config.get("valid_fraction", 0.15))
    frozen = freeze_data(base, labelled.images, shares, context.folder)
    counts = dict(frozen.counts) | labelled.unused
    context.run.log_json(f"data/{frozen.folder.name}.json", {"counts": counts})
    used = sum(frozen.counts.get(name, 0) for name in ("train", "valid"))
    key = retraining_key(context.model, frozen.digest, policy_digest(rules, context.policy.train))
    return Frozen(frozen.digest, key if used else "", labelled.newest)
