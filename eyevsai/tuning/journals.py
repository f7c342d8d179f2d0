"""Combined Optuna storage of a folder in which each study has its own journal."""

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
from eyevsai.tuning.storage import StudyStorage

# Offset between the ids of consecutive journals: journal n has the ids from n * STRIDE.
STRIDE = 2**32


class JournalsStorage(BaseStorage):
    """Storage that combines all journals of a folder, including those created later.

    The id of a study or trial contains the number of its journal, to which each call is forwarded.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journals: dict[Path, BaseStorage] = {}  # in the order of discovery, which numbers them

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the studies of all journals, including journals created since the last call."""
        for path in sorted(self.folder.glob(f"*{JOURNAL}")):
            if path not in self.journals:
                self.journals[path] = StudyStorage(None, path).open()
        studies = []
        for number, journal in enumerate(list(self.journals.values())):
            for original in journal.get_all_studies():
                study = copy.copy(original)  # the journal's object must keep its id
                study._study_id += number * STRIDE
                studies.append(study)
        return studies

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the id of the first study of this name."""
        return next(
            each._study_id for each in self.get_all_studies() if each.study_name == study_name
        )

    def create_new_study(self, *_: Any, **__: Any) -> int:
        """Raise StorageInternalError: a study needs a model and a dataset, which Optuna lacks."""
        raise StorageInternalError("The dashboard cannot create studies. Use eyevsai tune.")

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of a study with ids that are unique over all journals."""
        journal, local_id = self._find(study_id)
        trials = journal.get_all_trials(local_id, deepcopy, states)
        return [_shift_id(trial, study_id - local_id) for trial in trials]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        journal, local_id = self._find(trial_id)
        return _shift_id(journal.get_trial(local_id), trial_id - local_id)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        journal, local_id = self._find(study_id)
        return journal.create_new_trial(local_id, template_trial) + study_id - local_id

    def delete_study(self, study_id: int) -> None:
        self._forward("delete_study", study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._forward("set_study_user_attr", study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._forward("set_study_system_attr", study_id, key, value)

    def get_study_name_from_id(self, study_id: int) -> str:
        return str(self._forward("get_study_name_from_id", study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return list(self._forward("get_study_directions", study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._forward("get_study_user_attrs", study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._forward("get_study_system_attrs", study_id))

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self._forward("set_trial_param", trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        return bool(self._forward("set_trial_state_values", trial_id, state, values))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._forward("set_trial_intermediate_value", trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._forward("set_trial_user_attr", trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._forward("set_trial_system_attr", trial_id, key, value)

    def _forward(self, method: str, global_id: int, *arguments: Any) -> Any:
        """Call a method of the journal of a study or trial with the id in that journal."""
        journal, local_id = self._find(global_id)
        return getattr(journal, method)(local_id, *arguments)

    def _find(self, global_id: int) -> tuple[BaseStorage, int]:
        """Return the journal of a study or trial, and its id there; raise KeyError without one."""
        number, local_id = divmod(global_id, STRIDE)
        journals = list(self.journals.values())
        if not 0 <= number < len(journals):
            raise KeyError(global_id)
        return journals[number], local_id


def _shift_id(trial: FrozenTrial, offset: int) -> FrozenTrial:
    """Return a copy of the trial with `offset` added to its id."""
    trial = copy.copy(trial)
    trial._trial_id += offset
    return trial
