#!/bin/sh
# Secrets come as files: NAME_FILE=/run/secrets/x puts that file's text into NAME, for this process and its children only.
set -eu
for name in PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING PREFECT_SERVER_DATABASE_PASSWORD \
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY TRIFORCE_WEBHOOK_URL; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        export "$name=$(cat "$file")"
        unset "${name}_FILE"
    fi
done
exec "$@"
