"""The shape of the package: who imports whom, how long things get, what start-up costs."""

import ast
import resource
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import clipguard

PACKAGE = Path(clipguard.__file__).parent
LAYERS = [  # DESIGN: a module imports only from its own row or from a lower one
    {"types", "record", "errors", "gpu", "pixels", "stats", "resources", "text_safety"},
    {
        "architectures",
        "artefacts",
        "artwork",
        "calibration",
        "checkpoint",
        "descent",
        "describe",
        "effnet",
        "gate_evidence",
        "gate_line",
        "gate_release",
        "heads",
        "inspection",
        "measure",
        "methods",
        "model",
        "model_config",
        "nano",
        "onnx_runtime",
        "options",
        "outputs",
        "pickle_scan",
        "policy",
        "poisoning",
        "power",
        "policy_file",
        "probe",
        "profiles",
        "prompts",
        "reference",
        "report_folder",
        "safetensors_header",
        "schema",
        "strict_yaml",
        "suspicion",
        "watch",
        "wording",
    },
    {
        "attacks",
        "detectors",
        "exporters",
        "families",
        "inverters",
        "negatives",
        "purifiers",
        "renderers",
    },
    {"audit", "calibrate", "lab", "repair", "run"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
METHOD_FOLDERS = LAYERS[2]
MAX_FILE = 300
MAX_FUNCTION = 60
# Declarations with their documentation and no logic; one place to look a word up beats two.
VOCABULARY = {"record.py": 510, "types.py": 400}
TORCH_FREE = {
    "gate_evidence",
    "gate_line",
    "gate_release",
    "inspection",
    "pickle_scan",
    "policy",
    "policy_file",
    "record",
    "renderers",
    "safetensors_header",
    "schema",
    "strict_yaml",
    "wording",
}
HEAVY = {"jinja2", "numpy", "onnx", "onnxruntime", "pydantic", "torch"}

FILES = {
    ".".join(("clipguard", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> set[str]:
    """Modules of clipguard that `tree` imports, anywhere in it, for types only included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else str(node.module))
    return names & MODULES.keys()


def complaints(importer: str, imported: str) -> list[str]:
    """What is wrong with module `importer` using module `imported`; dotted names."""
    (part, *_), (other, *other_inner) = importer.split(".")[1:], imported.split(".")[1:]
    wrong = []
    # A module without a row is reported once, as itself, not by everything that imports it.
    if RANK.get(other, 0) > RANK[part]:
        wrong.append(f"{importer} must not import {imported}: it stands in a higher row")
    if part in METHOD_FOLDERS and other in METHOD_FOLDERS:
        if other != part:
            wrong.append(f"{importer} must not import {imported}: method folders are siblings")
        elif other_inner and not other_inner[0].startswith("_"):
            wrong.append(f"{importer} must not import {imported}: no method imports another")
    return wrong


SMALL = {name: path for name, path in MODULES.items() if name != "clipguard"}


@pytest.mark.parametrize("name", SMALL)
def test_a_module_has_a_row_and_imports_only_from_its_own_or_a_lower_one(name: str):
    assert name.split(".")[1] in RANK, f"give {name} a row in LAYERS, and in DESIGN"
    used = sorted(imports(parse(SMALL[name])) - {"clipguard", name})
    assert [text for other in used for text in complaints(name, other)] == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("clipguard.audit", "clipguard.types", True),
        ("clipguard.probe", "clipguard.artwork", True),
        ("clipguard.probe", "clipguard.audit", False),
        ("clipguard.stats", "clipguard.probe", False),
        ("clipguard.lab.plant", "clipguard.cli.show", False),
        ("clipguard.attacks.badnets", "clipguard.attacks._place", True),
        ("clipguard.attacks.badnets", "clipguard.attacks.blended", False),
        ("clipguard.attacks.badnets", "clipguard.families.patch", False),
        ("clipguard.cli.scan", "clipguard.cli.show", True),
    ],
)
def test_the_rules_of_the_layers_catch_what_they_should(
    importer: str, imported: str, allowed: bool
):
    assert (complaints(importer, imported) == []) is allowed


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import clipguard.stats", {"clipguard.stats"}),
        ("from clipguard import stats", {"clipguard.stats"}),
        ("from clipguard.stats import wilson", {"clipguard.stats"}),
        ("def f():\n    from clipguard.cli.app import main", {"clipguard.cli.app"}),
        ("import torch", set()),
    ],
)
def test_an_import_is_seen_in_every_form(source: str, found: set[str]):
    assert imports(ast.parse(source)) == found


def test_no_module_imports_itself_through_others():
    graph = {name: imports(parse(path)) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_and_its_functions_stay_short(name: str):
    path = FILES[name]
    lines = len(path.read_text(encoding="utf-8").splitlines())
    allowed = VOCABULARY.get(str(path.relative_to(PACKAGE)), MAX_FILE)
    assert lines <= allowed, f"{lines} lines, split it"
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines, split it"


@pytest.mark.parametrize("name", VOCABULARY)
def test_only_declarations_may_fill_a_long_file(name: str):
    logic = (ast.For, ast.While, ast.If, ast.Try, ast.With, ast.comprehension)
    lines = [n.lineno for n in ast.walk(parse(PACKAGE / name)) if isinstance(n, logic)]
    assert len(lines) <= 3, f"logic in a vocabulary file, at lines {lines}"


METHODS = [
    name
    for name in SMALL
    if len(name.split(".")) == 3
    and name.split(".")[1] in METHOD_FOLDERS
    and not name.split(".")[2].startswith("_")
]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_module_names_its_method_and_the_role_it_plays(name: str):
    roles = [
        ast.unparse(node.annotation)
        for node in parse(SMALL[name]).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "METHOD"
    ]
    assert len(roles) == 1, f"{name} must end with METHOD: type[Role] = ItsClass"
    assert roles[0].startswith("type["), f"METHOD of {name} must be typed, got {roles[0]}"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_building_the_command_line_imports_nothing_heavy():
    code = "import sys, clipguard.cli.app as app; app.build(); print(*sys.modules, sep='\\n')"
    loaded = {name.split(".")[0] for name in python(code).splitlines()}
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_help_takes_less_than_a_second_of_processor_time():
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    done = subprocess.run(
        [sys.executable, "-m", "clipguard", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert spent() - before < 1.0


def test_deciding_and_rendering_work_where_torch_is_not_installed():
    wanted = [name for name in SMALL if name.split(".")[1] in TORCH_FREE]
    lines = "\n".join(f"import {name}" for name in wanted)
    python(f"import sys\nsys.modules['torch'] = None\n{lines}")
