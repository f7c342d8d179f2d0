"""Actions of a watcher: each returns an event, and can be repeated after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from eyevsai.retraining.record import Action, Event, Retraining
from eyevsai.workflows.watch import decide, gather, steps
from eyevsai.workflows.watch.context import WatchContext

Handler: TypeAlias = Callable[[WatchContext, Retraining], Event | None]

# None as result: the action waits, and the next call tries again
HANDLERS: Mapping[Action, Handler] = MappingProxyType(
    {
        Action.REQUEST_LABELS: gather.request_labels,
        Action.FREEZE: gather.freeze,
        Action.TUNE: steps.tune,
        Action.TRAIN: steps.train,
        Action.EVALUATE: steps.evaluate,
        Action.CHECK: decide.check,
        Action.START_ROLLOUT: decide.start_rollout,
        Action.FOLLOW_ROLLOUT: decide.follow_rollout,
        Action.FOLLOW_PERSON: decide.follow_person,
    }
)
