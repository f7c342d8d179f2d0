"""What a person may say about a trained model that is looked at again, and about a judgement of
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import STATE_DIR, Doc, Env, Parameter, Range, Settings


@dataclass(frozen=True)
class SourceModelSettings(Settings):
    """Which trained model, and where what it learned from lies now."""

    PANEL: ClassVar[str] = "Model"

    run: Annotated[str | None, Parameter(), Doc("Id of the run that trained the model.")] = None
    model_uri: Annotated[
        str | None,
        Parameter(),
        Doc(
            "Or a registered one: models:/NAME/VERSION, models:/NAME/Production or "
            "models:/NAME@ALIAS."
        ),
    ] = None
    data_dir: Annotated[
        str | None,
        Env("EYEVSAI_DATA"),
        Doc("Folder in which each folder is a dataset; that of the run by default."),
    ] = None
    cache_dir: Annotated[
        str | None,
        Env("EYEVSAI_CACHE"),
        Doc("Folder for decoded pixels and features; that of the run by default."),
    ] = None
    state_dir: Annotated[
        str, Env("EYEVSAI_STATE"), Doc("Folder for what the store could not be told yet.")
    ] = STATE_DIR

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_source()

    def check_source(self) -> None:
        """Raises UserError unless one model is named."""
        if (self.run is None) == (self.model_uri is None):
            raise UserError(
                "Say which model: --run RUN_ID, or --model-uri models:/NAME/VERSION. One of them."
            )


@dataclass(frozen=True)
class EvaluateSettings(SourceModelSettings):
    """By which images a model is judged, and what is asked of it."""

    PANEL: ClassVar[str] = "Evaluation"

    data: Annotated[
        str | None,
        Parameter(),
        Doc(
            "Folder of class folders to judge by; the test split of the model's own data "
            "by default."
        ),
    ] = None
    class_map: Annotated[
        str | None,
        Doc(
            'TOML file for --data whose classes have other names: "their name" = "the '
            'model\'s", or "" to '
            "leave a class out."
        ),
    ] = None
    target_precision: Annotated[
        float | None,
        Range(0.0, 1.0),
        Doc(
            "Find the confidence above which this share of the valid images is right, and keep "
            "it with the version."
        ),
    ] = None
    corruption_images: Annotated[
        int,
        Range(0, 1_000_000),
        Doc("Images, drawn by seed, that are judged again blurred, noisy, ...; 0: none."),
    ] = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_map is not None and self.data is None:
            raise UserError(
                "--class-map says how the classes of --data are called: give --data too, or leave "
                "--class-map out."
            )
        if self.target_precision is not None and self.data is not None:
            raise UserError(
                "--target-precision looks at the valid split of the model's own data: leave "
                "--data out."
            )
