"""Settings of jobs on a trained model, and of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.call_settings import Experiment
from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import VERSION_FORMS, ModelRef, parse_model, run_ref
from eyevsai.core.settings import (
    STATE_DIR,
    Doc,
    Env,
    Parameter,
    Range,
    Settings,
    StateDir,
    require_option,
)


@dataclass(frozen=True)
class SourceModelSettings(Settings):
    """Settings that select a trained model, and the folders of its data."""

    PANEL: ClassVar[str] = "Model"

    run: Annotated[str | None, Parameter(), Doc("Id of the run that trained the model.")] = None
    model_uri: Annotated[
        str | None,
        Parameter(),
        Doc(f"Same as MODEL: {VERSION_FORMS}, with or without models:/, or a run id."),
    ] = None
    data_dir: Annotated[
        str | None,
        Env("EYEVSAI_DATA"),
        Doc("Folder with a subfolder for each dataset; by default that of the run."),
    ] = None
    cache_dir: Annotated[
        str | None,
        Env("EYEVSAI_CACHE"),
        Doc("Folder for decoded pixels and features; by default that of the run."),
    ] = None
    state_dir: StateDir = STATE_DIR
    experiment: Experiment = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_source()

    @property
    def source(self) -> ModelRef:
        """Reference to the model."""
        return parse_model(str(self.model_uri)) if self.run is None else run_ref(self.run)

    def check_source(self) -> None:
        """Raise UserError unless `run` or `model_uri` is set; both must name the same run."""
        reference = None if self.model_uri is None else parse_model(self.model_uri)
        if reference and self.run is not None and not reference.has_same_target(run_ref(self.run)):
            raise UserError(
                f"--run {self.run} and --model-uri {self.model_uri} contradict each other. Omit "
                "one of them."
            )
        if self.run is None and self.model_uri is None:
            raise UserError(
                f"A model is required. Use {VERSION_FORMS}, or a run id; `eyevsai registry status` "
                "lists the versions."
            )


@dataclass(frozen=True)
class EvaluateSettings(SourceModelSettings):
    """Settings of the evaluation of a trained model."""

    PANEL: ClassVar[str] = "Evaluation"

    data: Annotated[
        str | None,
        Parameter(),
        Doc(
            "Evaluation images: a folder of class folders; by default the test split of the "
            "model's own data."
        ),
    ] = None
    class_map: Annotated[
        str | None,
        Doc(
            'TOML file that maps class names of --data to those of the model: "name in --data" = '
            '"name in the model", or "" to leave a class out.'
        ),
    ] = None
    target_precision: Annotated[
        float | None,
        Range(0.0, 1.0),
        Doc(
            "Find the lowest confidence threshold with this share of correct predictions on the "
            "valid split, and store it with the model version."
        ),
    ] = None
    corruption_images: Annotated[
        int,
        Range(0, 1_000_000),
        Doc("Randomly drawn images to evaluate again blurred, noisy, ...; 0 for none."),
    ] = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option(self, "class_map", "data")
        if self.target_precision is not None and self.data is not None:
            raise UserError(
                "--target-precision uses the valid split of the model's own data. Remove --data."
            )
