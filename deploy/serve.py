"""Starts a team's MLflow server: the one place where its command stands.

    python deploy/serve.py

Settings come from the environment, under MLflow's, libpq's and boto3's own names;
`deploy/.env.example` lists those that have to be given. Needs nothing but the extra `server`, so
that an image for it stays small.
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
WHAT = {
    PASSWORD: "the password of the first login",
    KEY: "a key for forms, the same in all servers of the team",
    STORE: "where runs, versions and logins are kept, such as "
    "postgresql+psycopg://mlflow@127.0.0.1/mlflow",
    ARTIFACTS: "where files are kept, such as s3://mlflow",
    HOSTS: "the names under which the server is called, such as mlflow.example.org",
    ORIGINS: "the address in a browser, such as https://mlflow.example.org",
}
MIN_PASSWORD_LENGTH, MIN_KEY_LENGTH = 12, 32
PUBLISHED_PASSWORDS = ("password1234",)  # MLflow's default before 3.17
CACHE_S = 60  # a login is checked by scrypt, which takes 0.1 s, several times a request

AUTH = """[mlflow]
default_permission = READ
database_uri = {database_uri}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = {cache_s}
"""


def find_mistakes(settings: Mapping[str, str]) -> list[str]:
    """What would make the server unsafe or unusable, each with what to do; secrets are not
    repeated.
    """
    mistakes = [
        f"{name} is not set: {what}." for name, what in WHAT.items() if not settings.get(name)
    ]
    password, key = settings.get(PASSWORD, ""), settings.get(KEY, "")
    if password in PUBLISHED_PASSWORDS:
        mistakes.append(
            f"{PASSWORD} is a default that everybody knows. Take: openssl rand -base64 18"
        )
    elif password and len(password) < MIN_PASSWORD_LENGTH:
        mistakes.append(
            f"{PASSWORD} has fewer than {MIN_PASSWORD_LENGTH} characters. Take: openssl rand "
            "-base64 18"
        )
    if key and len(key) < MIN_KEY_LENGTH:
        mistakes.append(
            f"{KEY} has fewer than {MIN_KEY_LENGTH} characters. Take: openssl rand -hex 32"
        )
    if settings.get(STORE) and not settings[STORE].startswith("postgresql"):
        mistakes.append(f"{STORE} names no PostgreSQL, which several writers at once need.")
    for name in (HOSTS, ORIGINS):
        if "*" in settings.get(name, "").replace(" ", "").split(","):
            mistakes.append(
                f"{name} is '*', which lets any web page in. Name those that are meant."
            )
    return mistakes


def write_auth_config(settings: Mapping[str, str]) -> Path:
    """Writes what MLflow's login needs into a file that only this user can read, and returns its
    path.
    """
    folder = Path(settings.get("EYEVSAI_STATE") or "~/.local/state/eyevsai").expanduser() / "server"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    text = AUTH.format(
        database_uri=settings[STORE].replace("%", "%%"),  # which configparser would interpolate
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
    """The server's command. It holds no secret: MLflow reads what is missing here from the
    environment.
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
    """What the server finds around it."""
    return {
        **settings,
        "MLFLOW_AUTH_CONFIG_PATH": str(write_auth_config(settings)),
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        # for language models, which are not kept here
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def main() -> int:
    """Becomes the server, or returns 2 after saying what is wrong."""
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
