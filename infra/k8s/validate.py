"""Check the Kubernetes manifests against the published schemas.

    pip install 'triforce[infra]'
    kubectl kustomize infra/k8s/base > rendered.yaml
    python infra/k8s/validate.py rendered.yaml infra/k8s/ray-job.yaml --crds <folder of KubeRay's config/crd/bases>

KubeRay's definitions are in its Go module, github.com/ray-project/kuberay/ray-operator: ``go mod download`` fetches it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.31"


def crd_schemas(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The schema of each kind in a folder of custom resource definitions, unknown fields forbidden."""
    schemas = {}
    for file in sorted(folder.glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = _closed(version["schema"]["openAPIV3Schema"])
            schemas[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return schemas


def _closed(schema: Any) -> Any:
    """The server drops or refuses fields that a schema does not name; a validator must be told so."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _closed(value) for name, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema and isinstance(schema["properties"], dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return schema


def check(document: dict[str, Any], schemas: dict[tuple[str, str], dict[str, Any]]) -> str:
    """What the document was held against; raises where it does not fit."""
    key = (document["apiVersion"], document["kind"])
    if key in schemas:
        document = document | {"metadata": {}}  # its schema is the server's own
        jsonschema.validate(document, schemas[key] | {"additionalProperties": True})
        return "KubeRay"
    if ".k8s.io" not in key[0] and "/" in key[0] and key[0] != "apps/v1":
        return "no schema"
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    return f"Kubernetes {KUBERNETES}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--crds", type=Path, help="folder with KubeRay's custom resource definitions")
    arguments = parser.parse_args()
    schemas = crd_schemas(arguments.crds) if arguments.crds else {}
    faults = 0
    for file in arguments.files:
        for document in filter(None, yaml.safe_load_all(file.read_text())):
            name = f"{document['kind']} {document['metadata'].get('name') or document['metadata'].get('generateName')}"
            try:
                print(f"{name}: {check(document, schemas)}")
            except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
                faults += 1
                print(f"{name}: {'.'.join(map(str, error.path))}: {error.message[:300]}", file=sys.stderr)
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
