#!/bin/bash
# An MLflow server whose database lies on this machine's own disk, and whose copy lies on the shared folder.
#
#   bash mlflow-server.sh LOCAL_FOLDER SHARED_FOLDER [PORT]
#
# A database on a network file system (NFS, EFS, Lustre) ends damaged sooner or later, so it is kept in LOCAL_FOLDER,
# copied to SHARED_FOLDER every ten minutes and at the end, and taken from there if LOCAL_FOLDER is new. Trials' files go
# to SHARED_FOLDER/artifacts through the server. Ends with SIGTERM.
set -euo pipefail
local=${1:?the folder on a local disk} shared=${2:?the folder that all nodes share} port=${3:-5000}
mkdir -p "$local" "$shared/artifacts"
if [ ! -e "$local/mlflow.db" ] && [ -e "$shared/mlflow.db" ]; then
    cp "$shared/mlflow.db" "$local/mlflow.db"
fi
keep() { # SQLite's own copy, whole though the server writes; put in place by rename
    [ -e "$local/mlflow.db" ] || return 0
    python - "$local/mlflow.db" "$shared/.mlflow.part" <<'PY' && mv "$shared/.mlflow.part" "$shared/mlflow.db"
import sqlite3, sys

source, copy = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(copy)
PY
}
copy() { keep || echo "$(date): the copy to $shared failed; it is tried again in ten minutes" >&2; }
# MLflow answers only to names it was told of: this machine's, its addresses, localhost.
hosts="localhost:$port,127.0.0.1:$port,$(hostname):$port"
for address in $(hostname -I 2>/dev/null || hostname -i); do hosts="$hosts,$address:$port"; done
mlflow server --backend-store-uri "sqlite:///$local/mlflow.db" --serve-artifacts --artifacts-destination "$shared/artifacts" \
    --host 0.0.0.0 --port "$port" --allowed-hosts "$hosts" --workers 1 &
server=$!
trap 'kill -TERM $server; wait $server || true; copy; exit 0' TERM INT
while kill -0 $server 2>/dev/null; do
    sleep "${COPY_EVERY:-600}" &
    wait $! || true
    copy
done
wait $server
