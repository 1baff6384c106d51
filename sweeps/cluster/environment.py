"""Settings that Ray and MLflow read from the environment when they are imported; what a user has set there stays."""

import os

DEFAULTS = {
    "AIR_VERBOSITY": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every run that ends
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we try again, knowing what was said; MLflow would make a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state is never read: what is left to do is read off MLflow
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # waiting for a slot inside Tune; the others wait with us, in order
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "60",
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
