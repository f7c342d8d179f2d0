"""Start script of a team's MLflow server.

    python deploy/serve.py

Settings are environment variables with the names that MLflow, libpq and boto3 use;
`deploy/.env.example` lists the required ones. Requires only the extra `server`, which keeps the
container image small.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ADMIN, PASSWORD, KEY = (
    "MLFLOW_AUTH_ADMIN_USERNAME",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
)
STORE, ARTIFACTS = "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"
HOSTS, ORIGINS = "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"
REQUIRED = {  # required settings with their meaning
    PASSWORD: "password of the first login",
    KEY: "key that signs forms, the same on all servers of the team",
    STORE: "database for runs, versions and logins, such as "
    "postgresql+psycopg://mlflow@127.0.0.1/mlflow",
    ARTIFACTS: "storage of artifacts, such as s3://mlflow",
    HOSTS: "host names of the server, such as mlflow.example.org",
    ORIGINS: "URL of the server in a browser, such as https://mlflow.example.org",
}
MIN_PASSWORD_LENGTH, MIN_KEY_LENGTH = 12, 32
PUBLISHED_PASSWORDS = ("password1234",)  # MLflow's default before 3.17
# seconds to cache a login: its check by scrypt takes 0.1 s, several times per request
CACHE_S = 60

AUTH = """[mlflow]
default_permission = READ
database_uri = {database_uri}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = {cache_s}
"""


def find_mistakes(settings: Mapping[str, str]) -> list[str]:
    """Return a message for each setting that is missing, unsafe or invalid; [] if there is none.

    The messages contain no secrets.
    """
    mistakes = [
        f"{name} is not set: {meaning}."
        for name, meaning in REQUIRED.items()
        if not settings.get(name)
    ]
    password, key = settings.get(PASSWORD, ""), settings.get(KEY, "")
    if password in PUBLISHED_PASSWORDS:
        mistakes.append(
            f"{PASSWORD} is a published default. Generate another: openssl rand -base64 18"
        )
    elif password and len(password) < MIN_PASSWORD_LENGTH:
        mistakes.append(
            f"{PASSWORD} has fewer than {MIN_PASSWORD_LENGTH} characters. Generate one: "
            "openssl rand -base64 18"
        )
    if key and len(key) < MIN_KEY_LENGTH:
        mistakes.append(
            f"{KEY} has fewer than {MIN_KEY_LENGTH} characters. Generate one: openssl rand -hex 32"
        )
    if settings.get(STORE) and not settings[STORE].startswith("postgresql"):
        mistakes.append(f"{STORE} is not a PostgreSQL database, which concurrent writers require.")
    for name in (HOSTS, ORIGINS):
        if "*" in settings.get(name, "").replace(" ", "").split(","):
            mistakes.append(
                f"{name} contains '*', which allows any web page. List the allowed names."
            )
    return mistakes


def write_auth_config(settings: Mapping[str, str]) -> Path:
    """Write MLflow's login configuration to a file that only this user can read; return its path.

    The file is `server/auth.ini` in the folder EYEVSAI_STATE, and is replaced atomically.
    """
    folder = Path(settings.get("EYEVSAI_STATE") or "~/.local/state/eyevsai").expanduser() / "server"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    text = AUTH.format(
        database_uri=settings[STORE].replace("%", "%%"),  # configparser interpolates %
        admin=settings.get(ADMIN) or "admin",
        cache_s=CACHE_S,
    )
    path = folder / "auth.ini"
    new = path.with_suffix(f".{os.getpid()}")
    with open(
        os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as stream:
        stream.write(text)
    return new.replace(path)


def make_command() -> list[str]:
    """Return the command of the server.

    It contains no secrets: MLflow reads the other settings from the environment.
    """
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--app-name",
        "basic-auth",
        "--serve-artifacts",
        "--default-artifact-root",
        "mlflow-artifacts:/",
    ]


def make_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the server; write the login configuration that it refers to."""
    return {
        **settings,
        "MLFLOW_AUTH_CONFIG_PATH": str(write_auth_config(settings)),
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        # jobs serve language models, which this server does not host
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def main() -> int:
    """Replace this process by the server; if settings are invalid, print them and return 2."""
    if mistakes := find_mistakes(os.environ):
        print(
            "The server does not start:",
            *mistakes,
            "See deploy/README.md.",
            sep="\n  ",
            file=sys.stderr,
        )
        return 2
    command = make_command()
    os.execve(command[0], command, make_environment(os.environ))


if __name__ == "__main__":
    sys.exit(main())
