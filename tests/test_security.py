"""The source has no way to run what a file holds. docs/security.md."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = ("marval_ray", "actors", "jobs", "bench")
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""Calls that are safe with this argument only."""
FORBIDDEN = {
    "eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "yaml.load", "os.system",
    "joblib.load", "torch.jit.load", "marshal.loads", "shelve.open",
}  # fmt: skip
FORBIDDEN_ARGUMENTS = {"trust_remote_code", "shell"}
"""Unless they are False."""


def unsafe(source: str) -> list[str]:
    """Calls in `source` that may run what they read."""
    return [f"{node.lineno}: {name}" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) for name in complaints(node)]


def complaints(call: ast.Call) -> list[str]:
    name, given = ast.unparse(call.func), {keyword.arg: keyword.value for keyword in call.keywords}
    wrong = [name] if name in FORBIDDEN else []
    if name in NEEDED:
        argument, value = NEEDED[name]
        wrong += [name] if not has(given.get(argument), value) else []
    return wrong + [argument for argument in FORBIDDEN_ARGUMENTS & given.keys() if not has(given[argument], False)]


def has(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_nothing_loads_unsafely():
    files = [file for layer in LAYERS for file in sorted((ROOT / layer).rglob("*.py"))]
    assert len(files) > 60
    wrong = {str(file.relative_to(ROOT)): unsafe(file.read_text(encoding="utf-8")) for file in files}
    assert not {file: calls for file, calls in wrong.items() if calls}


def test_unsafe_calls_would_be_seen():
    for line in (
        "torch.load(p)", "torch.load(p, weights_only=False)", "torch.load(p, weights_only=flag)", "np.load(p)", "pickle.loads(b)",
        "eval(t)", "AutoModel.from_pretrained(n, trust_remote_code=True)", "subprocess.run(c, shell=True)", "yaml.load(t)",
    ):  # fmt: skip
        assert unsafe(f"def f():\n    return {line}"), line
    for line in ("torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "subprocess.run(c, shell=False)", "model.eval()"):
        assert not unsafe(line), line
