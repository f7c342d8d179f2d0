"""Schema versions of a store: names of tags, metrics and parameters; detection of other versions.

Schema 1 was used by eyevsai before its first release: tags without the prefix `eyevsai.`, metrics
`best/...`, and other names of settings. Schema 2 is the current one. `schema_upgrade` converts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError
from eyevsai.store.paging import list_experiments
from eyevsai.store.run_dir import RUNS
from eyevsai.store.tags import SCHEMA, SCHEMA_VERSION
from eyevsai.store.uris import mask_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEMA_1 = "eyevsai"  # the tag that all runs of schema 1 have
VERSIONS_1 = "tags.fingerprint LIKE '%' and tags.registered_by LIKE '%'"  # versions of schema 1
RUN_FILES = {
    "basis.json": "fingerprint.json",
    "asked.json": "requested_config.json",
    "spool.jsonl": "write_queue.jsonl",
    "spool.done": "write_queue.done",
}
_checked: set[str] = set()  # URIs of stores with the current schema


def check_schema(client: MlflowClient) -> None:
    """Raise UserError if the store has runs or model versions of another schema.

    A store that passes is not checked again by this process.
    """
    uri = client.tracking_uri
    if uri in _checked:
        return
    experiments = [each.experiment_id for each in list_experiments(client)]
    if client.search_runs(
        experiments, f"tags.{SCHEMA_1} = '1'", max_results=1
    ) or client.search_model_versions(VERSIONS_1, max_results=1):
        raise UserError(
            f"The store {mask_password(uri)} was written by eyevsai before its first release, with "
            "other names of tags and metrics. Upgrade it with: eyevsai doctor --upgrade"
        )
    other = f"tags.`{SCHEMA}` != '{SCHEMA_VERSION}'"
    if runs := client.search_runs(experiments, other, max_results=1):
        raise UserError(
            f"The store {mask_password(uri)} has schema {runs[0].data.tags[SCHEMA]}, and this "
            f"eyevsai uses schema {SCHEMA_VERSION}. Upgrade eyevsai, or use another store."
        )
    _checked.add(uri)


def check_run_dirs(state_dir: Path) -> None:
    """Raise UserError if the state directory has run directories of schema 1.

    The store may be upgraded already, by another machine.
    """
    for name in RUN_FILES:
        if path := next((state_dir / RUNS).glob(f"*/{name}"), None):
            raise UserError(
                f"{path.parent} was written by eyevsai before its first release. Upgrade the run "
                "directories of this machine with: eyevsai doctor --upgrade"
            )
