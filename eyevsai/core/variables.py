"""Environment variables that eyevsai reads or sets, or that its libraries need for it.

`docs/environment.md` is generated from this table; a test compares it with the code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """An environment variable with its effect."""

    name: str
    effect: str


@dataclass(frozen=True)
class Topic:
    """Variables of one purpose, with a sentence on their readers."""

    title: str
    about: str
    variables: tuple[Variable, ...]


FOLDERS = Topic(
    "Folders and downloads",
    "Settings of eyevsai: the option wins over `--config`, which wins over the variable.",
    (
        Variable("EYEVSAI_DATA", "Folder of the datasets, one subfolder for each."),
        Variable("EYEVSAI_STATE", "Folder for run state, checkpoints and unsynced writes."),
        Variable("EYEVSAI_CACHE", "Folder for decoded pixels, features and copies of models."),
        Variable("EYEVSAI_MIRROR", "URL of a mirror from which `data download` takes archives."),
        Variable("KAGGLE_API_TOKEN", "Login for datasets of Kaggle; kagglehub reads it."),
    ),
)
STORE = Topic(
    "Tracking store",
    "Variables of MLflow, and of the storage behind it. The processes that eyevsai starts inherit "
    "them; on a Ray cluster, those that begin with `MLFLOW_`, `EYEVSAI_`, `AWS_` or `PG`.",
    (
        Variable("MLFLOW_TRACKING_URI", "Database or server; `sqlite:///mlflow.db` by default."),
        Variable("MLFLOW_TRACKING_USERNAME", "Login of the tracking server."),
        Variable("MLFLOW_TRACKING_PASSWORD", "Password of the login."),
        Variable(
            "MLFLOW_EXPERIMENT_NAME",
            "Experiment of new runs, by default that of the dataset; `--experiment` replaces it.",
        ),
        Variable(
            "MLFLOW_EXPERIMENT_ID",
            "The same by id. It wins over the name; `mlflow run` sets it, and `--experiment` "
            "replaces it.",
        ),
        Variable("MLFLOW_RUN_ID", "Run that `mlflow run` created for this call; set by MLflow."),
        Variable(
            "__pyfunc_model_path__",
            "Set by MLflow's scoring server: a served model then refuses paths of images.",
        ),
        Variable("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "Retries of a request; eyevsai sets 1."),
        Variable("MLFLOW_HTTP_REQUEST_TIMEOUT", "Seconds per request; eyevsai sets 30."),
        Variable("MLFLOW_LOGGING_LEVEL", "Level of MLflow's messages; eyevsai sets WARNING."),
        Variable(
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
            "Print no links to runs; eyevsai sets true.",
        ),
        Variable(
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
            "Show the progress of artifacts; eyevsai sets false.",
        ),
        Variable(
            "MLFLOW_DISABLE_TELEMETRY",
            "Send no usage data to MLflow's developers; eyevsai and `serve.py` set true: "
            "[what MLflow sends](runs.md#what-mlflow-sends).",
        ),
        Variable("AWS_ACCESS_KEY_ID", "Login for artifacts in S3; boto3 reads it."),
        Variable("AWS_SECRET_ACCESS_KEY", "Secret of that login."),
        Variable("AWS_DEFAULT_REGION", "Region of the storage."),
        Variable("AWS_ENDPOINT_URL", "URL of a storage that is compatible with S3."),
        Variable("PGPASSWORD", "Password of a PostgreSQL store; libpq reads it."),
    ),
)
COMPUTE = Topic(
    "Processors and processes",
    "Variables of PyTorch, torchrun and the operating system.",
    (
        Variable("OMP_NUM_THREADS", "CPU threads of a process; `--threads` replaces it."),
        Variable("CUDA_VISIBLE_DEVICES", "GPUs that PyTorch can use, such as `0,1`."),
        Variable("MALLOC_TRIM_THRESHOLD_", "If it is set, eyevsai leaves glibc's memory alone."),
        Variable("RANK", "Rank of this process; this and the next five are set by torchrun."),
        Variable("WORLD_SIZE", "Number of processes of the run."),
        Variable("LOCAL_RANK", "Rank among the processes of this machine."),
        Variable("LOCAL_WORLD_SIZE", "Number of processes on this machine."),
        Variable("MASTER_ADDR", "Host of rank 0."),
        Variable("MASTER_PORT", "Port of rank 0."),
        Variable("TORCHELASTIC_USE_AGENT_STORE", "Set by torchrun if it hosts the store."),
        Variable("TORCHELASTIC_RESTART_COUNT", "Number of restarts; set by torchrun."),
        Variable(
            "GLOO_SOCKET_IFNAME",
            "Network of the ranks; on one machine, the loopback (`lo`, `lo0`) is set.",
        ),
        Variable("EYEVSAI_LAUNCHER", "Process that started this rank; set by rank 0."),
        Variable("RAY_USAGE_STATS_ENABLED", "Usage statistics of Ray; eyevsai sets 0."),
        Variable(
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
            "Set for Ray's HTTP proxies, which then answer 503 in place of a lost replica.",
        ),
        Variable("TF_CPP_MIN_LOG_LEVEL", "Messages of TensorFlow; eyevsai sets 3, errors only."),
    ),
)
TERMINAL = Topic(
    "Terminal and shell",
    "They change what is shown, not what is computed.",
    (
        Variable("NO_COLOR", "Print help, tables and bars without colors."),
        Variable("TERM", "If it is dumb, log lines replace bars and live tables."),
        Variable("CI", "If it is set, and not 0 or false, log lines replace them, too."),
        Variable("EYEVSAI_VERBOSITY", "Set by `--quiet` and `--verbose` for child processes."),
        Variable("PYTHONIOENCODING", "Set to utf-8 for jobs of the executor `local`."),
        Variable("PYTHONUTF8", "If it is 1, Python on Windows writes UTF-8 to files and pipes."),
        Variable("BROWSER", "Browser of `eyevsai ui`, which opens one if a display exists."),
        Variable("DISPLAY", "Display of X; see `BROWSER`."),
        Variable("WAYLAND_DISPLAY", "Display of Wayland; see `BROWSER`."),
        Variable("PYTHONPATH", "An entry point of MLproject adds the folder of the project."),
        Variable("_EYEVSAI_COMPLETE", "Set by the completion of the shell, with the next two."),
        Variable("_TYPER_COMPLETE_ARGS", "Command line that the shell completes."),
        Variable("COMP_WORDS", "The same in bash."),
    ),
)
SERVING = Topic(
    "Serving and monitoring",
    "Settings of `eyevsai serve` and of the commands that read its log: the option wins over the "
    "variable. Secrets have no options.",
    (
        Variable("EYEVSAI_TOKEN_FILE", "File of the tokens of `eyevsai serve`."),
        Variable("EYEVSAI_TOKENS", "The tokens themselves: `SCOPES TOKEN`, separated by `;`."),
        Variable("EYEVSAI_TOKEN", "Token that `eyevsai.Client` sends."),
        Variable("EYEVSAI_LOG", "URL of the inference log; `off` for none."),
        Variable("EYEVSAI_LOG_SECRET", "Secret of the ids of answers and of the hashes of keys."),
        Variable("EYEVSAI_LOG_SECRET_FILE", "File with that secret."),
        Variable("EYEVSAI_WEBHOOK", "URL to which `monitor live` and `watch` send alerts."),
        Variable("EYEVSAI_WEBHOOK_SECRET", "Secret with which alerts are signed."),
        Variable("EYEVSAI_WEBHOOK_SECRET_FILE", "File with that secret."),
    ),
)
SERVER = Topic(
    "Team server",
    "Read by `deploy/serve.py` and `deploy/member.py`, or by the MLflow that they start.",
    (
        Variable("TEAM_HOST", "Host name of the server, in `deploy/.env`."),
        Variable("MLFLOW_AUTH_ADMIN_USERNAME", "First login; `admin` by default."),
        Variable("MLFLOW_AUTH_ADMIN_PASSWORD", "Its password, of at least 12 characters."),
        Variable("MLFLOW_FLASK_SERVER_SECRET_KEY", "Key that signs forms, 32 characters or more."),
        Variable("MLFLOW_BACKEND_STORE_URI", "PostgreSQL database; also set by `eyevsai ui`."),
        Variable("MLFLOW_ARTIFACTS_DESTINATION", "Storage of artifacts, such as `s3://mlflow`."),
        Variable("MLFLOW_SERVER_ALLOWED_HOSTS", "Host names of the server."),
        Variable("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "URL of the server in a browser."),
        Variable("MLFLOW_HOST", "Address on which MLflow listens."),
        Variable("MLFLOW_PORT", "Port of the server; 5000 by default."),
        Variable("MLFLOW_AUTH_CONFIG_PATH", "Set by `serve.py`: the file of the login settings."),
        Variable("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "Set to false by `serve.py`."),
        Variable("MLFLOW_BASIC_AUTH_FAIL_CLOSED", "Set to true by `serve.py`."),
        Variable(
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
            "Set to false by `serve.py`, and by `eyevsai ui` unless it is set.",
        ),
    ),
)
TOPICS = (FOLDERS, STORE, COMPUTE, TERMINAL, SERVING, SERVER)


def render_page() -> str:
    """Return the text of docs/environment.md below its first line."""
    lines = [
        "# Environment variables",
        "",
        "Only the team server requires variables.",
    ]
    for topic in TOPICS:
        lines += [
            "",
            f"## {topic.title}",
            "",
            topic.about,
            "",
            "| variable | effect |",
            "|---|---|",
        ]
        lines += [f"| `{each.name}` | {each.effect} |" for each in topic.variables]
    return "\n".join(lines) + "\n"
