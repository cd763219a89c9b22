"""What is read from elsewhere is never run: no pickles, no loader that would take one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("flows", "ingest", "models", "tokenize", "train")
FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(word.value) for word in call.keywords if word.arg == name), None)


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_of_others_are_data_only(folder):
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text(), str(path))
        imported = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & FORBIDDEN, path
        assert all(keyword(call, "weights_only") is True for call in calls(tree, "torch.load")), path
        assert not any(keyword(call, "allow_pickle") for call in calls(tree, "np.load")), path
        assert not [call for name in ("eval", "exec", "os.system") for call in calls(tree, name)], path
        assert not any(keyword(call, "shell") for call in calls(tree, "subprocess.run")), path
