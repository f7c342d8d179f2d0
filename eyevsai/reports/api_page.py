"""Page of an HTTP API: its routes, and a form that sends an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eyevsai.reports.page import NO_ORIGIN, POLICY, render_page

METHODS = ("get", "post", "put", "delete")


def render_api_page(openapi: Mapping[str, Any]) -> str:
    """Return the HTML page of an API; it loads nothing from other servers.

    Args:
        openapi: OpenAPI description.
    """
    return render_page(
        "api_page.html",
        openapi["info"]["title"],
        "HTTP API",
        NO_ORIGIN,
        policy=f"{POLICY}; connect-src 'self'",
        routes=list(_list_routes(openapi)),
    )


def _list_routes(openapi: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the values of each route for the template."""
    for path, item in openapi["paths"].items():
        for method in METHODS:
            if method not in item:
                continue
            operation = item[method]
            text = operation.get("description") or operation.get("summary", "")
            yield {
                "method": method.upper(),
                "path": path,
                "text": text.partition("\n")[0],
                "parameters": [
                    {
                        "name": each["name"],
                        "place": each["in"],
                        "text": each.get("description", ""),
                    }
                    for each in operation.get("parameters", ())
                ],
                "body": ", ".join(operation.get("requestBody", {}).get("content", ())),
                "statuses": [
                    (code, response.get("description", ""))
                    for code, response in operation.get("responses", {}).items()
                ],
            }
