"""Create a login on the team's server, and print its password once.

    python deploy/member.py ada            create a login
    python deploy/member.py ada --renew    set a new password for an existing login

Requires an admin's credentials: MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD, or, on the server itself, the settings that it was started with. Requires
the extra `server`.
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
GRANTS = {  # apply to all objects: runs and models belong to the team, not to a member
    "experiment": "EDIT",
    "run": "MANAGE",  # eyevsai deletes the empty run that `mlflow run` creates for a resume
    "registered_model": "MANAGE",  # MLflow treats the removal of an alias as a deletion
    "registered_model_version": "EDIT",  # only an admin may delete models and versions
}


def add_login(client: AuthServiceClient, name: str) -> str:
    """Create a login that may log runs and register versions, and return its password."""
    password = secrets.token_urlsafe(18)
    client.create_user(name, password)
    client.assign_role(name, find_role(client))
    return password


def renew_login(client: AuthServiceClient, name: str) -> str:
    """Set a new random password for a login, and return it."""
    password = secrets.token_urlsafe(18)
    # MLflow requires the current password if a login changes its own
    is_self = name == os.environ["MLFLOW_TRACKING_USERNAME"]
    client.update_user_password(
        name, password, os.environ["MLFLOW_TRACKING_PASSWORD"] if is_self else None
    )
    return password


def find_role(client: AuthServiceClient) -> int:
    """Return the id of the members' role; create the role and its permissions if missing."""
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
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument(
        "--renew", action="store_true", help="set a new password for an existing login"
    )
    return parser.parse_args(arguments)


def use_admin_credentials() -> str:
    """Set missing admin credentials from the server's own settings, and return the server's URI."""
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
    """Run the command line, and return its exit code: 2 if the server refuses."""
    arguments = parse(sys.argv[1:])
    uri = use_admin_credentials()
    warnings.filterwarnings("ignore", module="mlflow")  # deprecation warnings
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    client = AuthServiceClient(uri)
    try:
        change = renew_login if arguments.renew else add_login
        password = change(client, arguments.name)
    except MlflowException as error:
        exists = error.error_code == "RESOURCE_ALREADY_EXISTS"
        reason = (
            "it exists already. Set a new password with --renew"
            if exists
            else str(error).splitlines()[0].rstrip(".")
        )
        action = "change" if arguments.renew else "create"
        print(f"Error: Cannot {action} login {arguments.name}: {reason}.", file=sys.stderr)
        return 2
    print(f"MLFLOW_TRACKING_USERNAME={arguments.name}\nMLFLOW_TRACKING_PASSWORD={password}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
