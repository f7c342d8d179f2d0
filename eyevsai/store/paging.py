"""Iteration over paged results of MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


PAGE_SIZE = 1000  # results per page of MLflow's search
IDS_PER_QUERY = 200  # ids in one filter or database query


def iter_pages(fetch_page: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield the items of all pages of a search.

    `fetch_page` returns the page of a token, None for the first page. Pages are fetched on demand.
    """
    token: str | None = None
    while True:
        page = fetch_page(token)
        yield from page
        token = page.token or None
        if token is None:
            return


def list_experiments(client: MlflowClient, *, deleted: bool = False) -> list[Experiment]:
    """Return all experiments of a store; with `deleted`, also the deleted ones."""
    from mlflow.entities import ViewType

    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    return list(iter_pages(lambda token: client.search_experiments(view, page_token=token)))
