"""The studies of a folder, each in a journal of its own, as one storage."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from eyevsai.tuning.settings import JOURNAL
from eyevsai.tuning.study import StudyStorage

# ids of the first journal lie below it, those of the second between it and its double, and so on
STRIDE = 2**32


class JournalsStorage(BaseStorage):
    """All journals of a folder; those that come to be later, too.

    An id tells which journal it is of: what Optuna asks of a study or trial is asked of that one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journals: dict[Path, BaseStorage] = {}  # in the order in which they were seen

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the studies of all journals, including journals created since the last call."""
        for path in sorted(self.folder.glob(f"*{JOURNAL}")):
            if path not in self.journals:
                self.journals[path] = StudyStorage(None, path).open()
        found = []
        for number, journal in enumerate(list(self.journals.values())):
            for own in journal.get_all_studies():
                study = copy.copy(own)  # which must keep its id
                study._study_id += number * STRIDE
                found.append(study)
        return found

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the id of a study, by the number of its journal."""
        return next(
            each._study_id for each in self.get_all_studies() if each.study_name == study_name
        )

    def create_new_study(self, *_: Any, **__: Any) -> int:
        """Refuses: a study belongs to a model and a dataset, which only `eyevsai tune` knows."""
        raise StorageInternalError("Studies are begun with: eyevsai tune")

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of a study with ids that are unique over all journals."""
        journal, own = self._find(study_id)
        return [
            _shift(trial, study_id - own) for trial in journal.get_all_trials(own, deepcopy, states)
        ]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        journal, own = self._find(trial_id)
        return _shift(journal.get_trial(own), trial_id - own)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        journal, own = self._find(study_id)
        return journal.create_new_trial(own, template_trial) + study_id - own

    def delete_study(self, study_id: int) -> None:
        self._ask("delete_study", study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._ask("set_study_user_attr", study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._ask("set_study_system_attr", study_id, key, value)

    def get_study_name_from_id(self, study_id: int) -> str:
        return str(self._ask("get_study_name_from_id", study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return list(self._ask("get_study_directions", study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._ask("get_study_user_attrs", study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._ask("get_study_system_attrs", study_id))

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Write to the journal that has the trial."""
        self._ask("set_trial_param", trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Write to the journal that has the trial."""
        return bool(self._ask("set_trial_state_values", trial_id, state, values))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Write to the journal that has the trial."""
        self._ask("set_trial_intermediate_value", trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._ask("set_trial_user_attr", trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._ask("set_trial_system_attr", trial_id, key, value)

    def _ask(self, method: str, number: int, *arguments: Any) -> Any:
        journal, own = self._find(number)
        return getattr(journal, method)(own, *arguments)

    def _find(self, number: int) -> tuple[BaseStorage, int]:
        """The journal that an id is of, and what it is called there."""
        place, own = divmod(number, STRIDE)
        journals = list(self.journals.values())
        if not 0 <= place < len(journals):
            raise KeyError(number)
        return journals[place], own


def _shift(trial: FrozenTrial, by: int) -> FrozenTrial:
    trial = copy.copy(trial)
    trial._trial_id += by
    return trial
