"""Gives somebody a login to the team's server, and says its first password once.

    python deploy/member.py ada            a new login
    python deploy/member.py ada --renew    a new password for a login that is there

Asks the server as an admin: MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD, or on the server itself the settings that it was started with. Needs the
extra `server`.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient

ROLE, WORKSPACE = "member", "default"
GRANTS = {  # on all of them: the runs and models of a team are no one member's
    "experiment": "EDIT",
    "run": "MANAGE",  # eyevsai deletes the empty run that `mlflow run` makes for a resume
    "registered_model": "MANAGE",  # MLflow takes the removal of an alias for a deletion
    "registered_model_version": "EDIT",  # so that only an admin deletes models and versions
}


def add_login(client: AuthServiceClient, name: str) -> str:
    """Makes a login that may log runs and register versions, and returns its password."""
    password = secrets.token_urlsafe(18)
    client.create_user(name, password)
    client.assign_role(name, find_role(client))
    return password


def renew_login(client: AuthServiceClient, name: str) -> str:
    """Gives a login a new password and returns it."""
    password = secrets.token_urlsafe(18)
    own = name == os.environ["MLFLOW_TRACKING_USERNAME"]  # then MLflow asks for the old one too
    client.update_user_password(
        name, password, os.environ["MLFLOW_TRACKING_PASSWORD"] if own else None
    )
    return password


def find_role(client: AuthServiceClient) -> int:
    """Id of the role that all members have, which is made when there is none."""
    role = next((role for role in client.list_roles(WORKSPACE) if role.name == ROLE), None)
    role = role or client.create_role(
        WORKSPACE, ROLE, "Logs runs and registers versions, also of others' models."
    )
    granted = {permission.resource_type for permission in client.list_role_permissions(role.id)}
    for resource, permission in GRANTS.items():
        if resource not in granted:
            client.add_role_permission(role.id, resource, "*", permission)
    return int(role.id)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The arguments of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument(
        "--renew", action="store_true", help="the login is there: give it a new password"
    )
    return parser.parse_args(arguments)


def take_admin() -> str:
    """Fills in from the server's own settings who asks, and returns where."""
    admin = os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME") or "admin"
    os.environ.setdefault("MLFLOW_TRACKING_USERNAME", admin)
    os.environ.setdefault(
        "MLFLOW_TRACKING_PASSWORD", os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD", "")
    )
    return (
        os.environ.get("MLFLOW_TRACKING_URI")
        or f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT') or 5000}"
    )


def main() -> int:
    """Does one command line and returns its exit code."""
    given = parse(sys.argv[1:])
    uri = take_admin()
    warnings.filterwarnings("ignore", module="mlflow")  # of packages on their way out
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    client = AuthServiceClient(uri)
    try:
        password = renew_login(client, given.name) if given.renew else add_login(client, given.name)
    except MlflowException as error:
        there = error.error_code == "RESOURCE_ALREADY_EXISTS"
        reason = (
            "there is one; --renew gives it a new password"
            if there
            else str(error).splitlines()[0].rstrip(".")
        )
        print(f"Error: {given.name} got no login: {reason}.", file=sys.stderr)
        return 2
    print(f"MLFLOW_TRACKING_USERNAME={given.name}\nMLFLOW_TRACKING_PASSWORD={password}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
