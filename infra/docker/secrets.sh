#!/usr/bin/env bash
# Makes infra/docker/secrets/ with random secrets; what is there stays. Put the webhook's address into secrets/webhook.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
# Mounted as they are, and read by user 10001 in the containers: the folder keeps the host's other users out.
random() { [ -s "secrets/$1" ] || printf '%s%s' "${2:-}" "$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')" >"secrets/$1"; }
random postgres-password
random prefect-auth triforce:
random ray-token
random store-key
random store-secret
[ -e secrets/webhook ] || : >secrets/webhook
cat >secrets/store-config <<EOF
{"identities": [{"name": "triforce", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$(cat secrets/store-key)", "secretKey": "$(cat secrets/store-secret)"}]}]}
EOF
chmod 644 secrets/*
echo "secrets are in $PWD/secrets"
